"""A process that indexes numbered documents of one generation and prints each acknowledgement as it gets it.

python indexer.py BANK GENERATION COUNT
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import embank
from embank.records import Document
from embank.source.report import SourceReport
from embank.testing.fakes import HashModel


def text(number: int, generation: int) -> str:
    """What document `number` says in a generation: unique words to find it by, and some length."""
    filler = f"filler about subject {number % 17} and {number % 5}. "
    return f"unique{number} round{generation} {filler * (number % 40)}"


class Numbered:
    """A source of `count` documents; every third keeps its text over the generations."""

    root = "test:numbered"
    bytes_total = None

    def __init__(self, generation: int, count: int) -> None:
        self.report = SourceReport()
        self._generation = generation
        self._count = count

    def documents(self) -> Iterator[Document]:
        for number in range(self._count):
            generation = 0 if number % 3 == 0 else self._generation
            yield Document(f"d{number}", text(number, generation), {"generation": generation}, f"d{number}")


def main() -> None:
    path, generation, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    flags = {"store.lexical_rows": 300}
    with embank.open(path, model=HashModel(), flags=flags) as bank:
        bank.collection("kept").index(Numbered(generation, count), on_commit=lambda ids: say(list(ids)))
    say("done")


def say(what: object) -> None:
    """One line, at once: what was not printed before the kill was not acknowledged."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
