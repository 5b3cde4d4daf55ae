"""A process that exports a collection of one bank or imports a file into another.

python transferrer.py export|import BANK FILE

Lines: "begun", one for each time progress is told, and "done".
"""

from __future__ import annotations

import json
import sys

import embank
from embank.testing.fakes import HashModel
from embank.transfer import exporting


def main() -> None:
    act, bank_path, file = sys.argv[1:]
    exporting._GROUP_BYTES = {"jsonl": 2_000, "parquet": 2_000}  # so that there are many moments to be killed at
    exporting._LEAST_GROUP_BYTES = 2_000
    with embank.open(bank_path, model=HashModel()) as bank:
        kept = bank.collection("kept")
        say("begun")
        if act == "export":
            kept.export(file, vectors=True, on_progress=lambda fraction, _: say(fraction))
        else:
            kept.import_file(file, on_progress=lambda fraction, _: say(fraction))
        say("done")


def say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
