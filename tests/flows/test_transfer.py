"""Exports and imports that are killed: a file is whole or not there, and an import goes on."""

from __future__ import annotations

from pathlib import Path

import embank
from embank.store.verify import verify
from embank.testing.fakes import HashModel

from .killing import until_killed

TRANSFERRER = Path(__file__).with_name("transferrer.py")
DOCUMENTS = 1_500


def test_killed_at_any_moment_nothing_is_half_there(tmp_path: Path) -> None:
    here, there, file = tmp_path / "here.bank", tmp_path / "there.bank", tmp_path / "kept.jsonl"
    texts = {f"d{n:04}": f"text number {n} about silt" for n in range(DOCUMENTS)}
    with embank.open(here, model=HashModel()) as bank:
        bank.collection("kept").add([{"id": name, "text": text} for name, text in texts.items()])
    for lines in (2, 8):
        _, ended = until_killed(TRANSFERRER, "export", here, file, lines=lines, more_s=0.0)
        assert not ended
        assert not file.exists()
    assert until_killed(TRANSFERRER, "export", here, file, lines=None, more_s=0.0)[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.bank", "kept.jsonl"]

    cut_short = 0
    for lines in (4, 9, 10):  # the first six windows are checked, the others written
        _, ended = until_killed(TRANSFERRER, "import", there, file, lines=lines, more_s=0.0)
        cut_short += not ended
        assert not verify(there).damaged
    assert cut_short
    assert until_killed(TRANSFERRER, "import", there, file, lines=None, more_s=0.0)[1]
    with embank.open(there, model=HashModel()) as bank:
        kept = bank.collection("kept")
        assert {each.id: each.text for each in kept.list(limit=2 * DOCUMENTS)} == texts
        assert kept.search("text number 77", k=1)[0].id == "d0077"
        assert kept.import_file(file).unchanged == DOCUMENTS
    assert verify(there, full=True).findings == ()
