"""`embank models bench`, with trials that are given instead of measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

from embank.embed import choice
from embank.embed.choice import Choice, Trial

Run = Callable[..., Result]

FAST = Trial("ct2", "int8", texts_per_s=450.0, batch_tokens=384, growth_bytes=75_000_000, load_s=0.5, cosine=0.9965)
EXACT = Trial("ct2", "float32", texts_per_s=220.0, batch_tokens=256, growth_bytes=170_000_000, load_s=1.2, cosine=1.0)
ABSENT = Trial("openvino", "bfloat16", problem="this processor has no bfloat16")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options that each choice was asked with."""
    calls: list[dict[str, Any]] = []

    def given(*_: object, on_step: Callable[[float, str], None], **options: Any) -> Choice:
        calls.append(options)
        on_step(0.0, "trying ct2 int8")
        on_step(0.1, "trying ct2 int8: opening")
        on_step(1.0, "done")
        return Choice(FAST, (FAST, EXACT, ABSENT), remembered=not options["again"])

    monkeypatch.setattr(choice, "choose", given)
    return calls


def test_every_engine_is_shown_with_its_figures_and_its_verdict(run: Run, asked: list[dict[str, Any]]) -> None:
    result = run("models", "bench", "--memory", "512MB", "--set", "embed.quality=0.98")
    assert result.exit_code == 0
    fast, exact, absent = (next(line for line in result.stdout.splitlines() if word in line) for word in VERDICTS)
    assert fast.split() == ["ct2", "int8", "450", "0.9965", "75.0", "MB", "500", "ms", "384", "chosen"]
    assert exact.split()[-1] == "slower"
    assert "this processor has no bfloat16" in absent
    assert "least cosine 0.98, at most 512 MB; remembered" in result.stdout
    assert asked[0]["memory_bytes"] == 512_000_000
    assert result.stderr.splitlines() == ["  0%  trying ct2 int8", "100%  done"]


VERDICTS = ("chosen", "slower", "bfloat16")


def test_programs_get_all_of_it(run: Run, asked: list[dict[str, Any]]) -> None:
    result = run("models", "bench", "--again", "--json", "--memory", "100MB")
    said = json.loads(result.stdout)
    assert (said["model"], said["remembered"]) == ("wordllama", False)
    assert [row["verdict"] for row in said["engines"]] == ["chosen", "too large", "this processor has no bfloat16"]
    assert said["engines"][0]["texts_per_s"] == 450.0
    assert asked[0]["again"]
    assert result.stderr == ""


def test_an_unknown_model_is_named(run: Run) -> None:
    result = run("models", "bench", "minilmm")
    assert result.exit_code != 0
    assert "did you mean 'minilm'?" in result.stderr
