"""Running a script that tells what it did, a line at a time, and killing it at some moment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any


def until_killed(script: Path, *given: object, lines: int | None, more_s: float) -> tuple[list[Any], bool]:
    """The lines that came out whole, and whether the run came to its end; killed a moment after so many lines."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), *map(str, given)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        told = list(islice(child.stdout, lines))
        if lines is not None:
            time.sleep(more_s)  # the moment of the kill is what is varied here; nothing is waited for
            child.kill()
        told += child.stdout
        err = child.stderr.read()
    assert child.returncode in (0, -9), err
    return [json.loads(line) for line in told if line.endswith("\n")], child.returncode == 0
