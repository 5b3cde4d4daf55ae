"""A process that compacts a collection again and again while another of its threads writes to it and deletes from it.

python compactor.py BANK FIRST

Lines, each before the act and behind its acknowledgement: {"do": ["put", ID, VERSION]} or {"do": ["delete", ID]},
{"did": …} the same; "compacting", "compacted". Versions count from FIRST on.
"""

from __future__ import annotations

import json
import random
import sys
import threading

import embank
from embank.bank import LocalCollection
from embank.store import compact
from embank.testing.fakes import HashModel

IDS = 400
ROUNDS = 6
_lock = threading.Lock()


def text(name: str, version: int) -> str:
    """What a document says."""
    return f"unique{name} version{version} " + "rivers carry silt and sand. " * (1 + int(name[1:]) % 5)


def main() -> None:
    bank_path, first = sys.argv[1], int(sys.argv[2])
    compact.WINDOW_ROWS = 64  # so that there are many moments to be killed at
    with embank.open(bank_path, model=HashModel(), flags={"store.lexical_rows": 100}) as bank:
        kept = bank.collection("kept")
        done = threading.Event()
        writer = threading.Thread(target=write, args=(kept, first, done))
        writer.start()
        for _ in range(ROUNDS):
            say("compacting")
            kept.compact()
            say("compacted")
        done.set()
        writer.join()


def write(kept: LocalCollection, first: int, done: threading.Event) -> None:
    rng, version = random.Random(first), first
    while not done.wait(0.002):
        name = f"d{rng.randrange(IDS)}"
        version += 1
        act: list[object] = ["delete", name] if rng.random() < 0.3 else ["put", name, version]
        say({"do": act})
        if act[0] == "delete":
            kept.delete(name)
        else:
            kept.add([{"id": name, "text": text(name, version)}])
        say({"did": act})


def say(what: object) -> None:
    """One line, at once."""
    with _lock:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
