"""Compacting a bank while it is written to, and being killed at it: nothing acknowledged is lost or comes twice."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import embank
from embank.testing.fakes import HashModel

from .compactor import IDS, text
from .killing import until_killed

COMPACTOR = Path(__file__).with_name("compactor.py")
KILLS = 5


class Witness:
    """What was acknowledged over all runs, and what was under way when a run ended."""

    def __init__(self) -> None:
        self.alive: dict[str, int] = {}
        self.open: list[Any] | None = None
        self.compacted = 0
        self.cut_short = 0

    def read(self, lines: list[Any]) -> None:
        self.open = None
        busy = False
        for line in lines:
            if isinstance(line, str):
                busy = line == "compacting"
                self.compacted += not busy
            elif "do" in line:
                self.open = line["do"]
            else:
                self.apply(line["did"])
                self.open = None
        self.cut_short += busy

    def apply(self, act: list[Any]) -> None:
        if act[0] == "put":
            self.alive[act[1]] = act[2]
        else:
            self.alive.pop(act[1], None)


def run(bank: Path, first: int, *, lines: int | None = None, more_s: float = 0.0) -> list[Any]:
    """The lines that came out whole; killed a moment after so many."""
    return until_killed(COMPACTOR, bank, first, lines=lines, more_s=more_s)[0]


def check(path: Path, witness: Witness, rng: random.Random) -> None:
    """Opening needs nobody; each document is there once as it was acknowledged, by id, by words and by vector."""
    with embank.open(path, model=HashModel()) as bank:
        kept = bank.collection("kept")
        found = {document.id: document.text for document in kept.list(limit=IDS * 2)}
        if witness.open is not None:  # what was not acknowledged may have been done, or not
            name = witness.open[1]
            before = witness.alive.get(name)
            if found.get(name) != (None if before is None else text(name, before)):
                witness.apply(witness.open)
        assert found == {name: text(name, version) for name, version in witness.alive.items()}
        info = kept.stats()
        assert info is not None
        assert info.documents == len(found)
        folders = sorted(folder.name for folder in (path / "vectors").iterdir())
        assert folders == [f"1-{info.generation}"]
        for name in rng.sample(sorted(found), 8):
            assert [hit.id for hit in kept.search(f"unique{name}", mode="lexical", k=5)] == [name]
            dense = [hit.id for hit in kept.search(found[name], mode="dense", k=20)]
            assert dense[0] == name
            assert dense.count(name) == 1


def test_sigkill_at_random_moments_loses_nothing_and_brings_nothing_back(tmp_path: Path) -> None:
    rng, witness, path = random.Random(20_261_125), Witness(), tmp_path / "bank"
    with embank.open(path, model=HashModel()) as bank:
        kept = bank.collection("kept")
        for version in (1, 2):
            kept.add([{"id": f"d{number}", "text": text(f"d{number}", version)} for number in range(IDS)])
    witness.alive = {f"d{number}": 2 for number in range(IDS)}
    for killed in range(KILLS):
        witness.read(run(path, (killed + 1) * 100_000, lines=rng.randint(1, 60), more_s=rng.uniform(0, 0.2)))
        check(path, witness, rng)
    assert witness.cut_short >= 3  # else the kills came at other moments than those that matter
    witness.read(run(path, 1_000_000))
    check(path, witness, rng)
    assert witness.compacted >= 6
    with embank.open(path, model=HashModel()) as bank:
        bank.collection("kept").compact()
        info = bank.collection("kept").stats()
        assert info is not None
        assert info.slots == info.chunks
