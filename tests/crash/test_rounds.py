"""Short forms of `python -m tests.crash`: kills, power cuts and failing disks, and that losses would be found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def run(environment: dict[str, str], folder: Path, *given: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "tests.crash", "--json", "--folder", str(folder), *given]
    told = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert told.stdout, told.stderr
    return told.returncode, json.loads(told.stdout)


def test_nothing_acknowledged_is_lost_to_a_kill(environment: dict[str, str], tmp_path: Path) -> None:
    code, summary = run(environment, tmp_path, "--rounds", "20", "--seed", "1")
    assert summary["failures"] == []
    assert code == 0
    assert summary["kills"] >= 8
    assert summary["acknowledged"] > 100
    assert len(summary["interrupted"]) >= 4


def test_nothing_that_a_server_acknowledged_is_lost_to_its_kill(environment: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    code, summary = run(environment, tmp_path, "--rounds", "3", "--seed", "1", "--server")
    assert summary["failures"] == []
    assert code == 0
    assert summary["kills"] == 3
    assert summary["acknowledged"] > 20


@pytest.mark.usefixtures("library")
def test_nothing_acknowledged_is_lost_to_a_power_cut(environment: dict[str, str], tmp_path: Path) -> None:
    code, summary = run(environment, tmp_path, "--rounds", "12", "--seed", "2", "--power-cut")
    assert summary["failures"] == []
    assert code == 0
    assert summary["power_cuts"] == 12


@pytest.mark.usefixtures("library")
def test_a_disk_that_ignores_synchronisation_is_found_out(environment: dict[str, str], tmp_path: Path) -> None:
    code, summary = run(environment, tmp_path, "--rounds", "12", "--seed", "2", "--power-cut", "--no-sync")
    assert code == 1
    assert summary["lost"] + summary["failed_openings"] > 0
    assert all(Path(failure["kept"]).is_dir() for failure in summary["failures"])


@pytest.mark.usefixtures("library")
def test_a_failing_disk_fails_acts_in_words_and_loses_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    code, summary = run(environment, tmp_path, "--rounds", "16", "--seed", "3", "--faults")
    assert summary["failures"] == []
    assert code == 0
    assert any(each.endswith((": StorageFull", ": StorageFailed")) for each in summary["interrupted"])
