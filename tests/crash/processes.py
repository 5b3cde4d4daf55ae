"""Forked children of a process that has imported everything: a round costs no start of Python."""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

PATIENCE_S = 120.0
"""Longer no child of a round takes, unless it hangs."""


_IMPORTED = {"embank", "faiss", "numpy", "orjson", "pydantic", "sqlite3", "tantivy", "tests"}


class Hung(Exception):
    """A child did not come to its end."""


def forked(work: Callable[[int], None], *, errors: Path) -> tuple[int, int]:
    """The pid of a child that calls `work` with a descriptor, and the descriptor that reads what it writes to that.

    What the child prints goes to the file `errors`.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    code = 1
    try:
        os.close(reading)
        told = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(told, 1)
        os.dup2(told, 2)
        work(writing)
        code = 0
    except BaseException:  # noqa: BLE001 -- whatever it is, the parent is to see it, and this process ends here
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def lines(reading: int) -> Iterator[dict[str, Any]]:
    """The JSON lines that come out whole until the other side is closed; `Hung` where nothing comes for long."""
    rest = b""
    while True:
        if not select.select([reading], [], [], PATIENCE_S)[0]:
            raise Hung
        data = os.read(reading, 65_536)
        if not data:
            return
        *whole, rest = (rest + data).split(b"\n")
        yield from map(json.loads, whole)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def ended(pid: int) -> int:
    """How it ended: its exit code, or the negative number of the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def asked(question: Callable[[], dict[str, Any]], *, errors: Path) -> dict[str, Any]:
    """What `question` answers in a child of its own; {"error": …} where it raised, crashed or hung."""

    def work(writing: int) -> None:
        os.write(writing, json.dumps(question()).encode() + b"\n")

    pid, reading = forked(work, errors=errors)
    answers: list[dict[str, Any]] = []
    try:
        answers = list(lines(reading))
    except Hung:
        kill(pid)
    finally:
        os.close(reading)
    code = ended(pid)
    if code or not answers:
        return {"error": f"exit code {code}: {errors.read_text(errors='replace')[-3000:]}"}
    return answers[0]


def warmed(works: Iterable[Callable[[], object]], *, errors: Path) -> None:
    """Import into this process what `works` need, and nothing else: they run in children."""
    for work in works:

        def named(work: Callable[[], object] = work) -> dict[str, Any]:
            work()
            return {"modules": list(sys.modules)}

        answer = asked(named, errors=errors)
        if "error" in answer:
            raise AssertionError(answer["error"])
        for name in answer["modules"]:
            if name.partition(".")[0] in _IMPORTED and name not in sys.modules:
                importlib.import_module(name)


def pause(seconds: float) -> None:
    time.sleep(seconds)  # the moment of a kill is what is varied here; nothing is waited for
