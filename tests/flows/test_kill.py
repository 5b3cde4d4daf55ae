"""Acknowledged means durable: the indexing process is killed at random moments, and nothing it acknowledged is lost."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import embank
from embank.bank import LocalCollection
from embank.testing.fakes import HashModel

from .indexer import text

ROUNDS = 25
COUNT = 1_500
INDEXER = Path(__file__).with_name("indexer.py")


def run(bank: Path, generation: int, *, kill_after_s: float | None) -> tuple[list[str], bool]:
    """Acknowledged ids, and whether the run came to its end."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(INDEXER), str(bank), str(generation), str(COUNT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        if kill_after_s is not None:
            time.sleep(kill_after_s)  # the moment of the kill is what is varied here; nothing is waited for
            child.kill()
        out, err = child.communicate()
    lines = [json.loads(line) for line in out.splitlines(keepends=True) if line.endswith("\n")]
    assert child.returncode in (0, -9), err
    done = bool(lines) and lines[-1] == "done"
    return [name for line in lines if line != "done" for name in line], done


def generations(numbers: Iterable[int], generation: int) -> dict[str, int]:
    """By id, the generation of each of these documents' texts once `generation` is written."""
    return {f"d{number}": 0 if number % 3 == 0 else generation for number in numbers}


def check(bank: Path, acknowledged: dict[str, int], generation: int, rng: random.Random) -> None:
    """Every acknowledged document is there once, whole, as acknowledged or newer, and is found."""
    with embank.open(bank, model=HashModel()) as opened:
        kept = opened.collection("kept")
        documents = {document.id: document for document in kept.list(limit=COUNT * 2)}
        assert kept.count() == len(documents)
        assert set(acknowledged) <= set(documents)
        for name, document in documents.items():
            number = int(name[1:])
            last = 0 if number % 3 == 0 else generation
            allowed = {text(number, acknowledged.get(name, last)), text(number, last)}
            assert document.text in allowed, f"{name} holds neither what was acknowledged nor what came after"
        for name in rng.sample(sorted(acknowledged), min(25, len(acknowledged))):
            found_once(kept, name, documents[name].text)


def found_once(kept: LocalCollection, name: str, body: str) -> None:
    lexical = [hit.id for hit in kept.search(f"unique{name[1:]}", mode="lexical", k=5)]
    assert lexical == [name]
    dense = [hit.id for hit in kept.search(body[:200], mode="dense", k=20)]
    assert dense.count(name) == 1


def test_sigkill_at_random_moments_loses_nothing_acknowledged(tmp_path: Path) -> None:
    rng = random.Random(20_261_122)
    bank, generation, killed = tmp_path / "bank", 0, 0
    acknowledged: dict[str, int] = {}
    started = time.monotonic()
    _, done = run(tmp_path / "measure", 0, kill_after_s=None)
    whole_s = time.monotonic() - started
    assert done
    while killed < ROUNDS:
        ids, done = run(bank, generation, kill_after_s=rng.uniform(0.15, 1.0) * whole_s)
        acknowledged |= generations((int(name[1:]) for name in ids), generation)
        if done:
            # Also what an earlier run had committed when it was killed before it said so: to this one it is unchanged.
            acknowledged = generations(range(COUNT), generation)
        if (bank / "FORMAT").exists():
            check(bank, acknowledged, generation, rng)
        if done:
            generation += 1  # all of it is there: change the texts and go on
        else:
            killed += 1
    _, done = run(bank, generation, kill_after_s=None)
    assert done
    check(bank, generations(range(COUNT), generation), generation, rng)
    assert run(bank, generation, kill_after_s=None) == ([], True)
