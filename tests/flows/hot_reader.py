"""A process that searches a bank of made-up vectors, deletes a document now and then, and makes the hot tier anew.

python hot_reader.py BANK

It prints each document whose deletion was acknowledged, and "rebuilt" after each making.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import embank
from embank.testing.indexes import clustered

DOCUMENTS = 3_000
FLAGS = {"index.kind": "pq-fastscan", "index.tail_rows": 500, "hot.answers": "when_degraded", "hot.save_every": 50}


def main() -> None:
    vectors = clustered(DOCUMENTS, seed=90)
    # The index is never there: it needs more vectors than these to be trained.
    with embank.open(Path(sys.argv[1]), flags=FLAGS) as bank:
        notes = bank.collection("notes")
        if not notes.count():
            notes.add([{"id": f"d{n}", "text": f"number {n}"} for n in range(DOCUMENTS)], vectors=vectors)
        say("open")
        first = DOCUMENTS - notes.count()
        for number in range(first, DOCUMENTS):
            for near in range(5):
                notes.search(vector=vectors[(number * 7 + near) % DOCUMENTS], k=20)
            notes.delete(f"d{number}")
            say(f"d{number}")
            notes.hot.rebuild()
            say("rebuilt")


def say(what: object) -> None:
    """One line, at once: what was not printed before the kill was not acknowledged."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
