"""Collections are compacted again and again while other threads write to them and search them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import numpy as np
import pytest

from embank.store import compact
from embank.store.collection import StoredCollection

from .conftest import MODEL, OpenStore
from .test_compact import answers, fragmented, info_of, put
from .test_reembed import folders


class Life:
    """Writes documents and looks for them; knows of each what was acknowledged. For several threads."""

    def __init__(self, notes: StoredCollection) -> None:
        self.notes = notes
        self.alive = {document.id: document.text for document in notes.listing(limit=1000)}
        self.failed: list[BaseException] = []
        self.done = threading.Event()
        self.looks = 0
        self._lock = threading.Lock()
        self._unsettled: set[str] = set()

    def repeat(self, act: Callable[[random.Random], None], seed: int) -> None:
        """Do it until all is done, or something fails."""
        rng = random.Random(seed)
        try:
            while not self.done.is_set():
                act(rng)
        except BaseException as error:  # noqa: BLE001 -- looked at in the thread of the test
            self.failed.append(error)
            self.done.set()

    def change(self, rng: random.Random) -> None:
        """Delete a document or write it."""
        name, text = f"d{rng.randrange(200):03}", None
        with self._lock:
            self._unsettled.add(name)
        if rng.random() < 0.3:
            self.notes.delete([name])
        else:
            text = f"rivers carry silt number{int(name[1:])} anew{rng.randrange(10_000)}"
            put(self.notes, name, text)
        with self._lock:
            if text is None:
                self.alive.pop(name, None)
            else:
                self.alive[name] = text
            self._unsettled.discard(name)

    def look(self, rng: random.Random) -> None:
        """What was acknowledged before a snapshot, and not touched until it is taken, is in it: by vector, by words."""
        with self._lock:
            name = rng.choice(sorted(self.alive.keys() - self._unsettled))
            text = self.alive[name]
        with self.notes.snapshot() as snapshot:
            with self._lock:
                if name in self._unsettled or self.alive.get(name) != text:
                    return
            dense = snapshot.dense(np.asarray(MODEL.embed([text[: len(text) // 2]])[0]), 1000)
            found = [passage.id for passage in snapshot.passages(dense.slots)]
            lexical = snapshot.lexical(f"number{int(name[1:])}", 1000)
            assert found.count(name) == 2
            assert len(found) == snapshot.info.chunks
            assert name in {passage.id for passage in snapshot.passages(lexical.slots)}
        self.looks += 1


def test_searchers_and_writers_see_all_that_was_acknowledged(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "WINDOW_ROWS", 32)
    store = open_store(lexical_rows=50)
    notes = fragmented(store, count=150)
    life = Life(notes)
    threads = [
        threading.Thread(target=life.repeat, args=(act, seed))
        for seed, act in enumerate((life.change, life.look, life.look))
    ]
    for thread in threads:
        thread.start()
    reports = [notes.compact() for _ in range(4)]
    life.done.set()
    for thread in threads:
        thread.join()
    assert life.failed == []
    assert life.looks >= 4
    assert reports[0].outcome == "compacted"
    assert sum(report.outcome == "compacted" for report in reports) >= 2
    notes.compact()
    assert {document.id: document.text for document in notes.listing(limit=1000)} == life.alive
    assert len(answers(notes)[3]) == info_of(notes).slots == 2 * len(life.alive)
    notes.tidy()
    assert len(folders(store.root)["vectors"]) == 1
