"""`embank search many`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Run = Callable[..., Result]


def test_each_question_is_answered_as_it_would_be_alone(run: Run, filled: Path) -> None:
    questions = ["why does dough grow", "what do rivers carry", "why does dough grow"]
    (filled.parent / "asked.txt").write_text("\n\n  ".join(questions) + "\n", encoding="utf-8")
    told = json.loads(run("search", "many", "asked.txt", "-k", "2", "--json").stdout)
    assert [each["query"] for each in told["answers"]] == questions
    for each in told["answers"]:
        alone = json.loads(run("search", each["query"], "-k", "2", "--json").stdout)["hits"]
        assert [hit["id"] for hit in each["hits"]] == [hit["id"] for hit in alone]
        assert [hit["score"] for hit in each["hits"]] == pytest.approx([hit["score"] for hit in alone], abs=1e-3)
    shown = run("search", "many", "-", "-k", "1", "--mode", "lexical", input="dough\nnowhere\n").stdout.splitlines()
    assert shown[0] == "dough"
    assert shown[2:] == ["nowhere", "  nothing found"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", None])
def test_what_holds_no_questions_is_refused(run: Run, filled: Path, content: bytes | None) -> None:
    if content is not None:
        (filled.parent / "asked.txt").write_bytes(content)
    assert run("search", "many", "asked.txt").exit_code == 2
