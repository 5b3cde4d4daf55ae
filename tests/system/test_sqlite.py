"""SQLite as the store opens it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from embank.system.sqlite import IDLE_READERS, Readers, connect, transaction


def count(connection: sqlite3.Connection) -> int:
    (rows,) = connection.execute("SELECT COUNT(*) FROM t").fetchone()
    return int(rows)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with an empty table, in a file whose name needs quoting."""
    place = tmp_path / "what? 100%#.db"
    connection = connect(place)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    return place


def test_a_transaction_is_all_or_nothing(path: Path) -> None:
    writer = connect(path)

    def half() -> None:
        with transaction(writer):
            writer.execute("INSERT INTO t VALUES (1)")
            writer.execute("INSERT INTO absent VALUES (1)")

    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        half()
    assert count(writer) == 0
    with transaction(writer):
        writer.execute("INSERT INTO t VALUES (1)")
    assert count(writer) == 1
    writer.close()


def test_a_reader_keeps_its_state_while_others_write(path: Path) -> None:
    writer, readers = connect(path), Readers(path)
    with readers.read() as reader:
        assert count(reader) == 0
        writer.execute("INSERT INTO t VALUES (1)")
        assert count(reader) == 0
    with readers.read() as reader:
        assert count(reader) == 1
    readers.close()
    writer.close()


def test_readers_are_reused_and_few_are_kept(path: Path) -> None:
    readers = Readers(path)
    with readers.read() as first:
        pass
    with readers.read() as again:
        assert again is first
    lent = [readers.read() for _ in range(IDLE_READERS + 3)]
    for each in lent:
        each.__enter__()
    for each in lent:
        each.__exit__(None, None, None)
    assert readers._idle.qsize() == IDLE_READERS
    readers.close()


def test_a_reader_after_an_error_is_not_reused(path: Path) -> None:
    readers = Readers(path)
    with pytest.raises(ZeroDivisionError), readers.read():
        raise ZeroDivisionError
    assert readers._idle.qsize() == 0


def test_a_reader_can_not_write(path: Path) -> None:
    readers = Readers(path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"), readers.read() as reader:
        reader.execute("INSERT INTO t VALUES (1)")


def test_a_missing_database_is_not_created_by_reading(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        connect(tmp_path / "none.db", read_only=True)
    assert list(tmp_path.iterdir()) == []
