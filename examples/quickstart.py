"""A bank from Python: write documents, search them, and see what memory it takes.

python examples/quickstart.py [BANK]
"""

from __future__ import annotations

import sys

import embank

with embank.open(sys.argv[1] if len(sys.argv) > 1 else "notes.bank", memory="512MB") as bank:
    notes = bank.collection("notes")
    notes.add(
        [
            {"id": "rivers", "text": "Rivers carry silt and sand down to the sea.", "metadata": {"year": 2024}},
            {"id": "bread", "text": "Bread rises because yeast makes gas from sugar.", "metadata": {"year": 2019}},
            {"id": "backup", "text": "A backup is restored from the newest copy.", "metadata": {"year": 2025}},
        ]
    )
    for hit in notes.search("how does dough get airy?", k=2):
        print(f"{hit.score:.3f}  {hit.id}  {hit.text}")
    for hit in notes.search("water", k=2, where={"year": {"$gte": 2020}}):
        print(f"{hit.score:.3f}  {hit.id}  {hit.metadata}")
    memory = bank.memory()
    print(f"{memory.real_bytes / 1e6:.0f} of {memory.budget_bytes / 1e6:.0f} MB are in use")
