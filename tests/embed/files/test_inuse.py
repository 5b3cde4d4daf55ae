"""Locks on models' folders, in this process and in another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from embank.embed.files.inuse import exclusively, hold, is_in_use, last_used_s, making
from embank.errors import ModelFileError, ModelInUse

HOLDER = """
import sys
from pathlib import Path
from embank.embed.files.inuse import hold
held = hold(Path(sys.argv[1]), directory=Path(sys.argv[1]).parent)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_in_use_until_all_let_go(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    first, second = (hold(tmp_path / "m", directory=tmp_path) for _ in range(2))
    assert first is not None
    assert second is not None
    first.close()
    assert is_in_use(tmp_path / "m")
    with pytest.raises(ModelInUse, match="'tiny' is in use"), exclusively(tmp_path / "m", name="tiny"):
        pytest.fail("it is in use")
    second.close()
    second.close()
    assert not is_in_use(tmp_path / "m")
    with exclusively(tmp_path / "m", name="tiny"):
        pass


def test_another_process_is_seen_and_its_death_too(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "m")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert is_in_use(tmp_path / "m")
        process.kill()
    assert not is_in_use(tmp_path / "m")


def test_use_is_recorded_in_embanks_own_directory_only(tmp_path: Path) -> None:
    own, foreign = tmp_path / "models" / "m", tmp_path / "mine"
    for folder in (own, foreign):
        folder.mkdir(parents=True)
        os.utime(folder, (1000, 1000))
    held = hold(own, foreign, directory=tmp_path / "models")
    assert held is not None
    assert last_used_s(own) > 1_000_000
    assert last_used_s(foreign) == 1000
    held.close()


def test_a_time_that_cant_be_recorded_hinders_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m").mkdir()

    def refuse(path: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)  # as on a read-only file system, which not even root may write
    held = hold(tmp_path / "m", directory=tmp_path)
    assert held is not None
    assert is_in_use(tmp_path / "m")
    held.close()


def test_a_folder_that_is_gone_is_told_apart_from_one_that_cant_be_opened(tmp_path: Path) -> None:
    assert hold(tmp_path / "gone", directory=tmp_path) is None
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFileError, match="can't be opened"):
        hold(tmp_path / "file", directory=tmp_path)


def test_a_forgotten_hold_ends_with_its_owner(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    held = hold(tmp_path / "m", directory=tmp_path)
    assert is_in_use(tmp_path / "m")
    del held
    assert not is_in_use(tmp_path / "m")


def test_what_is_being_made_is_in_use(tmp_path: Path) -> None:
    with (
        making(tmp_path / "m", name="tiny"),
        pytest.raises(ModelInUse, match="being made"),
        making(tmp_path / "m", name="tiny"),
    ):
        pytest.fail("somebody makes it")
