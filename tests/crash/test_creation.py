"""A kill in the middle of making a bank, and a power cut after somebody has gone on with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.usefixtures("library")
def test_what_a_killed_writer_left_unsynchronised_is_made_durable(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.crash.creation", str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert told.returncode == 0, told.stderr
    problems = json.loads(told.stdout.splitlines()[-1])
    assert {name: found for name, found in problems.items() if found} == {}
    named = " ".join(problems)
    assert "mkdir bank" in named
    assert "rename FORMAT" in named or "rename .FORMAT" in named
    assert "mkdir vectors" in named
    assert "create 000000.vec" in named
