"""`embank reembed`, and what other commands say of one that is under way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from embank import reembedding
from embank.cli.reembed import ReembedProgress
from embank.embed.files.catalog import MINILM
from embank.embed.files.locate import find_files

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def models_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def minilm(filled: Path, models_directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model besides the one that the notes were indexed with."""
    if find_files(MINILM, directory=filled) is None:
        pytest.skip("the files of minilm are not installed")
    monkeypatch.setenv("EMBANK_EMBED__DIRECTORY", str(models_directory))
    return "minilm"


@pytest.fixture
def interrupted(run: Run, minilm: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    """A re-embedding that Ctrl-C stopped after the first document."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(reembedding, "WINDOW_DOCUMENTS", 1)
        patched.setattr(ReembedProgress, "update_reembedding", stop)
        return run("reembed", "default", "--model", minilm)


def model_of(run: Run) -> str:
    said: dict[str, Any] = json.loads(run("stats", "--json").stdout)
    return str(said["collections"][0]["fingerprint"])


def test_another_model_and_back(run: Run, minilm: str) -> None:
    result = run("reembed", "default", "--model", minilm)
    assert result.exit_code == 0, result.output
    assert "embedded 3 documents as 3 passages" in result.stdout
    assert "default now has vectors of minilm:" in result.stdout
    assert "in place of" in result.stdout
    assert model_of(run).startswith("minilm:")
    hits = json.loads(run("search", "why does dough grow", "-k", 1, "--mode", "dense", "--json").stdout)["hits"]
    assert hits[0]["id"] == "deep/bread.txt"
    assert "nothing to embed: 3 documents unchanged" in run("index", "notes").stdout
    back = run("reembed", "--model", "wordllama", "--json")
    assert back.exit_code == 0, back.output
    said = json.loads(back.stdout)
    assert (said["outcome"], said["documents"], said["embedded"], said["fraction"]) == ("swapped", 3, 3, 1.0)
    assert model_of(run) == said["fingerprint"]


def test_the_same_model_is_nothing_to_do(run: Run, filled: Path) -> None:
    assert filled.exists()
    result = run("reembed", "default", "--model", "wordllama")
    assert result.exit_code == 0
    assert "nothing to do: default has vectors of wordllama" in result.stdout
    forced = json.loads(run("reembed", "default", "--force", "--json").stdout)
    assert (forced["outcome"], forced["embedded"]) == ("swapped", 3)


def test_ctrl_c_says_how_to_go_on(run: Run, interrupted: Result) -> None:
    assert interrupted.exit_code == 130
    assert "interrupted: 33% (1 of 3 documents) embedded with" in interrupted.stderr
    assert "`embank reembed default` goes on, `embank reembed default --abandon` throws it away" in interrupted.stderr
    status = run("reembed", "default", "--status")
    assert status.exit_code == 0
    assert "default: 33% (1 of 3 documents) embedded with" in status.stdout
    state = json.loads(run("reembed", "--status", "--json").stdout)["reembedding"]
    assert (state["remaining"], state["documents"], state["space"]["dimension"]) == (2, 3, 384)
    assert "default is being re-embedded: 33%" in run("stats").stdout
    listed = json.loads(run("stats", "--json").stdout)["collections"][0]
    assert listed["reembedding"]["fraction"] == pytest.approx(1 / 3)
    assert "wordllama" in listed["fingerprint"]
    assert "deep/bread.txt" in run("search", "bread rises").stdout
    # The command without a model goes on with the one that was begun.
    said = json.loads(run("reembed", "default", "--json").stdout)
    assert (said["outcome"], said["resumed"], said["embedded"]) == ("swapped", 1, 2)
    assert said["fingerprint"] == state["space"]["fingerprint"]
    assert "no re-embedding of default is under way" in run("reembed", "default", "--status").stdout
    assert json.loads(run("stats", "--json").stdout)["collections"][0]["reembedding"] is None


def test_throwing_it_away(run: Run, interrupted: Result) -> None:
    assert interrupted.exit_code == 130
    refused = run("reembed", "default", "--model", "wordllama", "--json")
    assert (refused.exit_code, json.loads(refused.stdout)["error"]["kind"]) == (2, "FingerprintMismatch")
    thrown = run("reembed", "default", "--abandon")
    assert thrown.exit_code == 0
    assert "thrown away: 33% (1 of 3 documents) embedded with" in thrown.stdout
    assert "default keeps the vectors that it has" in thrown.stdout
    again = run("reembed", "default", "--abandon", "--json")
    assert json.loads(again.stdout) == {"collection": "default", "abandoned": None}
    assert "wordllama" in model_of(run)


def test_what_fails_in_the_middle_can_go_on(run: Run, minilm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from embank.embed.resident import ResidentModel
    from embank.errors import EmbeddingFailed

    embed = ResidentModel.embed
    calls: list[int] = []

    def fail(self: ResidentModel, texts: Any, kind: Any = "passage") -> Any:
        calls.append(len(texts))
        if len(calls) == 2:
            raise EmbeddingFailed("out of order")
        return embed(self, texts, kind)

    with monkeypatch.context() as patched:
        patched.setattr(reembedding, "WINDOW_DOCUMENTS", 1)
        patched.setattr(ResidentModel, "embed", fail)
        result = run("reembed", "default", "--model", minilm)
    assert result.exit_code == 7
    assert "out of order" in result.stderr
    assert "not finished: 33% (1 of 3 documents)" in result.stderr
    assert "searches use the old vectors; `embank reembed default` goes on" in result.stderr
    assert json.loads(run("reembed", "--json").stdout)["embedded"] == 2


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (["default"], 2, "InvalidInput"),
        (["nowhere", "--model", "wordllama"], 3, "CollectionNotFound"),
        (["nowhere", "--status"], 3, "CollectionNotFound"),
        (["default", "--model", "no-such-model"], 3, "ModelNotFound"),
        (["default", "--model", "wordllama", "--precision", "int7"], 2, "InvalidInput"),
        (["default", "--status", "--abandon"], 2, "InvalidInput"),
        (["default", "--status", "--force"], 2, "InvalidInput"),
        (["default", "--abandon", "--model", "wordllama"], 2, "InvalidInput"),
    ],
)
def test_refusals(run: Run, filled: Path, words: list[str], code: int, kind: str) -> None:
    assert filled.exists()
    result = run("reembed", *words, "--json")
    said = json.loads(result.stdout)["error"]
    assert (result.exit_code, said["kind"]) == (code, kind), said


def test_a_protected_collection_is_refused(run: Run, filled: Path) -> None:
    from embank.bank import open_bank

    with open_bank(filled) as bank:
        bank.collection("default").protect()
    result = run("reembed", "default", "--model", "wordllama", "--force")
    assert result.exit_code == 4
    assert "is protected" in result.stderr


def test_progress_counts_what_was_done_before() -> None:
    progress = ReembedProgress("re-embedding", lambda: None)  # type: ignore[arg-type, return-value]  # memory is not asked for here
    report = reembedding.ReembedReport("default", "a", "b", documents=100, resumed=50, remaining=25, embedded=25)
    report.seconds = 5.0
    progress.update_reembedding(report)
    assert (progress.fraction, progress.left_s) == (0.75, 5.0)
