"""The governor over a machine made of numbers: what counts as held, whom it asks, and how the ladder acts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest
from tests.memory.conftest import Govern
from tests.memory.machine import MB, Cache, Machine, StillClock
from tests.waiting import until

from embank.errors import BudgetExceeded, InvalidInput
from embank.events.kinds import (
    ActionSkipped,
    ActionTaken,
    Event,
    MemoryReleased,
    ReservationRefused,
    RungEntered,
    RungLeft,
)
from embank.events.stream import Stream
from embank.memory.governor import Governor
from embank.memory.meter import Reading
from embank.memory.settings import Settings

# --- what counts as held --------------------------------------------------------------------------------------------


def test_the_tree_is_laid_against_the_budget(govern: Govern, machine: Machine) -> None:
    machine.held_bytes = 30 * MB
    state = govern().snapshot()
    assert (state.real_bytes, state.available_bytes, state.constraint) == (30 * MB, 70 * MB, "budget")
    assert state.pressure == pytest.approx(0.3)


def test_a_group_with_less_room_counts_instead(govern: Govern, machine: Machine) -> None:
    machine.held_bytes = 30 * MB
    machine.cgroup_bytes, machine.cgroup_limit_bytes = 980 * MB, 1000 * MB
    state = govern().snapshot()
    assert (state.real_bytes, state.available_bytes, state.constraint) == (81 * MB, 19 * MB, "cgroup"), (
        "a megabyte is the kernel's"
    )


def test_a_group_with_more_room_does_not(govern: Govern, machine: Machine) -> None:
    machine.held_bytes = 30 * MB
    machine.cgroup_bytes, machine.cgroup_limit_bytes = 900 * MB, 1000 * MB
    assert govern().snapshot().constraint == "budget"


def test_what_the_host_held_before_does_not_count(govern: Govern, machine: Machine) -> None:
    machine.held_bytes = 5000 * MB
    governor = govern(baseline_bytes=5000 * MB)
    assert governor.available_bytes() == 100 * MB
    machine.hold(40 * MB)
    assert governor.available_bytes() == 60 * MB
    machine.held_bytes = 1000 * MB
    assert governor.available_bytes() == 100 * MB, "what the host frees is no gift to Embank"


def test_the_baseline_does_not_shield_from_the_group(govern: Govern, machine: Machine) -> None:
    machine.held_bytes = 5000 * MB
    machine.cgroup_bytes, machine.cgroup_limit_bytes = 5090 * MB, 5100 * MB
    assert govern(baseline_bytes=5000 * MB).available_bytes() == 9 * MB


def test_pressure_is_measured_above_the_floor(govern: Govern, machine: Machine) -> None:
    machine.held_bytes = 40 * MB
    cache = Cache(machine, "cache", 10 * MB)
    governor = govern()
    governor.register(cache)
    assert governor.snapshot().unmanaged_growth_bytes is None
    governor.settle()
    state = governor.snapshot()
    assert state.floor_bytes == 40 * MB
    assert state.pressure == pytest.approx(10 / 60)
    assert state.unmanaged_growth_bytes == 0
    machine.hold(7 * MB)
    assert governor.snapshot().unmanaged_growth_bytes == 7 * MB


def test_a_floor_above_the_budget_is_full_pressure(govern: Govern, machine: Machine) -> None:
    governor = govern()
    machine.held_bytes = 130 * MB
    governor.settle()
    assert governor.snapshot().pressure == pytest.approx(1.3)
    with pytest.raises(BudgetExceeded):
        governor.reserve("anything", 1)


def test_the_peak_is_the_highest_reading(govern: Govern, machine: Machine) -> None:
    governor = govern()
    for held in (10, 60, 20):
        machine.held_bytes = held * MB
        governor.check()
    assert governor.snapshot().peak_bytes == 60 * MB


def test_where_the_kernel_cannot_be_asked_consumers_are_believed(clock: StillClock) -> None:
    class Peak:
        def read(self) -> Reading:
            return Reading(900 * MB, None, None, 1, source="peak")

    machine = Machine()
    cache = Cache(machine, "cache", 90 * MB)
    governor = Governor(100 * MB, meter=Peak(), clock=clock, settings=Settings(check_interval_s=0))
    governor.register(cache)
    state = governor.snapshot()
    assert (state.real_bytes, state.constraint, state.source) == (90 * MB, "managed", "peak")
    with governor.reserve("work", 50 * MB) as reservation:
        assert reservation.granted_bytes == 50 * MB
    assert cache.bytes == 50 * MB


def test_the_budget_can_be_changed(govern: Govern, machine: Machine) -> None:
    machine.held_bytes = 30 * MB
    governor = govern()
    governor.budget_bytes = 50 * MB
    assert (governor.budget_bytes, governor.available_bytes()) == (50 * MB, 20 * MB)
    with pytest.raises(InvalidInput, match="positive"):
        governor.budget_bytes = 0


def test_the_snapshot_is_json(govern: Govern, machine: Machine) -> None:
    governor = govern()
    governor.register(Cache(machine, "cache", 2 * MB))
    governor.register(Cache(machine, "cache", 3 * MB))
    governor.register(Cache(machine, "index", 4 * MB))
    state = governor.snapshot()
    assert state.consumers == (("cache", 2 * MB), ("cache", 3 * MB), ("index", 4 * MB))
    told = json.loads(json.dumps(state.as_dict()))
    assert told["consumers"] == {"cache": 5 * MB, "index": 4 * MB}
    assert told["managed_bytes"] == told["real_bytes"] == 9 * MB
    assert told["rung"] is None


# --- whom it asks ---------------------------------------------------------------------------------------------------


def test_the_cheapest_bytes_go_first_and_no_more_than_needed(govern: Govern, machine: Machine) -> None:
    governor = govern()
    dear, cheap, middle = (
        Cache(machine, name, 10 * MB, cost) for name, cost in (("dear", 9.0), ("cheap", 0.1), ("middle", 1.0))
    )
    for cache in (dear, cheap, middle):
        governor.register(cache)
    assert governor.relieve(15 * MB) == 15 * MB
    assert (cheap.asked, middle.asked, dear.asked) == ([15 * MB], [5 * MB], [])


def test_who_holds_nothing_or_has_left_is_not_asked(govern: Govern, machine: Machine) -> None:
    governor = govern()
    empty, gone = Cache(machine, "empty"), Cache(machine, "gone", MB)
    governor.register(empty)
    with governor.register(gone):
        assert len(governor.snapshot().consumers) == 2
    assert governor.relieve(MB) == 0
    assert (empty.asked, gone.asked) == ([], [])
    assert governor.snapshot().consumers == (("empty", 0),)


def test_consumers_of_higher_rungs_are_left_alone_by_relieve(govern: Govern, machine: Machine) -> None:
    governor = govern()
    cache = Cache(machine, "cache", 10 * MB)
    governor.register(cache, rung="trim")
    assert governor.relieve(MB) == 0
    assert cache.asked == []


def test_an_unknown_rung_is_refused_by_name(govern: Govern, machine: Machine) -> None:
    with pytest.raises(InvalidInput, match="'unlod': there are release, trim, shrink, unload, recycle, refuse"):
        govern().register(Cache(machine, "cache"), rung="unlod")
    with pytest.raises(InvalidInput, match="unlod"):
        govern().register_action("unlod", "x", lambda: 0)


class Liar(Cache):
    """Says that it freed everything, also in its own books, and frees nothing."""

    def release(self, wanted_bytes: int) -> int:
        self.asked.append(wanted_bytes)
        self.bytes = 0
        return wanted_bytes


class Boaster(Cache):
    """Says that it freed everything, and its own books say otherwise."""

    def release(self, wanted_bytes: int) -> int:
        self.asked.append(wanted_bytes)
        return wanted_bytes


class Raiser(Cache):
    def release(self, wanted_bytes: int) -> int:
        self.asked.append(wanted_bytes)
        raise RuntimeError("no")


def test_a_claim_is_not_believed_and_the_next_is_asked(govern: Govern, machine: Machine) -> None:
    governor = govern()
    liar, honest = Liar(machine, "liar", 10 * MB, 0.1), Cache(machine, "honest", 10 * MB, 1.0)
    governor.register(liar)
    governor.register(honest)
    assert governor.relieve(8 * MB) == 8 * MB
    assert honest.bytes == 2 * MB


def test_a_claim_that_nobody_can_find_is_counted(govern: Govern, machine: Machine) -> None:
    governor = govern()
    boaster, honest = Boaster(machine, "boaster", 10 * MB, 0.1), Cache(machine, "honest", 10 * MB, 1.0)
    governor.register(boaster)
    governor.register(honest)
    assert governor.relieve(8 * MB) == 8 * MB
    assert honest.asked == [8 * MB]
    state = governor.snapshot()
    assert (state.consumers_false, state.consumers_failed, state.freed_bytes) == (1, 0, 8 * MB)


def test_a_consumer_that_raises_is_counted_and_the_next_is_asked(
    govern: Govern, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    governor = govern()
    governor.register(Raiser(machine, "raiser", 10 * MB, 0.1))
    governor.register(Cache(machine, "honest", 10 * MB, 1.0))
    assert governor.relieve(8 * MB) == 8 * MB
    assert governor.snapshot().consumers_failed == 1
    assert "raiser failed in release" in caplog.text


def test_answers_that_are_no_numbers_of_bytes_do_no_harm(govern: Govern, machine: Machine) -> None:
    class Odd(Cache):
        def used_bytes(self) -> int:
            return super().used_bytes() if self.asked else 1

        def release(self, wanted_bytes: int) -> int:
            self.asked.append(wanted_bytes)
            return None if len(self.asked) == 1 else -5  # type: ignore[return-value]

        def rebuild_cost(self) -> float:
            return float("nan")

    governor = govern()
    governor.register(Odd(machine, "odd", 3 * MB))
    assert governor.relieve(MB) == 0
    assert governor.relieve(MB) == 0
    assert governor.snapshot().consumers_failed == 1


@pytest.mark.parametrize("raises", [True, False])
def test_a_consumer_that_cannot_tell_its_books_or_cost_comes_last(
    govern: Govern, machine: Machine, *, raises: bool
) -> None:
    class Dumb(Cache):
        def rebuild_cost(self) -> float:
            if raises:
                raise RuntimeError("no idea")
            return float("nan")

    class Blank(Cache):
        def used_bytes(self) -> int:
            raise RuntimeError("no idea")

    governor = govern()
    dumb, honest = Dumb(machine, "dumb", 10 * MB), Cache(machine, "honest", 8 * MB, cost=1e9)
    cheap = Cache(machine, "cheap", 2 * MB, cost=1e-9)
    for cache in (honest, dumb, cheap):
        governor.register(cache)
    governor.register(Blank(machine, "blank", 10 * MB))
    assert governor.relieve(12 * MB) == 12 * MB
    assert (cheap.bytes, honest.bytes, dumb.bytes) == (0, 0, 8 * MB), "who can't tell its cost comes last"
    state = governor.snapshot()
    assert dict(state.consumers)["blank"] == 0
    assert state.consumers_failed >= 1 + raises


def test_a_slow_consumer_is_counted(govern: Govern, machine: Machine, clock: StillClock) -> None:
    class Slow(Cache):
        def release(self, wanted_bytes: int) -> int:
            clock.sleep(3)
            return super().release(wanted_bytes)

    governor = govern()
    governor.register(Slow(machine, "slow", 10 * MB))
    assert governor.relieve(MB) == MB
    assert governor.snapshot().consumers_slow == 1


def test_a_consumer_that_hangs_holds_nobody_else_up(machine: Machine) -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Hung(Cache):
        def release(self, wanted_bytes: int) -> int:
            inside.set()
            assert go_on.wait(30)
            return super().release(wanted_bytes)

    governor = Governor(100 * MB, meter=machine, settings=Settings(slow_release_s=0.01))
    hung = Hung(machine, "hung", 10 * MB, cost=0.1)
    governor.register(hung)
    governor.register(Cache(machine, "honest", 80 * MB, cost=1.0))
    stuck = threading.Thread(target=governor.relieve, args=(MB,))
    stuck.start()
    try:
        assert inside.wait(30)
        with governor.reserve("fits", 10 * MB), governor.reserve("fits after a release", 10 * MB) as second:
            assert second.granted_bytes == 10 * MB
        governor.check()
        assert governor.snapshot().consumers[0] == ("hung", 10 * MB)
        assert governor.snapshot().consumers_slow == 0, "it has not ended yet"
    finally:
        go_on.set()
        stuck.join()
    until(lambda: governor.snapshot().consumers_slow == 1)
    assert hung.bytes == 9 * MB
    assert governor.relieve(MB) == MB


def test_a_consumer_may_call_the_governor_from_its_release(govern: Govern, machine: Machine) -> None:
    seen: list[object] = []

    class Curious(Cache):
        def release(self, wanted_bytes: int) -> int:
            seen.extend([governor.snapshot().reserved_bytes, governor.relieve(MB)])
            with governor.reserve("a buffer to write back", MB) as reservation:
                seen.append(reservation.granted_bytes)
            return super().release(wanted_bytes)

    governor = govern()
    governor.register(Curious(machine, "curious", 10 * MB))
    assert governor.relieve(5 * MB) == 5 * MB
    assert seen == [0, 0, MB]


def noting(acted: list[str], name: str = "act") -> Callable[[], int]:
    """An action that frees nothing and leaves a note."""

    def act() -> int:
        acted.append(name)
        return 0

    return act


# --- how the ladder acts --------------------------------------------------------------------------------------------


def test_the_release_rung_brings_pressure_to_its_way_down(govern: Govern, machine: Machine) -> None:
    cache = Cache(machine, "cache", 72 * MB)
    governor = govern()
    governor.register(cache)
    governor.check()
    assert cache.asked == [13 * MB], "to 60 % and a little further"
    state = governor.snapshot()
    assert (state.real_bytes, state.rung, state.actions, state.actions_futile) == (59 * MB, None, 1, 0)


def test_the_release_rung_asks_no_more_consumers_than_needed(govern: Govern, machine: Machine) -> None:
    governor = govern()
    cheap, dear = Cache(machine, "cheap", 40 * MB, cost=0.1), Cache(machine, "dear", 40 * MB, cost=1.0)
    governor.register(dear)
    governor.register(cheap)
    governor.check()
    assert (cheap.asked, dear.asked) == ([21 * MB], [])


def test_below_the_mark_nothing_is_asked(govern: Govern, machine: Machine) -> None:
    cache = Cache(machine, "cache", 69 * MB)
    governor = govern()
    governor.register(cache)
    governor.check()
    assert (cache.asked, governor.snapshot().rung) == ([], None)


def test_it_climbs_to_refusal_when_nothing_helps_and_comes_down_again(govern: Govern, machine: Machine) -> None:
    with Stream() as stream, stream.subscribe() as events:
        governor = govern(stream=stream)
        machine.held_bytes = 96 * MB
        governor.check()
        assert governor.snapshot().rung == "refuse"
        with pytest.raises(BudgetExceeded) as refusal:
            governor.reserve("new work", 1)
        assert refusal.value.fields == {
            "what": "new work",
            "wanted_bytes": 1,
            "available_bytes": 0,
            "budget_bytes": 100 * MB,
        }
        machine.held_bytes = 79 * MB
        with governor.reserve("work after it fell", MB):
            pass
        machine.held_bytes = 67 * MB
        governor.check()
        machine.held_bytes = 10 * MB
        governor.check()
        story = [describe(event) for event in events.drain() if not isinstance(event, ActionTaken | ActionSkipped)]
    assert story == [
        ("enter release", 0.96),
        ("enter trim", 0.96),
        ("enter shrink", 0.96),
        ("enter unload", 0.96),
        ("enter recycle", 0.96),
        ("enter refuse", 0.96),
        ("refuse new work", 0),
        ("leave refuse", 0.79),
        ("leave recycle", 0.67),
        ("leave unload", 0.67),
        ("leave shrink", 0.67),
        ("leave trim", 0.67),
        ("leave release", 0.10),
    ]


def describe(event: Event) -> tuple[str, float]:
    if isinstance(event, RungEntered):
        return f"enter {event.rung}", event.pressure
    if isinstance(event, RungLeft):
        return f"leave {event.rung}", event.pressure
    assert isinstance(event, ReservationRefused)
    return f"refuse {event.what}", event.available_bytes


def test_a_release_that_helps_keeps_it_from_climbing(govern: Govern, machine: Machine) -> None:
    machine.held_bytes = 70 * MB
    governor = govern()
    governor.register(Cache(machine, "cache", 29 * MB))
    governor.check()
    state = governor.snapshot()
    assert (state.rung, state.real_bytes) == ("release", 70 * MB)


def test_actions_of_a_rung_are_taken_and_measured(govern: Govern, machine: Machine, clock: StillClock) -> None:
    machine.held_bytes = 80 * MB

    def shrink() -> int:
        machine.hold(-3 * MB)
        clock.sleep(0.25)
        return 50 * MB

    with Stream() as stream, stream.subscribe(kinds=[ActionTaken]) as events:
        governor = govern(stream=stream)
        governor.register_action("trim", "shrink", shrink)
        governor.check()
        taken = [event for event in events.drain() if isinstance(event, ActionTaken) and event.action == "shrink"]
    assert [(one.rung, one.freed_bytes, one.seconds) for one in taken] == [("trim", 3 * MB, 0.25)]


def test_an_action_that_raises_does_not_stop_the_others(govern: Govern, machine: Machine) -> None:
    machine.held_bytes = 80 * MB
    acted: list[str] = []

    def fail() -> int:
        acted.append("fail")
        raise RuntimeError("no")

    governor = govern()
    governor.register_action("release", "fail", fail)
    governor.register_action("release", "work", noting(acted, "work"))
    governor.check()
    assert acted == ["fail", "work"]
    assert governor.snapshot().consumers_failed == 1


def test_the_action_of_a_closed_registration_is_not_taken(govern: Govern, machine: Machine) -> None:
    machine.held_bytes = 80 * MB
    acted: list[str] = []
    governor = govern()
    registration = governor.register_action("release", "x", noting(acted))
    registration.close()
    registration.close()
    governor.check()
    assert acted == []


def test_what_freed_nothing_is_not_repeated_until_pressure_rises(
    govern: Govern, machine: Machine, clock: StillClock
) -> None:
    useless = Boaster(machine, "useless", 72 * MB)
    governor = govern(cooldown_s=5)
    governor.register(useless)
    for _ in range(10):
        governor.check()
        clock.sleep(10)
    assert len(useless.asked) == 1
    machine.hold(MB)
    governor.check()
    assert len(useless.asked) == 2
    assert governor.snapshot().actions_futile == 2


def test_two_of_the_same_name_are_two(govern: Govern, machine: Machine) -> None:
    governor = govern()
    caches = [Cache(machine, "cache", 36 * MB, cost) for cost in (1.0, 2.0)]
    caches[0].release(30 * MB)
    machine.hold(30 * MB)
    for cache in caches:
        governor.register(cache)
    governor.check()
    assert [cache.asked[-1] for cache in caches] == [13 * MB, 7 * MB]


def test_what_helps_is_repeated_after_the_cool_down(govern: Govern, machine: Machine, clock: StillClock) -> None:
    class Slowly(Cache):
        def release(self, wanted_bytes: int) -> int:
            return super().release(min(wanted_bytes, MB))

    cache = Slowly(machine, "cache", 72 * MB)
    governor = govern(cooldown_s=5)
    governor.register(cache)
    asked = []
    for _ in range(4):
        governor.check()
        asked.append(len(cache.asked))
        clock.sleep(2.5)
    assert asked == [1, 1, 2, 2]


def test_checks_are_rate_limited_by_the_clock(govern: Govern, machine: Machine, clock: StillClock) -> None:
    governor = govern(check_interval_s=1.0)
    governor.check()
    machine.held_bytes = 96 * MB
    clock.sleep(0.9)
    governor.check()
    assert governor.snapshot().rung is None
    clock.sleep(0.1)
    governor.check()
    assert governor.snapshot().rung == "refuse"


def test_a_dry_run_says_what_it_would_do_and_does_nothing(govern: Govern, machine: Machine) -> None:
    cache = Cache(machine, "cache", 96 * MB)
    acted: list[str] = []
    with Stream() as stream, stream.subscribe(kinds=[ActionTaken, MemoryReleased]) as events:
        governor = govern(dry_run=True, stream=stream)
        governor.register(cache)
        governor.register_action("release", "pause", noting(acted))
        for _ in range(3):
            governor.check()
        state = governor.snapshot()
        assert (state.dry_run, state.rung, state.actions) == (True, "refuse", 0)
        assert {"release cache", "pause"} <= set(state.would)
        assert (cache.asked, acted, events.drain()) == ([], [], [])
        with governor.reserve("work goes on", MB) as reservation:
            assert reservation.granted_bytes == MB
        with pytest.raises(BudgetExceeded):
            governor.reserve("the budget holds all the same", 101 * MB)


def test_releases_are_told_as_measured(govern: Govern, machine: Machine) -> None:
    with Stream() as stream, stream.subscribe(kinds=[MemoryReleased]) as events:
        governor = govern(stream=stream)
        governor.register(Cache(machine, "cache", 10 * MB))
        governor.register(Boaster(machine, "boaster", 10 * MB, cost=0.1))
        governor.relieve(4 * MB)
        told = [event for event in events.drain() if isinstance(event, MemoryReleased)]
    assert [(one.consumer, one.wanted_bytes, one.freed_bytes) for one in told] == [
        ("boaster", 4 * MB, 0),
        ("cache", 4 * MB, 4 * MB),
    ]
    assert told[0].at > 1_700_000_000


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_must_be_positive(govern: Govern, budget: int) -> None:
    with pytest.raises(InvalidInput, match="positive"):
        govern(budget)


def test_what_a_child_holds_explains_no_growth_of_this_process(govern: Govern, machine: Machine) -> None:
    governor = govern()
    here, there = Cache(machine, "here", 3 * MB), Cache(machine, "there", 5 * MB)
    governor.register(here)
    governor.register(there, rung="unload", in_child=True)
    assert governor.managed_bytes() == 8 * MB
    assert governor.managed_here_bytes() == 3 * MB
    assert governor.consumers_here() == (here,)
