"""How far the passages around a passage reach in its document."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from embank.store.collections import Row


def reaches(
    connection: sqlite3.Connection, row: Row, slots: Sequence[int], passages: int
) -> dict[int, tuple[int, int]]:
    """Where `passages` further ones before the passage at each slot begin, and as many behind it end, by its slot."""
    rows = connection.execute(
        "SELECT hit.slot, min(near.start), max(near.end) FROM json_each(?) AS wanted "
        "CROSS JOIN chunks AS hit ON hit.collection = ? AND hit.slot = wanted.value "
        "CROSS JOIN chunks AS near ON near.document = hit.document AND near.collection = hit.collection "
        "AND near.ordinal BETWEEN hit.ordinal - ? AND hit.ordinal + ? GROUP BY hit.slot",
        (json.dumps([int(slot) for slot in slots]), row.slots_key, passages, passages),
    )
    return {slot: (start, end) for slot, start, end in rows}
