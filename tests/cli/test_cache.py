"""`embank cache`: what it tells people and programs, and clearing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from embank.store.lock import WriterLock

Run = Callable[..., Result]


@pytest.fixture
def kept(run: Run, notes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The notes, indexed, with their vectors on disk."""
    monkeypatch.setenv("EMBANK_CACHE__DISK", "true")
    assert run("index", notes).exit_code == 0
    return notes.parent / "embank.bank"


@pytest.mark.usefixtures("kept")
def test_programs_get_every_counter(run: Run) -> None:
    said = json.loads(run("cache", "--json").stdout)
    assert said["embeddings"]["second"]["entries"] == 3
    assert said["embeddings"]["limit_bytes"] == 100_000_000
    for counter in ("hits", "misses", "evictions", "hit_rate", "lru_hit_rate", "seconds_saved", "oldest_age_s"):
        assert said["embeddings"][counter] == 0
    assert said["results"]["limit_bytes"] == 8_000_000
    assert said["disk_limit_bytes"] == 1_000_000_000


@pytest.mark.usefixtures("kept")
def test_people_see_a_row_for_each(run: Run) -> None:
    told = run("cache").stdout
    for word in ("embeddings", "disk", "search results", "hit rate", "LRU", "saved", "100 MB"):
        assert word in told


@pytest.mark.usefixtures("kept")
def test_what_was_embedded_once_is_found_by_the_next_command(run: Run, workplace: Path) -> None:
    (workplace / "again").mkdir()
    (workplace / "again" / "rivers.md").write_bytes((workplace / "notes" / "rivers.md").read_bytes())
    assert run("index", "again", "-c", "other").exit_code == 0
    assert json.loads(run("cache", "--json").stdout)["embeddings"]["second"]["entries"] == 3


@pytest.mark.usefixtures("kept")
def test_clearing_empties_the_disk_and_changes_no_answer(run: Run) -> None:
    before = json.loads(run("search", "silt", "--json").stdout)
    cleared = json.loads(run("cache", "clear", "--json").stdout)
    assert cleared["disk_freed_bytes"] > 0
    assert json.loads(run("cache", "--json").stdout)["embeddings"]["second"]["entries"] == 0
    after = json.loads(run("search", "silt", "--json").stdout)
    assert [hit["id"] for hit in after["hits"]] == [hit["id"] for hit in before["hits"]]
    assert "the caches are empty" in run("cache", "clear").stdout


def test_a_bank_that_another_process_writes_is_shown_but_not_cleared(run: Run, kept: Path) -> None:
    lock = WriterLock(kept / "LOCK")
    try:
        assert run("cache").exit_code == 0
        assert "another" in run("cache", "clear").stderr or "process" in run("cache", "clear").stderr
        assert run("cache", "clear").exit_code != 0
    finally:
        lock.close()


@pytest.mark.usefixtures("filled")
def test_what_is_off_is_said_to_be(run: Run) -> None:
    assert "embeddings on disk: off (cache.disk)" in run("cache").stdout
    told = run("cache", "--set", "cache.enabled=false", "--set", "cache.results=false").stdout
    assert "embeddings: off (cache.enabled)" in told
    assert "search results: off (cache.results)" in told


def test_without_a_bank_there_is_nothing_to_show(run: Run) -> None:
    result = run("cache")
    assert result.exit_code != 0
    assert "there is no bank" in result.stderr


@pytest.mark.usefixtures("filled")
def test_an_action_there_is_not_is_a_usage_error(run: Run) -> None:
    assert run("cache", "empty").exit_code == 2
