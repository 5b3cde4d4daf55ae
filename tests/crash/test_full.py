"""A bank on a file system that is full."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MOUNTED = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]


def test_acts_on_a_full_disk_fail_in_words_and_go_on(environment: dict[str, str], tmp_path: Path) -> None:
    """Its own assertions are in `tests.crash.full`, which runs where the file system is mounted."""
    mount = f"mount -t tmpfs -o size=6m tmpfs {shlex.quote(str(tmp_path))}"
    if (
        shutil.which("unshare") is None
        or subprocess.run([*MOUNTED, mount], capture_output=True, check=False).returncode
    ):
        pytest.skip("a small file system can't be mounted here (no user namespaces)")
    work = f"{mount} && exec {shlex.join([sys.executable, '-m', 'tests.crash.full', str(tmp_path)])}"
    told = subprocess.run([*MOUNTED, work], capture_output=True, text=True, env=environment, check=False)
    assert told.returncode == 0, told.stderr
    failed = json.loads(told.stdout.splitlines()[-1])
    assert failed["put"] >= 1
    assert failed["compact"] >= 1
    assert failed["backup"] >= 1
    assert os.listdir(tmp_path) == []  # noqa: PTH208 -- what was mounted is gone with its process
