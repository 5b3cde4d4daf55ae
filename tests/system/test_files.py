"""Durable file operations."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from embank.system.files import Files
from embank.testing.faults import FaultyFiles


def test_every_new_directory_is_synchronised_into_its_parent(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.make_directory(tmp_path / "a" / "b" / "c")
    assert files.synced == [tmp_path.name, "a", "b"]
    assert stat.S_IMODE((tmp_path / "a" / "b" / "c").stat().st_mode) == 0o700
    files.make_directory(tmp_path / "a" / "b" / "c")
    assert len(files.synced) == 3


def test_replace_is_whole_or_not_at_all(tmp_path: Path) -> None:
    files = FaultyFiles()
    path = tmp_path / "x"
    files.replace(path, b"first")
    files.room_bytes = 3
    with pytest.raises(OSError, match="No space left"):
        files.replace(path, b"second")
    assert path.read_bytes() == b"first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_writing_goes_on_after_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real(descriptor, data[:7], offset))
    files = Files()
    descriptor = files.open_append(tmp_path / "x")
    files.write_at(descriptor, memoryview(b"0123456789" * 5), 3)
    os.close(descriptor)
    assert (tmp_path / "x").read_bytes() == b"\0\0\0" + b"0123456789" * 5


def test_removing_what_is_not_there_is_fine(tmp_path: Path) -> None:
    Files().remove_tree(tmp_path / "nothing")
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    Files().remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []
