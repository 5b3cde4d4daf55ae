"""What the lexical index holds of memory while it is written and read: a whole process, since tantivy holds it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embank.memory.trim import supported
from embank.store import among, lexical
from embank.store.lexical import LexicalIndex, Mark

HELD = """
import ctypes, json, sys
from pathlib import Path
import numpy as np
from embank.memory import hygiene
hygiene.apply()
from embank.store.lexical import LexicalIndex, Mark

class Held(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks mapped _ _2 used free keep".split()]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Held

def held():
    found = mallinfo2()
    return found.used + found.mapped
"""

COMMITS = """
path, side, commits = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
index = LexicalIndex(path, writer_bytes=15_000_000)
index.apply(removed=(), added=[(slot, f"word{slot} common", "") for slot in range(100)], mark=Mark("v", 1, 100))
reader = LexicalIndex(path, writer_bytes=15_000_000) if side == "reader" else None
readings = []
for number in range(commits):
    slot = 100 + number
    index.apply(removed=(number,), added=[(slot, f"word{slot} common", "")], mark=Mark("v", number + 2, slot + 1))
    looks = index
    if reader is not None:
        reader.reload()
        looks = reader
    searcher = looks.searcher()
    found = searcher.search(f"word{slot}", 3, allowed=None, below=slot + 1)
    assert found.slots.tolist() == [slot], found
    assert looks.mark("v").sequence == number + 2
    assert searcher.documents == 101
    readings.append(held())
print(json.dumps(readings))
"""

SEARCHES = """
index = LexicalIndex(None, writer_bytes=15_000_000)
texts = [" ".join(f"w{count}" for count in range(slot + 1, 1_000)) for slot in range(999)]
added = [(slot, text, "") for slot, text in enumerate(texts)]  # `wN` is in N passages
index.apply(removed=(), added=added, mark=Mark("v", 1, 999))
index.close_writer()
searcher = index.searcher()
allowed = np.arange(999) % 10 == 0

def search(counts):
    for count in counts:
        found = searcher.search(f"w{count}", 100, allowed=allowed, below=999)
        assert sorted(found.slots) == list(range(0, count, 10))
    return held()

first = search(range(1, 999, 18))
print(json.dumps([first, search(range(1, 999))]))
"""


@pytest.mark.skipif(not supported(), reason=supported().reason)
@pytest.mark.parametrize("side", ["writer", "reader"])
def test_commits_do_not_add_to_what_is_held(tmp_path: Path, side: str) -> None:
    # tantivy keeps the path of each file that it ever opened, several a commit: long ones are seen sooner.
    path = tmp_path
    for _ in range(8):
        path /= "folder" * 30
    path.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", HELD + COMMITS, str(path), side, "96"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    readings = json.loads(done.stdout)
    assert min(readings[-32:]) - min(readings[:32]) < 300_000


@pytest.mark.skipif(not supported(), reason=supported().reason)
def test_searches_that_find_ever_other_numbers_of_passages_do_not_add_to_what_is_held() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELD + SEARCHES], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    first, last = json.loads(done.stdout)
    assert last - first < 250_000


def test_a_searcher_goes_on_with_its_picture_after_the_index_was_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lexical, "RENEWED_AFTER", 2)
    index = LexicalIndex(tmp_path, writer_bytes=15_000_000)
    reader = LexicalIndex(tmp_path, writer_bytes=15_000_000)
    index.apply(removed=(), added=[(0, "rivers carry silt", "")], mark=Mark("v", 1, 1))
    reader.reload()
    firsts = index.searcher(), reader.searcher()
    for slot in range(1, 6):
        index.apply(removed=(slot - 1,), added=[(slot, "rivers run", "")], mark=Mark("v", slot + 1, slot + 1))
        reader.reload()
        for looks in (index, reader):
            assert looks.searcher().search("rivers", 5, allowed=None, below=9).slots.tolist() == [slot]
            assert looks.mark("v") == Mark("v", slot + 1, slot + 1)
    for first in firsts:
        assert first.search("silt", 5, allowed=None, below=9).slots.tolist() == [0]
    index.close_writer()


@pytest.mark.parametrize("named_rows", [0, 2_048])
@pytest.mark.parametrize("share", [0.0, 0.003, 0.02, 0.4, 1.0])
def test_a_filtered_search_is_the_whole_ranking_filtered(
    monkeypatch: pytest.MonkeyPatch, share: float, named_rows: int
) -> None:
    monkeypatch.setattr(among, "NAMED_ROWS", named_rows)
    chance = np.random.default_rng(5)
    rows = 3_000
    texts = [" ".join(f"w{word}" for word in chance.zipf(1.5, 12) if word < 500) for _ in range(rows)]
    index = LexicalIndex(None, writer_bytes=15_000_000)
    index.apply(removed=(), added=((slot, text, "") for slot, text in enumerate(texts)), mark=Mark("v", 1, rows))
    searcher = index.searcher()
    allowed = chance.random(rows) < share
    for asked in ("w1 w2 w7", "w3", "w300 w1", "w1 w1 w1", "nowhere"):
        whole = searcher.search(asked, rows, allowed=None, below=rows)
        kept = allowed[whole.slots]
        for k in (1, 10, 200):
            found = searcher.search(asked, k, allowed=allowed, below=rows)
            assert found.slots.tolist() == whole.slots[kept][:k].tolist()
            assert np.allclose(found.scores, whole.scores[kept][:k], rtol=1e-6)
