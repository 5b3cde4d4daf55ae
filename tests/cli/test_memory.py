"""`embank memory`: what it tells people and programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from embank.store.lock import WriterLock

Run = Callable[..., Result]


@pytest.mark.usefixtures("filled")
def test_programs_get_the_whole_snapshot(run: Run) -> None:
    said = json.loads(run("memory", "--memory", "4GB", "--json").stdout)
    assert said["budget_bytes"] == 4_000_000_000
    assert 0 < said["real_bytes"] < 4_000_000_000
    assert said["process_bytes"]
    assert [rung["name"] for rung in said["rungs"]] == ["release", "trim", "shrink", "unload", "recycle", "refuse"]
    assert said["unmanaged_growth_bytes"] is None, "no model was loaded, so no floor was taken"
    assert "monitor" in said
    assert "stall" in said


@pytest.mark.usefixtures("filled")
def test_warm_loads_the_model_and_counts_it(run: Run) -> None:
    said = json.loads(run("memory", "--warm", "--json").stdout)
    assert said["consumers"]["model wordllama"] > 0
    assert said["floor_bytes"] > 0
    assert said["unmanaged_growth_bytes"] is not None


@pytest.mark.usefixtures("filled")
def test_people_see_ledgers_ladder_and_notes(run: Run) -> None:
    result = run("memory", "--warm", "--memory", "4GB")
    assert result.exit_code == 0, result.output
    told = result.stdout
    assert "of the budget of 4.0 GB" in told
    for word in ("floor", "managed", "model wordllama", "unmanaged", "reserved", "available", "peak"):
        assert word in told
    places = [told.index(f"{rung} ") for rung in ("refuse", "recycle", "unload", "shrink")]
    assert places == sorted(places), "the ladder, highest rung first"
    assert "of the room above the floor" in told
    assert "kernel pressure" in told
    assert "monitor" in told


@pytest.mark.usefixtures("filled")
def test_what_is_off_is_said_to_be(run: Run) -> None:
    told = run("memory", "--set", "memory.monitor=false", "--set", "memory.enabled=false").stdout
    assert "monitor: off" in told
    assert "no budget (memory.enabled is off)" in told


def test_it_works_beside_a_process_that_writes(run: Run, filled: Path) -> None:
    lock = WriterLock(filled / "LOCK")
    try:
        assert run("memory").exit_code == 0
    finally:
        lock.close()


@pytest.mark.usefixtures("filled")
def test_a_budget_that_cannot_work_is_refused_with_one_that_would(run: Run) -> None:
    result = run("memory", "--memory", "5MB")
    assert result.exit_code == 5
    assert "can't work" in result.stderr
    assert "set memory.budget to" in result.stderr
