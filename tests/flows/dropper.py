"""A process that drops a collection and is killed at it: python dropper.py BANK MOMENT

Moments: "record" before the act is on record, "rows" when some rows are removed, "files" before the first file is.
"""

from __future__ import annotations

import os
import signal
import sys

import embank
from embank.store import audit, dropping
from embank.store.shared import Shared
from embank.testing.fakes import HashModel


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    path, moment = sys.argv[1:]
    dropping.STEP_DOCUMENTS = 10
    if moment == "record":
        audit.record = die  # type: ignore[assignment]
    if moment == "files":
        Shared.remove_files = die  # type: ignore[method-assign]
    with embank.open(path, model=HashModel()) as bank:
        bank.drop("notes", on_progress=lambda fraction, _: die() if fraction > 0.5 and moment == "rows" else None)


if __name__ == "__main__":
    main()
