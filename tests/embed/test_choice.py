"""`engine = "auto"`: what is tried, what is chosen, and when it is measured again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embank.embed import choice
from embank.embed.choice import CANDIDATES, Candidate, Choice, choose
from embank.embed.files.locate import Located, locate
from embank.embed.settings import Settings
from embank.embed.trial import probe_texts, sample_texts
from embank.errors import BudgetExceeded, ModelError

FAST = Candidate("fast", "int8")
EXACT = Candidate("exact", "float32")
ABSENT = Candidate("absent", "float32", {"no_such_module_at_all": "no-such-package"})
BROKEN = Candidate("broken", "float32")

RATES = {"fast": 400.0, "exact": 200.0}
GROWTH_BYTES = {"fast": 80_000_000, "exact": 160_000_000}


class Runner:
    """Answers as trials in children would, and counts them."""

    def __init__(self, *, problem_kind: str = "InvalidInput") -> None:
        self.tried: list[str] = []
        self.problem_kind = problem_kind

    def __call__(self, candidate: Candidate, vectors: Path, on_step: Callable[[float, str], None]) -> dict[str, Any]:
        self.tried.append(candidate.engine)
        if candidate is BROKEN:
            return {"problem": "this processor can't", "kind": self.problem_kind}
        on_step(0.5, "opening")
        exact = np.eye(4, dtype=np.float32)
        # Each at a small angle to the exact one.
        turned = exact + (0.1 * np.roll(exact, 1, axis=0) if candidate is FAST else 0)
        np.save(vectors, turned / np.linalg.norm(turned, axis=1, keepdims=True))
        rate, growth = RATES[candidate.engine], GROWTH_BYTES[candidate.engine]
        return {
            "done": True,
            "texts_per_s": {"256": 0.98 * rate, "512": rate, "1024": 0.9 * rate},
            "growth_bytes": {"256": growth, "512": growth + 1, "1024": growth + 2},
            "load_s": 0.1,
            "device": "cpu",
        }


@pytest.fixture
def folder(tmp_path: Path) -> Located:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    return Located("model", None, model)


def chosen(located: Located, runner: Runner, models: Path, **options: Any) -> Choice:
    quality = options.pop("quality", 0.985)
    candidates = options.pop("candidates", (EXACT, FAST, BROKEN, ABSENT))
    settings = Settings(quality=quality, threads=1)
    return choose(located, settings, models, candidates=candidates, run_trial=runner, **options)


def test_the_fastest_that_is_good_enough(folder: Located, tmp_path: Path) -> None:
    runner = Runner()
    found = chosen(folder, runner, tmp_path)
    assert (found.chosen.engine, found.chosen.precision, found.remembered) == ("fast", "int8", False)
    assert runner.tried == ["exact", "fast", "broken"]
    assert [trial.engine for trial in found.trials] == ["fast", "exact", "broken"]
    assert found.chosen.cosine == pytest.approx(1 / np.sqrt(1.01), abs=1e-6)


def test_of_batches_about_as_fast_the_smallest(folder: Located, tmp_path: Path) -> None:
    best = chosen(folder, Runner(), tmp_path).chosen
    assert (best.batch_tokens, best.texts_per_s, best.growth_bytes) == (256, 392.0, 80_000_000)


def test_a_higher_quality_is_another_choice_without_measuring_again(folder: Located, tmp_path: Path) -> None:
    runner = Runner()
    chosen(folder, runner, tmp_path)
    found = chosen(folder, runner, tmp_path, quality=0.9999)
    assert (found.chosen.engine, found.remembered) == ("exact", True)
    assert len(runner.tried) == 3
    verdicts = [found.verdict(trial, quality=0.9999, memory_bytes=None) for trial in found.trials]
    assert verdicts == ["below the quality asked for", "chosen", "this processor can't"]


def test_it_must_fit_the_memory_there_is(folder: Located, tmp_path: Path) -> None:
    slow_and_lean = {"fast": 300_000_000, "exact": 100_000_000}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.GROWTH_BYTES", slow_and_lean)
        found = chosen(folder, Runner(), tmp_path, memory_bytes=200_000_000)
    assert found.chosen.engine == "exact"
    assert found.verdict(found.trials[0], quality=0.9, memory_bytes=200_000_000) == "too large"
    with pytest.raises(BudgetExceeded, match=r"leanest engine needs 100\.0 MB"):
        chosen(folder, Runner(), tmp_path, memory_bytes=50_000_000)


def test_nothing_good_enough_names_the_best(folder: Located, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "read_reference", lambda _name: (["a"] * 4, np.eye(4, dtype=np.float32)))
    with pytest.raises(ModelError, match=r"the best is fast int8 with 0\.9950; lower embed\.quality"):
        chosen(folder, Runner(), tmp_path, candidates=(FAST,), quality=0.999)


def test_nothing_that_works_says_why(folder: Located, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="broken float32: this processor can't"):
        chosen(folder, Runner(), tmp_path, candidates=(BROKEN,))
    with pytest.raises(ModelError, match="none is installed"):
        chosen(folder, Runner(), tmp_path, candidates=(ABSENT,))


def test_changed_files_are_measured_again(folder: Located, tmp_path: Path) -> None:
    runner = Runner()
    chosen(folder, runner, tmp_path)
    assert folder.folder is not None
    (folder.folder / "model.safetensors").write_bytes(b"other weights")
    assert not chosen(folder, runner, tmp_path).remembered
    assert len(runner.tried) == 6


def test_asked_to_it_measures_again(folder: Located, tmp_path: Path) -> None:
    runner = Runner()
    chosen(folder, runner, tmp_path)
    assert not chosen(folder, runner, tmp_path, again=True).remembered


def test_a_failure_that_may_pass_is_not_remembered(folder: Located, tmp_path: Path) -> None:
    runner = Runner(problem_kind="ModelError")
    chosen(folder, runner, tmp_path)
    assert not chosen(folder, runner, tmp_path).remembered


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"x": [{"no": 1}]}', b"\xff"])
def test_a_damaged_memory_is_made_anew(folder: Located, tmp_path: Path, content: bytes) -> None:
    chosen(folder, Runner(), tmp_path)
    (tmp_path / choice.FILE).write_bytes(content)
    assert not chosen(folder, Runner(), tmp_path).remembered
    assert chosen(folder, Runner(), tmp_path).remembered


def test_memory_of_many_models_is_bounded(folder: Located, tmp_path: Path) -> None:
    assert folder.folder is not None
    for number in range(40):
        (folder.folder / "model.safetensors").write_bytes(b"w" * (number + 1))
        chosen(folder, Runner(), tmp_path)
    assert len(json.loads((tmp_path / choice.FILE).read_bytes())) == 32


def test_progress_is_told_and_ends(folder: Located, tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []
    chosen(folder, Runner(), tmp_path, on_step=lambda fraction, step: told.append((fraction, step)))
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert told[0] == (0.0, "trying exact float32")
    assert told[-1] == (1.0, "done")


def test_samples_are_short_and_long() -> None:
    lengths = [len(text.split()) for text in sample_texts()]
    assert len(lengths) == 100
    assert sum(length < 30 for length in lengths) == 80
    assert max(lengths) > 150
    assert sample_texts() == sample_texts()
    assert len(probe_texts()) >= 8


def test_the_real_engines_here(minilm_files: Path, models_directory: Path) -> None:
    """In children, as users have it: int8 of the leanest engine is good enough and faster than its float32."""
    ours = tuple(candidate for candidate in CANDIDATES if candidate.engine == "ct2")
    located = locate("minilm", directory=models_directory)
    found = choose(located, Settings(directory=models_directory), models_directory, candidates=ours)
    assert {trial.precision for trial in found.trials if not trial.problem} == {"int8", "float32"}
    for trial in found.trials:
        assert trial.cosine is not None
        assert trial.cosine > (0.985 if trial.precision == "int8" else 0.9999)
        assert trial.texts_per_s > 0
        assert trial.growth_bytes > 20_000_000
        assert trial.batch_tokens in (256, 384, 512, 1024, 2048)
    exact = choose(located, Settings(directory=models_directory, quality=0.9999), models_directory, candidates=ours)
    assert (exact.remembered, exact.chosen.precision) == (True, "float32")
