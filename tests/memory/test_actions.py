"""The whole ladder in the governor's hands: rung by rung, up and down, and why nothing is done."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from tests.memory.conftest import Govern
from tests.memory.machine import MB, Cache, Machine, StillClock
from tests.waiting import until

from embank.errors import BudgetExceeded
from embank.events.kinds import ActionSkipped, ActionTaken, Event, RungEntered, RungLeft
from embank.events.stream import Stream, Subscription
from embank.memory.settings import Settings

RUNGS = Settings().rungs()
NAMES = [rung.name for rung in RUNGS]


@pytest.fixture
def noted() -> list[str]:
    """Names of the rungs whose action was taken."""
    return []


def note(noted: list[str], name: str) -> Callable[[], int]:
    def act() -> int:
        noted.append(name)
        return 0

    return act


def skips(events: Subscription) -> list[tuple[str, str, str]]:
    return [(event.rung, event.action, event.reason) for event in events.drain() if isinstance(event, ActionSkipped)]


@pytest.mark.parametrize("place", range(len(RUNGS)), ids=NAMES)
def test_each_rung_takes_its_own_actions_and_those_below_it(
    govern: Govern, machine: Machine, noted: list[str], place: int
) -> None:
    governor = govern()
    for name in NAMES:
        governor.register_action(name, name, note(noted, name), after_s=0)
    machine.held_bytes = round(RUNGS[place].enter * 100) * MB - 1
    governor.check()
    assert set(noted) == set(NAMES[:place])
    machine.hold(1)
    noted.clear()
    for _ in RUNGS:
        governor.check()
    assert NAMES[place] in noted
    assert not set(NAMES[place + 1 :]) & set(noted)
    assert governor.snapshot().rung == NAMES[place]


@pytest.mark.parametrize("helping", range(len(RUNGS)), ids=NAMES)
def test_it_climbs_to_the_first_rung_that_helps_and_no_further(
    govern: Govern, machine: Machine, noted: list[str], helping: int
) -> None:
    """From full memory: what lower rungs do frees nothing, what this one does frees all that is asked for."""
    with Stream() as stream, stream.subscribe(kinds=[RungEntered, RungLeft]) as events:
        governor = govern(stream=stream)

        def help_out() -> int:
            noted.append(NAMES[helping])
            machine.held_bytes = 10 * MB
            return 0

        for place, name in enumerate(NAMES):
            act = help_out if place == helping else note(noted, name)
            governor.register_action(name, name, act, after_s=0)
        machine.held_bytes = 99 * MB
        governor.check()
        governor.check()
        moves = [(event.kind, rung_of(event)) for event in events.drain()]
    assert set(noted) == set(NAMES[: helping + 1])
    up = [("RungEntered", name) for name in NAMES[: helping + 1]]
    assert moves == up + [("RungLeft", name) for name in reversed(NAMES[: helping + 1])]


def rung_of(event: Event) -> str:
    assert isinstance(event, RungEntered | RungLeft)
    return event.rung


def test_models_go_at_their_rung_and_not_before(govern: Govern, machine: Machine) -> None:
    model = Cache(machine, "model", 30 * MB)
    governor = govern()
    governor.register(model, rung="unload")
    machine.held_bytes = 84 * MB
    governor.check()
    assert model.asked == []
    machine.held_bytes = 86 * MB
    governor.check()
    assert len(model.asked) == 1


def test_a_reservation_asks_caches_before_models(govern: Govern, machine: Machine) -> None:
    model, cache = Cache(machine, "model", 40 * MB, cost=0.01), Cache(machine, "cache", 20 * MB, cost=100.0)
    governor = govern()
    governor.register(model, rung="unload")
    governor.register(cache)
    with governor.reserve("a batch", 50 * MB):
        assert (cache.asked, model.asked) == ([10 * MB], [])
    with governor.reserve("a large batch", 80 * MB):
        assert (cache.bytes, model.bytes) == (0, 20 * MB)


def test_a_restart_is_asked_for_only_when_refusing_goes_on(
    govern: Govern, machine: Machine, clock: StillClock, noted: list[str]
) -> None:
    machine.held_bytes = 97 * MB
    governor = govern(restart_after_s=60)
    governor.register_action("refuse", "ask for a restart", note(noted, "restart"))
    for _ in range(10):
        governor.check()
        clock.sleep(5.9)
    assert noted == []
    machine.held_bytes = 50 * MB
    governor.check()
    machine.held_bytes = 97 * MB
    for _ in range(10):
        governor.check()
        clock.sleep(5.9)
    assert noted == [], "it was left in between"
    clock.sleep(10)
    governor.check()
    assert noted == ["restart"]


def test_escalation_waits_while_pressure_falls_and_says_so_once(govern: Govern, machine: Machine) -> None:
    with Stream() as stream, stream.subscribe(kinds=[ActionSkipped]) as events:
        governor = govern(stream=stream)
        machine.held_bytes = 71 * MB
        governor.check()
        machine.held_bytes = 90 * MB
        governor.check()
        assert governor.snapshot().rung == "unload"
        for held in (99, 98, 97, 96):
            machine.held_bytes = held * MB
            governor.check()
        told = skips(events)
    assert governor.snapshot().rung == "refuse", "it rose from 90 to 99: up it went, and stays there"
    assert ("refuse", "", "falling") not in told


def test_a_fall_through_a_mark_is_no_reason_to_climb(govern: Govern, machine: Machine) -> None:
    with Stream() as stream, stream.subscribe(kinds=[ActionSkipped]) as events:
        governor = govern(stream=stream)
        machine.held_bytes = 74 * MB
        governor.check()

        def fall() -> int:
            machine.hold(-MB)
            return 0

        governor.register_action("release", "fall", fall)
        machine.held_bytes = 99 * MB
        for _ in range(4):
            machine.hold(-MB)
            governor.check()
        told = skips(events)
    assert told.count(("trim", "", "falling")) <= 1


@pytest.mark.parametrize("times", [3, 30])
def test_doing_nothing_is_told_once_and_not_each_time(
    govern: Govern, machine: Machine, clock: StillClock, noted: list[str], times: int
) -> None:
    with Stream() as stream, stream.subscribe(kinds=[ActionSkipped]) as events:
        governor = govern(stream=stream, cooldown_s=5)
        governor.register_action("release", "useless", note(noted, "useless"))
        machine.held_bytes = 72 * MB
        for _ in range(times):
            governor.check()
            clock.sleep(2.5)
        first = skips(events)
        machine.held_bytes = 10 * MB
        governor.check()
        machine.held_bytes = 72 * MB
        governor.check()
        governor.check()
        again = skips(events)
    assert first == [("release", "useless", "cool-down"), ("release", "useless", "fruitless")]
    assert again == [("release", "useless", "cool-down")], "a new episode"
    assert noted == ["useless"] * 2


def test_a_dry_run_tells_once_what_it_would_do(govern: Govern, machine: Machine, noted: list[str]) -> None:
    with Stream() as stream, stream.subscribe(kinds=[ActionSkipped]) as events:
        governor = govern(stream=stream, dry_run=True)
        governor.register_action("recycle", "recycle", note(noted, "recycle"))
        machine.held_bytes = 93 * MB
        for _ in range(5):
            governor.check()
        told = skips(events)
    assert told.count(("recycle", "recycle", "dry run")) == 1
    assert (noted, governor.snapshot().rung) == ([], "recycle")


def test_what_was_done_is_kept_with_its_reason(govern: Govern, machine: Machine, clock: StillClock) -> None:
    governor = govern()
    governor.register(Cache(machine, "cache", 72 * MB))
    governor.check()
    clock.sleep(1)
    with governor.reserve("a batch", 60 * MB):
        pass
    first, second = governor.snapshot().last_actions
    assert (first.rung, first.action, first.freed_bytes) == ("release", "release cache", 13 * MB)
    assert first.why == "pressure 0.72, release from 0.7"
    assert (second.rung, second.action, second.freed_bytes) == ("", "release cache", 19 * MB)
    assert second.why == "19.0 MB for a batch"
    assert second.at == first.at + 1


def test_only_the_latest_actions_are_kept(govern: Govern, machine: Machine) -> None:
    governor = govern()
    cache = Cache(machine, "cache", 90 * MB)
    governor.register(cache)
    for _ in range(50):
        governor.relieve(MB)
    assert len(governor.snapshot().last_actions) == 32


# --- actions that misbehave -----------------------------------------------------------------------------------------


def test_an_action_that_never_returns_stops_nobody(machine: Machine, govern: Govern, clock: StillClock) -> None:
    inside, go_on = threading.Event(), threading.Event()
    calls: list[str] = []

    def hang() -> int:
        calls.append("hang")
        clock.sleep(2)  # longer than slow_release_s: from here on it is waited for no more
        inside.set()
        assert go_on.wait(30)
        return 0

    machine.held_bytes = 93 * MB
    with Stream() as stream, stream.subscribe(kinds=[ActionTaken, ActionSkipped]) as events:
        governor = govern(stream=stream)
        governor.register_action("recycle", "hang", hang)
        governor.register_action("recycle", "next", note(calls, "next"))
        try:
            governor.check()
            assert calls == ["hang", "next"]
            clock.sleep(10)
            machine.hold(MB)
            governor.check()
            assert calls == ["hang", "next", "next"], "it is not called again before it has ended"
            with pytest.raises(BudgetExceeded):
                governor.reserve("work", 20 * MB)
            assert governor.snapshot().rung == "recycle"
        finally:
            go_on.set()
        told = events.drain()
    until(lambda: governor.snapshot().consumers_slow >= 1)
    said = [describe(event) for event in told if "hang" in describe(event)]
    assert said[0] == "hang goes on"
    assert said.count("hang is under way") == 1
    clock.sleep(10)
    machine.hold(MB)
    governor.check()
    assert calls.count("hang") == 2, "it has ended: it may be called again"
    go_on.set()


def describe(event: Event) -> str:
    if isinstance(event, ActionTaken):
        return f"{event.action} {'ended' if event.done else 'goes on'}"
    assert isinstance(event, ActionSkipped)
    return f"{event.action} is {event.reason}"


def test_a_hanging_consumer_is_waited_for_once(machine: Machine, govern: Govern, clock: StillClock) -> None:
    go_on = threading.Event()

    class Hung(Cache):
        def release(self, wanted_bytes: int) -> int:
            clock.sleep(2)
            assert go_on.wait(30)
            return super().release(wanted_bytes)

    governor = govern()
    governor.register(Hung(machine, "hung", 10 * MB, cost=0.1))
    governor.register(Cache(machine, "honest", 80 * MB, cost=1.0))
    try:
        with governor.reserve("first", 15 * MB):
            pass
        before_s = clock.time_s
        for _ in range(20):
            with governor.reserve("again", 20 * MB):
                pass
        assert clock.time_s == before_s
    finally:
        go_on.set()
    until(lambda: governor.snapshot().consumers_slow == 1)


def test_a_clock_that_is_set_back_stops_neither_checks_nor_actions(
    govern: Govern, machine: Machine, clock: StillClock
) -> None:
    governor = govern(check_interval_s=1.0)
    cache = Cache(machine, "cache", 60 * MB)
    governor.register(cache)
    machine.hold(12 * MB)
    governor.check()
    assert len(cache.asked) == 1
    clock.sleep(-3600)
    clock.sleep(1)
    machine.hold(30 * MB)
    governor.check()
    clock.sleep(1)
    governor.check()
    assert len(cache.asked) >= 2
