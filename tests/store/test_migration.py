"""Older formats are brought to newer ones, whole or not at all."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from embank.errors import BankLocked, BankReadOnly, FormatTooNew
from embank.store import migration, schema
from embank.store.migration import migrate
from embank.store.verify import verify

from . import migrator, old_bank
from .conftest import OpenStore, nearest, write

TEXTS = ["Rivers carry silt.", "Bread rises.", "größe"]


def ask(root: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(root / "bank.db")) as connection:
        return connection.execute(sql).fetchall()


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    old_bank.make(tmp_path / "bank", TEXTS)
    return tmp_path / "bank"


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Embank with one format more, whose step is due at once."""
    monkeypatch.setattr(migration, "STEPS", migration.STEPS)
    monkeypatch.setattr(schema, "FORMAT", schema.FORMAT)
    monkeypatch.setattr(sys, "argv", ["", "", "never"])
    migrator.newer()


def test_the_first_format_is_read_and_written_as_it_is(open_store: OpenStore, bank: Path) -> None:
    store = open_store()
    collection = store.collection("old")
    assert [each.text for each in collection.listing(limit=10)] == TEXTS
    write(collection, {"new": "Glaciers carry boulders."})
    assert nearest(collection, "glaciers boulders", 1) == ["new"]
    store.close()
    assert (bank / "FORMAT").read_text() == "embank 1\n"
    assert not verify(bank, full=True).damaged


def test_the_first_format_is_brought_to_the_second_when_that_is_needed(open_store: OpenStore, bank: Path) -> None:
    store = open_store()
    collection = store.collection("old")
    write(collection, {"new": "Glaciers carry boulders.", "gone": "Dust."})
    collection.delete(["gone"])
    assert collection.compact().outcome == "compacted"
    assert [row.act for row in store.audit()] == ["compact", "delete"]
    store.close()
    assert (bank / "FORMAT").read_text() == "embank 2\n"
    assert ask(bank, "SELECT value FROM meta WHERE key = 'format'") == [("2",)]


def test_migrate_takes_the_steps_that_could_wait(open_store: OpenStore, bank: Path) -> None:
    planned = migrate(bank, dry_run=True)
    assert (planned.before, planned.after, planned.dry_run) == (1, 2, True)
    assert (bank / "FORMAT").read_text() == "embank 1\n"
    done = migrate(bank)
    assert (done.before, done.after, len(done.steps)) == (1, 2, 1)
    assert (bank / "FORMAT").read_text() == "embank 2\n"
    again = migrate(bank)
    assert (again.before, again.after, again.steps) == (2, 2, ())
    store = open_store()
    assert [each.text for each in store.collection("old").listing(limit=10)] == TEXTS
    assert migrate(bank, dry_run=True).steps == ()


def test_nobody_may_be_writing(open_store: OpenStore, bank: Path) -> None:
    open_store()
    with pytest.raises(BankLocked):
        migrate(bank)


@pytest.mark.usefixtures("newer")
def test_a_step_that_is_due_at_once_is_taken_on_opening(open_store: OpenStore, bank: Path) -> None:
    with pytest.raises(BankReadOnly, match="must be brought to 3"):
        open_store(read_only=True)
    store = open_store()
    assert [(row.act, row.detail["format"]) for row in store.audit()] == [("migrate", 3), ("migrate", 2)]
    store.close()
    assert (bank / "FORMAT").read_text() == "embank 3\n"
    assert ask(bank, "SELECT length FROM documents ORDER BY id") == [(len(text),) for text in TEXTS]
    assert [each.text for each in open_store(read_only=True).collection("old").listing(limit=9)] == TEXTS


@pytest.mark.usefixtures("newer")
def test_a_new_bank_takes_the_same_steps(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store()
    write(store.collection("a"), {"new": "Glaciers carry boulders."})
    store.close()
    assert ask(tmp_path / "bank", "SELECT length FROM documents") == [(0,)]


@pytest.mark.usefixtures("newer")
def test_a_step_that_fails_leaves_the_bank_as_it_was(
    open_store: OpenStore, bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        migrator.change(connection)
        raise OSError(5, "the disk fails")

    right = migration.STEPS
    monkeypatch.setattr(migration, "STEPS", (*right[:-1], migration.Step(3, "a step", fail, "at once")))
    with pytest.raises(OSError, match="the disk fails"):
        open_store()
    assert "length" not in [name for (_, name, *_) in ask(bank, "PRAGMA table_info(documents)")]
    monkeypatch.setattr(migration, "STEPS", right)
    open_store().close()
    assert ask(bank, "SELECT length FROM documents ORDER BY id") == [(len(text),) for text in TEXTS]


@pytest.mark.parametrize("moment", ["before", "file", "inside", "after"])
def test_killed_at_any_moment_it_goes_on(open_store: OpenStore, bank: Path, moment: str) -> None:
    def run(at: str) -> int:
        command = [sys.executable, str(Path(migrator.__file__)), str(bank), at]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(command, check=False, timeout=120, env=environment).returncode

    assert run(moment) == -9
    if moment != "before":  # what knows format 2 alone must not touch it from then on
        with pytest.raises(FormatTooNew):
            open_store()
    assert run("never") == 0
    assert (bank / "FORMAT").read_text() == "embank 3\n"
    assert ask(bank, "SELECT value FROM meta WHERE key = 'format'") == [("3",)]
    assert ask(bank, "SELECT name, length FROM documents ORDER BY id") == [
        (f"d{number}", len(text)) for number, text in enumerate(TEXTS)
    ]
    assert ask(bank, "SELECT COUNT(*) FROM audit WHERE act = 'migrate'") == [(2,)]
    assert ask(bank, "PRAGMA integrity_check") == [("ok",)]
