"""Killed while it makes a bank, then gone on with, then the power is cut: `python -m tests.crash.creation FOLDER`.

A process is killed behind each thing it makes or renames, before it can synchronise the folder. The next one finds it
there, acknowledges a document, and has to have made all of it durable. Prints as JSON what it was killed at, and what
was found.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.crash import processes, shim
from tests.crash.inspection import inspected
from tests.crash.machine import Machine
from tests.crash.small import NAME, make_steps_small, metadata, opened, text

MADE = (shim.CREATE, shim.MKDIR, shim.RENAME)


def main() -> None:
    folder = Path(sys.argv[1])
    make_steps_small()
    library = shim.compiled()
    warm = folder / "warm"
    works: list[Callable[[], object]] = [partial(_put, 1, warm), partial(inspected, warm, seed=0, thorough=True)]
    processes.warmed(works, errors=folder / "errors")
    whole = Machine(library, _made(folder / "whole"), old={})
    assert whole.run(partial(_put, 1)) == 0
    counted = [each for each in whole.done if each.kind not in (shim.MISSED, shim.KILLED)]
    told = {}
    for number, each in enumerate(counted, 1):
        if each.kind in MADE and "/views" not in each.path and not each.path.endswith("-shm"):
            told[f"{number} {shim.KINDS[each.kind]} {Path(each.path).name}"] = _problems(library, folder, number)
    sys.stdout.write(json.dumps(told) + "\n")


def _problems(library: Path, folder: Path, number: int) -> list[str]:
    machine = Machine(library, _made(folder / str(number)), old={})
    machine.run(partial(_put, 1), kill_in=number, part=shim.BEHIND)
    assert machine.run(partial(_put, 2)) == 0
    answer = processes.asked(
        partial(inspected, machine.cut() / "bank", seed=0, thorough=True), errors=folder / "inspection"
    )
    if "error" in answer:
        return [answer["error"]]
    lost = [] if answer["documents"].get("d1") == [2, 2] else [f"lost: there is {answer['documents']}"]
    return [*lost, *answer["problems"]]


def _put(version: int, path: Path = Path("bank")) -> None:
    document = {"id": "d1", "text": text("d1", version), "metadata": metadata("d1", version, version)}
    with opened(path) as bank:
        bank.collection(NAME).add([document])


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder / "root"


if __name__ == "__main__":
    main()
