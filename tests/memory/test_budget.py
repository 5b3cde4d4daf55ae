"""Budgets: which are refused, which are cut, and changing one under load."""

from __future__ import annotations

import threading

import pytest
from tests.memory.conftest import Govern
from tests.memory.machine import MB, Cache, Machine

from embank.errors import BudgetBelowFloor, BudgetExceeded, InvalidInput
from embank.events.kinds import BudgetCapped, BudgetChanged, BudgetTooSmall, RungEntered
from embank.events.stream import Stream


@pytest.mark.parametrize("budget", [0, -5 * MB])
def test_no_budget_at_all_is_refused_with_the_least_that_would_work(
    govern: Govern, machine: Machine, budget: int
) -> None:
    machine.held_bytes = 40 * MB
    with pytest.raises(InvalidInput, match=r"must be positive.*48\.0 MB or more") as refusal:
        govern(budget)
    assert refusal.value.fields == {"budget_bytes": budget, "floor_bytes": 40 * MB, "least_bytes": 48 * MB}
    assert govern(48 * MB).available_bytes() == 8 * MB


def test_a_budget_below_what_is_held_already_is_refused_and_why(govern: Govern, machine: Machine) -> None:
    machine.held_bytes = 40 * MB
    with pytest.raises(BudgetBelowFloor, match=r"budget of 30\.0 MB can't work: 40\.0 MB are held already") as refusal:
        govern(30 * MB)
    assert refusal.value.fields["least_bytes"] == 48 * MB
    assert govern(30 * MB, baseline_bytes=40 * MB).budget_bytes == 30 * MB, "what the host holds is no matter"


def test_the_least_allows_for_the_largest_work_known(govern: Govern, machine: Machine) -> None:
    machine.held_bytes = 40 * MB
    governor = govern()
    with governor.reserve("a model", 35 * MB):
        pass
    governor.settle()
    with pytest.raises(BudgetBelowFloor) as refusal:
        governor.budget_bytes = 40 * MB
    assert refusal.value.fields["least_bytes"] == 75 * MB
    assert governor.budget_bytes == 100 * MB, "nothing was changed"


def test_what_consumers_hold_is_no_reason_to_refuse(govern: Govern, machine: Machine) -> None:
    cache = Cache(machine, "cache", 60 * MB)
    machine.hold(20 * MB)
    governor = govern()
    governor.register(cache)
    governor.budget_bytes = 50 * MB
    assert governor.budget_bytes == 50 * MB


def test_a_budget_above_the_groups_limit_is_cut_and_said(
    govern: Govern, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.held_bytes = 10 * MB
    machine.cgroup_bytes, machine.cgroup_limit_bytes = 20 * MB, 256 * MB
    with Stream() as stream, stream.subscribe(kinds=[BudgetCapped, BudgetChanged]) as events:
        governor = govern(1000 * MB, stream=stream)
        assert governor.budget_bytes == 255 * MB, "a megabyte is the kernel's"
        governor.budget_bytes = 2000 * MB
        told = events.drain()
    assert [(event.kind, getattr(event, "asked_bytes", 0)) for event in told] == [
        ("BudgetCapped", 1000 * MB),
        ("BudgetCapped", 2000 * MB),
    ]
    assert "more than the control group may hold" in caplog.text


def test_a_floor_that_turns_out_above_the_budget_is_said(govern: Govern, machine: Machine) -> None:
    with Stream() as stream, stream.subscribe(kinds=[BudgetTooSmall]) as events:
        governor = govern(50 * MB, stream=stream)
        machine.held_bytes = 60 * MB
        governor.settle()
        (told,) = events.drain()
    assert isinstance(told, BudgetTooSmall)
    assert (told.floor_bytes, told.least_bytes) == (60 * MB, 68 * MB)


def test_a_smaller_budget_has_consumers_release_at_once_and_moves_the_ladder(govern: Govern, machine: Machine) -> None:
    cache = Cache(machine, "cache", 70 * MB)
    machine.hold(10 * MB)
    with Stream() as stream, stream.subscribe(kinds=[BudgetChanged, RungEntered]) as events:
        governor = govern(200 * MB, stream=stream, check_interval_s=3600)
        governor.register(cache)
        governor.check()
        governor.budget_bytes = 50 * MB
        told = [event.kind for event in events.drain()]
    assert machine.held_bytes <= 30 * MB, "below the marks of the ladder, whatever the interval of checks"
    assert told[:2] == ["BudgetChanged", "RungEntered"]
    assert governor.snapshot().last_actions[0].why == "30.0 MB for a smaller budget"


def test_a_larger_budget_brings_the_ladder_down(govern: Govern, machine: Machine) -> None:
    machine.held_bytes = 96 * MB
    governor = govern()
    governor.check()
    with pytest.raises(BudgetExceeded):
        governor.reserve("work", MB)
    governor.budget_bytes = 200 * MB
    assert governor.snapshot().rung is None
    with governor.reserve("work", 50 * MB) as reservation:
        assert reservation.granted_bytes == 50 * MB


def test_the_budget_changes_under_load_and_is_kept_to_at_every_moment(govern: Govern, machine: Machine) -> None:
    """Work goes on in four threads while the budget goes up and down; what is promised always fits what it was."""
    governor = govern(100 * MB)
    stop = threading.Event()
    promised, most = 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal promised, most
        while not stop.is_set():
            try:
                reservation = governor.reserve("work", 40 * MB, least_bytes=MB, wait_s=0.05)
            except BudgetExceeded:
                continue
            with lock:
                promised += reservation.granted_bytes
                most = max(most, promised)
                promised -= reservation.granted_bytes
            reservation.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for budget in (100, 30, 100, 10, 60, 20) * 5:
        governor.budget_bytes = budget * MB
    governor.budget_bytes = 20 * MB
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert most <= 100 * MB
    assert (governor.snapshot().reserved_bytes, governor.available_bytes()) == (0, 20 * MB)
