"""Fitted reductions in `bank.db`: kept with their collection, replaced when unused, refused by name when altered."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.store.conftest import MODEL, OpenStore, write

from embank.errors import BankDamaged, BankReadOnly, CollectionNotFound
from embank.store.local import LocalStore
from embank.store.protocol import Batch, Space
from embank.store.reductions import Reduction, Reductions, forget_all
from embank.system.clock import SystemClock

MATRIX = bytes(range(256)) * 4
KEPT = Reduction("0123456789abcdef", MODEL.fingerprint, 64, 4, 500, 0.75, 12.5, MATRIX)


def reductions(store: LocalStore) -> Reductions:
    return Reductions(store.database, clock=SystemClock())


@pytest.fixture
def store(open_store: OpenStore) -> LocalStore:
    store = open_store()
    write(store.collection("notes"), {"a": "alpha", "b": "beta"})
    return store


def test_what_was_kept_is_there_after_opening_again(store: LocalStore, open_store: OpenStore) -> None:
    reductions(store).keep("notes", KEPT)
    assert store.audit()[0].act == "keep reduction"
    store.close()
    again = open_store(read_only=True)
    assert reductions(again).find("notes", KEPT.version) == KEPT
    assert reductions(again).pending("notes") == KEPT
    assert reductions(again).find("notes", "0" * 16) is None
    with pytest.raises(BankReadOnly):
        reductions(again).keep("notes", KEPT)


def test_a_bank_without_any_has_none(store: LocalStore) -> None:
    assert reductions(store).find("notes", KEPT.version) is None
    assert reductions(store).pending("notes") is None
    assert reductions(store).pending("nothing") is None
    with pytest.raises(CollectionNotFound, match="'nothing'"):
        reductions(store).keep("nothing", KEPT)


def test_one_that_was_not_applied_gives_way_to_the_next(store: LocalStore) -> None:
    second = replace(KEPT, version="f" * 16, fitted=13.0)
    reductions(store).keep("notes", KEPT)
    reductions(store).keep("notes", second)
    assert reductions(store).pending("notes") == second
    assert reductions(store).find("notes", KEPT.version) is None


def test_one_that_vectors_refer_to_stays(store: LocalStore) -> None:
    named = f"{MODEL.fingerprint}+pca:4:{KEPT.version}"
    collection = store.collection("narrow")
    vectors = MODEL.embed(["alpha"])[:, :4]
    write(collection, {})
    reductions(store).keep("narrow", KEPT)
    collection.commit(Batch(None, (), vectors[:0]), None)
    with store.database.transaction() as connection:
        connection.execute("UPDATE collections SET fingerprint = ?, dimension = 4 WHERE name = 'narrow'", (named,))
    reductions(store).keep("narrow", replace(KEPT, version="f" * 16, source=named, fitted=13.0))
    assert reductions(store).find("narrow", KEPT.version) == KEPT
    assert reductions(store).pending("narrow") is not None


def test_one_for_vectors_that_are_being_made_stays(store: LocalStore) -> None:
    reductions(store).keep("notes", KEPT)
    with store.collection("notes").shadow(Space(f"x+pca:4:{KEPT.version}", 4, None)):
        pass
    reductions(store).keep("notes", replace(KEPT, version="f" * 16, fitted=13.0))
    assert reductions(store).find("notes", KEPT.version) == KEPT


def test_copies_are_there_before_the_collection_has_vectors(store: LocalStore) -> None:
    reductions(store).keep("notes", KEPT)
    reductions(store).copy("notes", to="narrow", dtype="int8")
    assert reductions(store).find("narrow", KEPT.version) == KEPT
    made = store.collection("narrow").info()
    assert made is not None
    assert (made.dtype, made.fingerprint, made.documents) == ("int8", None, 0)


def test_a_deleted_collection_takes_its_reductions_along(store: LocalStore) -> None:
    write(store.collection("other"), {"c": "gamma"})
    reductions(store).keep("notes", KEPT)
    reductions(store).keep("other", KEPT)
    with store.database.transaction() as connection:
        (key,) = connection.execute("SELECT id FROM collections WHERE name = 'notes'").fetchone()
        forget_all(connection, key)
    assert reductions(store).find("notes", KEPT.version) is None
    assert reductions(store).find("other", KEPT.version) == KEPT


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE reductions SET matrix = substr(matrix, 1, 1000)",
        "UPDATE reductions SET matrix = zeroblob(1024)",
        "UPDATE reductions SET width = 32, dimension = 8",
        "UPDATE reductions SET source = 'another'",
        "UPDATE reductions SET checksum = zeroblob(16)",
    ],
)
def test_a_damaged_one_is_refused_by_name(store: LocalStore, open_store: OpenStore, damage: str) -> None:
    reductions(store).keep("notes", KEPT)
    root = store.root
    store.close()
    altered(root, damage)
    again = reductions(open_store())
    with pytest.raises(BankDamaged, match="reduction 0123456789abcdef of collection 'notes' was altered"):
        again.find("notes", KEPT.version)


def altered(root: Path, statement: str) -> None:
    with closing(sqlite3.connect(root / "bank.db")) as connection, connection:
        connection.execute(statement)
