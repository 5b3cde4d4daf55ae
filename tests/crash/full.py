"""A bank on a disk that is full, again and again: `python -m tests.crash.full FOLDER`, where a small one is mounted.

Every act is tried with less and less room. What fails must fail in an error of Embank's own; once there is room again
the same process goes on, and all that was acknowledged is there. Prints one JSON object: how often what failed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.crash.small import FLAGS, make_steps_small, text

import embank
from embank.errors import StorageFull
from embank.store.verify import verify
from embank.testing.fakes import HashModel

STEP_BYTES = 16_384
BATCH = 14


def main() -> None:
    folder = Path(sys.argv[1])
    make_steps_small()
    ballast, bank_path = folder / "ballast", folder / "bank"
    version, there, failed = 0, dict[str, int](), Counter[str]()
    with embank.open(bank_path, model=HashModel(), flags=FLAGS) as bank:
        kept = bank.collection("kept")

        def put() -> None:
            nonlocal version
            version += 1
            names = [f"d{number}" for number in range(BATCH)]
            kept.add([{"id": name, "text": text(name, version)} for name in names])
            there.update(dict.fromkeys(names, version))

        def delete() -> None:
            kept.delete("d1")
            there.pop("d1", None)

        acts: dict[str, Callable[[], object]] = {
            "put": put,
            "delete": delete,
            "compact": kept.compact,
            "index": kept.vector_index.refresh,
            "search": lambda: kept.search("silt", mode="lexical"),
            "backup": lambda: bank.backup(folder / "copy"),
        }
        put()
        for name, act in acts.items():
            for steps in (0, 1, 2, 4, 8):
                if name != "put":
                    put()
                before = dict(there)
                _fill(ballast, folder, leave=steps * STEP_BYTES)
                try:
                    act()
                except StorageFull:
                    failed[name] += 1
                finally:
                    ballast.unlink()
                shutil.rmtree(folder / "copy", ignore_errors=True)
                listed = {each.id: each.text for each in kept.list(limit=1_000)}
                wanted = [{each: text(each, version) for each, version in state.items()} for state in (before, there)]
                assert listed in wanted, (name, steps)
        put()
        assert [hit.id for hit in kept.search("uniqued7", mode="lexical")] == ["d7"]
    report = verify(bank_path, full=True)
    assert not report.findings, report.findings
    sys.stdout.write(json.dumps(failed) + "\n")


def _fill(ballast: Path, folder: Path, *, leave: int) -> None:
    """Take all room but `leave` bytes, or less: the bank's own threads write, too."""
    found = os.statvfs(folder)
    with ballast.open("wb") as file, suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, max(found.f_bavail * found.f_frsize - leave, 1))


if __name__ == "__main__":
    main()
