"""A process that is killed while it drops a collection leaves it whole or gone, and what is left goes by itself."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import embank
from embank.testing.fakes import HashModel

DROPPER = Path(__file__).with_name("dropper.py")
NOTES = [{"id": f"d{number}", "text": f"rivers carry silt number{number}"} for number in range(60)]


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path / "bank.db")) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM documents").fetchone()[0])


@pytest.mark.parametrize(("moment", "left"), [("record", 61), ("rows", 21), ("files", 1)])
def test_killed_it_is_whole_or_gone(tmp_path: Path, moment: str, left: int) -> None:
    path = tmp_path / "bank"
    with embank.open(path, model=HashModel()) as bank:
        bank.collection("kept").add([{"id": "k", "text": "glaciers grind stone"}])
        bank.collection("notes").add(NOTES)
        bank.collection("notes").search("silt")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, str(DROPPER), str(path), moment], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert rows(path) == left
    folders = {each.name for each in (path / "vectors").iterdir()}
    assert folders == {"1-0", "2-0"}
    with embank.open(path, model=HashModel(), read_only=True) as bank:  # who may not remove anything
        assert [info.name for info in bank.collections()] == (["kept", "notes"] if moment == "record" else ["kept"])
    with embank.open(path, model=HashModel()) as bank:
        acts = [act.act for act in bank.audit()]
        if moment == "record":
            assert (acts, bank.collection("notes").count()) == ([], 60)
            assert len(bank.collection("notes").search("silt", mode="lexical", k=100)) == 60
            return
        assert acts == ["drop"]
        assert rows(path) == 1
        assert [each.name for each in (path / "vectors").iterdir()] == ["1-0"]
        bank.collection("notes").add([{"id": "d1", "text": "deltas grow"}])
        assert [hit.id for hit in bank.collection("notes").search("silt", k=100)] == ["d1"]
        assert bank.verify(full=True).findings == ()
