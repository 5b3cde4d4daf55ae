"""Re-embedding a real bank with real models, and being killed at it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

import embank
from embank.bank import Bank
from embank.embed.files.catalog import KNOWN
from embank.embed.files.locate import find_files
from embank.errors import FingerprintMismatch
from embank.events.kinds import TextsEmbedded

from .killing import until_killed
from .reembedder import MODELS, current, model, text

REEMBEDDER = Path(__file__).with_name("reembedder.py")
COUNT = 1_500
KILLS = 5

NOTES = {
    "backup": "A backup is restored with the restore command, from the newest copy.",
    "bread": "Bread rises because yeast makes gas from sugar.",
    "rivers": "Rivers carry silt and sand down to the sea.",
    "stars": "A star shines because hydrogen fuses in its core.",
    "long": "Glaciers grind stone. " + "The committee met again and wrote a further page of minutes. " * 60,
}
QUESTIONS = {
    "how do I get my files back?": "backup",
    "why does dough grow?": "bread",
    "what moves sediment to the ocean?": "rivers",
}


# --- real models ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("minilm", "wordllama"):
        if find_files(KNOWN[name], directory=Path("/nonexistent")) is None:
            pytest.skip(f"the files of {name} are not installed: {KNOWN[name].install}")
    return tmp_path_factory.mktemp("models")


def answers(bank: Bank) -> dict[str, str]:
    notes = bank.collection("notes")
    return {question: notes.search(question, mode="dense", k=1)[0].id for question in QUESTIONS}


def embedded(bank: Bank, act: Any) -> dict[str, int]:
    """How many passages each model embedded while `act` ran."""
    heard = bank.events.subscribe(None, kinds=(TextsEmbedded,))
    act()
    counts: dict[str, int] = {}
    for event in heard.drain():
        assert isinstance(event, TextsEmbedded)
        counts[event.model] = counts.get(event.model, 0) + event.texts
    return counts


def test_from_one_real_model_to_another_and_back(tmp_path: Path, models_directory: Path) -> None:
    path, flags = tmp_path / "bank", {"embed.directory": models_directory, "embed.threads": 2}
    documents = [{"id": name, "text": body, "metadata": {"name": name}} for name, body in NOTES.items()]
    with embank.open(path, flags=flags) as bank:  # the settings name minilm
        notes = bank.collection("notes")
        notes.add(documents)
        first = notes.stats()
        assert first is not None
        assert first.fingerprint is not None
        assert answers(bank) == QUESTIONS

        counts = embedded(bank, lambda: notes.reembed("wordllama"))
        second = notes.stats()
        assert second is not None
        assert (second.dimension, json.loads(second.model or "{}")["name"]) == (256, "wordllama")
        assert counts == {"wordllama": second.chunks}
        assert notes.search("why does bread rise", k=1)[0].id == "bread"
        assert embedded(bank, lambda: notes.add(documents)) == {}
        assert notes.reembed("wordllama").outcome == "nothing to do"

    with embank.open(path, flags=flags) as bank:  # the collection remembers its model
        assert bank.collection("notes").search("rivers carry sand", mode="dense", k=1)[0].id == "rivers"
        assert bank.collection("notes").add([{"id": "new", "text": "Deserts are dry."}]).added == 1
    with (
        embank.open(path, model="minilm", flags=flags) as bank,
        pytest.raises(FingerprintMismatch, match="embank reembed"),
    ):
        bank.collection("notes").search("rivers")

    with embank.open(
        path, model="minilm", flags=flags
    ) as bank:  # named for this process, which must not get in the way
        notes = bank.collection("notes")
        report = notes.reembed("minilm")
        assert (report.outcome, report.documents) == ("swapped", 6)
        third = notes.stats()
        assert third is not None
        assert (third.fingerprint, third.dimension, third.generation) == (first.fingerprint, 384, 2)
        assert third.chunks == first.chunks + 1
        assert answers(bank) == QUESTIONS
        precise = notes.reembed(precision="float32")
        assert precise.outcome == "swapped"
        assert "float32" in precise.fingerprint
        assert answers(bank) == QUESTIONS
    with embank.open(path, flags=flags) as bank:
        assert answers(bank) == QUESTIONS
        assert [row.act for row in bank.audit()] == ["reembed"] * 3


# --- kills ----------------------------------------------------------------------------------------------------------


class Witness:
    """What was acknowledged over all runs of the process that is killed."""

    def __init__(self) -> None:
        self.added: set[str] = set()
        self.committed: set[str] = set()
        self.swaps = 0
        self.halfway = 0

    def read(self, lines: list[Any]) -> None:
        """Take in what a run printed; nothing that was committed may be asked for again."""
        asked: set[str] = set()
        for line in lines:
            if line == "swapped":
                self.swaps += 1
                self.committed.clear()
                asked.clear()
            elif "asked" in line:
                again = self.committed & set(line["asked"])
                assert not again, f"embedded again though committed: {sorted(again)[:5]}"
                asked |= set(line["asked"])
            elif "committed" in line:
                self.committed |= asked
                asked.clear()
            else:
                self.added.add(line["added"])


def run(bank: Path, target: str, first: int, *, lines: int | None = None, more_s: float = 0) -> tuple[list[Any], bool]:
    """The lines that came out whole, and whether the run came to its end; killed a moment after so many lines."""
    return until_killed(REEMBEDDER, bank, target, first, lines=lines, more_s=more_s)


def check(path: Path, witness: Witness, rng: random.Random) -> None:
    """Everything is there once and is found by words and by vector, whichever model is in use."""
    with embank.open(path, model=model(current(path))) as opened:
        kept = opened.collection("kept")
        documents = {document.id: document for document in kept.list(limit=COUNT * 10)}
        assert kept.count() == len(documents)
        assert {f"d{number}" for number in range(COUNT)} | witness.added <= set(documents)
        assert all(document.text == text(name) for name, document in documents.items())
        state = kept.reembedding()
        witness.halfway += state is not None and 0 < state.fraction < 1
        info = kept.stats()
        assert info is not None
        assert info.chunks == sum(document.chunks for document in documents.values())
        for name in [
            *rng.sample(sorted(documents), 12),
            *rng.sample(sorted(witness.added), min(3, len(witness.added))),
        ]:
            assert [hit.id for hit in kept.search(f"unique{name}", mode="lexical", k=5)] == [name]
            dense = [hit.id for hit in kept.search(documents[name].text[:120], mode="dense", k=20)]
            assert dense.count(name) == 1


def test_sigkill_at_random_moments_loses_nothing_and_embeds_nothing_twice(tmp_path: Path) -> None:
    rng, witness, path = random.Random(20_261_123), Witness(), tmp_path / "bank"
    with embank.open(path, model=model("alpha")) as bank:
        bank.collection("kept").add({"id": f"d{number}", "text": text(f"d{number}")} for number in range(COUNT))
    runs = killed = 0
    while killed < KILLS:
        target = next(name for name in MODELS if name != current(path))
        told, done = run(path, target, runs * 1000, lines=rng.randint(1, 12), more_s=rng.uniform(0, 0.1))
        witness.read(told)
        # A kill between the swap and its being told: what is asked for next is for the model before.
        if current(path) == target and "swapped" not in told:
            witness.committed.clear()
        runs, killed = runs + 1, killed + (not done)
        check(path, witness, rng)
    for _ in range(2):
        target = next(name for name in MODELS if name != current(path))
        told, done = run(path, target, runs * 1000)
        witness.read(told)
        assert done
        assert current(path) == target
        check(path, witness, rng)
        runs += 1
    assert witness.swaps >= 2
    assert witness.halfway >= 2  # else the kills came at other moments than those that matter
