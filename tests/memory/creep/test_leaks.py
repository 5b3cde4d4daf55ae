"""Real leaks in processes of their own, each laid to the right culprit; and sound processes that raise no alarm."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from embank.memory.recovery import own_bytes
from embank.memory.trim import supported

pytestmark = pytest.mark.skipif(
    own_bytes() is None or not supported(), reason=f"no /proc, or no glibc here: {supported().reason}"
)

OPERATIONS = 3_000


def process(mode: str, seed: int) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.leaking", mode, str(seed)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize(
    ("mode", "culprit", "name"),
    [
        ("python", "python", "benchmarks/leaking.py"),
        ("native", "native", ""),
        ("consumer", "consumer", "hoard"),
        ("hidden", "consumer", "hoard"),
        ("hoarding", "hoarding", ""),
    ],
)
def test_a_leak_of_a_tenth_of_a_megabyte_in_a_hundred_operations_is_laid_to_its_culprit(
    mode: str, culprit: str, name: str
) -> None:
    told = process(mode, seed=1)
    assert told["culprit"] == culprit, told
    assert name in told["name"], told
    assert told["operations"] <= OPERATIONS
    assert "ingest" in told["kinds"]


@pytest.mark.parametrize("seed", [101, 102])
def test_a_sound_process_raises_no_alarm(seed: int) -> None:
    told = process("healthy", seed)
    assert (told["operations"], told["alarms"]) == (OPERATIONS, 0), told
