"""Looking at a bank after a kill: it opens, every document is there once and whole, by id, by words and by vector."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.crash.small import FLAGS, IDS, NAME, metadata, model, opened, text

import embank
from embank.bank import LocalCollection
from embank.store.backup import restore
from embank.store.protocol import StoredDocument
from embank.store.schema import DATABASE
from embank.store.verify import verify
from embank.system.sqlite import connect

SEARCHED = 5


def inspected(bank: Path, *, seed: int, thorough: bool) -> dict[str, Any]:
    """{"documents": {name: [version, label]}, "problems": […]} of the bank, which is opened as its writer."""
    rng = random.Random(seed)
    problems: list[str] = []
    with opened(bank) as held:
        kept = held.collection(NAME)
        listed = kept.list(limit=4 * IDS)
        documents = {each.id: (each.metadata["version"], each.metadata["label"]) for each in listed}
        problems += [f"half-written: {each.id} holds {each.text[:60]!r}" for each in listed if not _is_whole(each)]
        info = kept.stats()
        if not len(listed) == len(documents) == kept.count():
            problems.append(f"duplicate: {len(listed)} are listed under {len(documents)} ids, {kept.count()} counted")
        problems += _left(bank, under_way=kept.reembedding() is not None)
        if info is not None:
            for name in rng.sample(sorted(documents), min(SEARCHED, len(documents))):
                problems += _found(kept, name, next(each.text for each in listed if each.id == name))
            for name in rng.sample(
                sorted({f"d{number}" for number in range(IDS)} - set(documents)), 1 if len(documents) < IDS else 0
            ):
                problems += [
                    f"came back: {hit.id} is found"
                    for hit in kept.search(f"unique{name}", mode="lexical")
                    if hit.id == name
                ]
    if thorough:
        problems += [f"damaged: {each.part}: {each.message}" for each in verify(bank, full=True).findings]
    return {"documents": documents, "problems": problems}


def inspected_copy(copy: Path, scratch: Path, *, restored: bool) -> dict[str, Any]:
    """The same of a backup, which is opened for reading, and restored where that is asked for."""
    problems = [f"damaged: {copy.name}: {each.part}: {each.message}" for each in verify(copy, full=True).findings]
    if restored:
        restore(copy, scratch)
    with embank.open(scratch if restored else copy, model=model("alpha"), read_only=True, flags=FLAGS) as held:
        listed = held.collection(NAME).list(limit=4 * IDS)
    problems += [f"half-written: {copy.name} holds {each.id}" for each in listed if not _is_whole(each)]
    return {
        "documents": {each.id: (each.metadata["version"], each.metadata["label"]) for each in listed},
        "problems": problems,
    }


def _is_whole(document: StoredDocument) -> bool:
    version, label = document.metadata["version"], document.metadata["label"]
    return document.text == text(document.id, version) and document.metadata == metadata(document.id, label, version)


def _found(kept: LocalCollection, name: str, body: str) -> list[str]:
    by_words = [hit.id for hit in kept.search(f"unique{name}", mode="lexical", k=5)]
    by_vector = [hit.id for hit in kept.search(body, mode="dense", k=IDS)]
    told = []
    if by_words != [name]:
        told.append(f"{'duplicate' if name in by_words else 'lost'}: words of {name} find {by_words}")
    if by_vector.count(name) != 1:
        told.append(f"{'duplicate' if name in by_vector else 'lost'}: the vector of {name} finds {by_vector[:5]}")
    return told


def _left(bank: Path, *, under_way: bool) -> list[str]:
    """Files and rows of what was replaced or dropped."""
    if under_way:
        return []
    with closing(connect(bank / DATABASE, read_only=True)) as connection:
        wanted = {f"{key}-{number}" for key, number in connection.execute("SELECT id, generation FROM collections")}
        rows = "SELECT COUNT(*) FROM documents WHERE collection NOT IN (SELECT id FROM collections)"
        (orphans,) = connection.execute(rows).fetchone()
    there = {each.name for kind in ("vectors", "views") if (bank / kind).exists() for each in (bank / kind).iterdir()}
    left = sorted(there - wanted) + ([f"{orphans} documents"] if orphans else [])
    return [f"left behind: {', '.join(left)}"] if left else []
