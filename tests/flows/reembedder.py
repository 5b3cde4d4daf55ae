"""A process that re-embeds a collection while another of its threads writes to it, and prints what is acknowledged.

python reembedder.py BANK TARGET FIRST

Lines: {"asked": […]} are the documents whose passages the model was asked for, {"committed": N} that all asked for so
far are durable, {"added": ID} a new document, numbered from FIRST on, "swapped" that the new vectors are in use.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import embank
from embank.bank import LocalCollection
from embank.testing.fakes import HashModel

MODELS = {"alpha": 64, "beta": 96}
_TAG = re.compile(r"tag(\w+)")
_lock = threading.Lock()


def model(name: str) -> HashModel:
    return HashModel(name=name, dimension=MODELS[name], max_tokens=64 if name == "alpha" else 40)


def text(name: str) -> str:
    """What a document says: its tag in every sentence, so that every passage tells whose it is."""
    count = 1 + int(name[1:]) % 12
    return f"unique{name} " + " ".join(
        f"Sentence{each} of tag{name} tells of rivers and silt." for each in range(count)
    )


class Told(HashModel):
    """Tells which documents it is asked for; the whole text of a document is in one window, so it is told once."""

    def embed(self, texts: Sequence[str], kind: Any = "passage") -> Any:
        vectors = super().embed(texts, kind)
        if kind == "passage":
            say({"asked": sorted({found for each in texts for found in _TAG.findall(each)})})
        return vectors


def current(bank: Path) -> str:
    """The name of the model whose vectors are in use."""
    with embank.open(bank, model=HashModel(), read_only=True) as opened:
        info = opened.collection("kept").stats()
    assert info is not None
    assert info.fingerprint is not None
    return info.fingerprint.partition(":")[0]


def main() -> None:
    path, target, first = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    new = Told(name=target, dimension=MODELS[target], max_tokens=64 if target == "alpha" else 40)
    with embank.open(path, model=model(current(path)), flags={"store.lexical_rows": 500}) as bank:
        kept = bank.collection("kept")
        done = threading.Event()
        writer = threading.Thread(target=write, args=(kept, first, done))
        writer.start()
        kept.reembed(new, on_progress=lambda report: say({"committed": report.embedded}))
        say("swapped")
        done.set()
        writer.join()


def write(kept: LocalCollection, first: int, done: threading.Event) -> None:
    """Add a document now and then."""
    number = first
    while not done.wait(0.05):
        name = f"w{number}"
        kept.add([{"id": name, "text": text(name)}])
        say({"added": name})
        number += 1


def say(what: object) -> None:
    """One line, at once: what was not printed before the kill was not acknowledged."""
    with _lock:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
