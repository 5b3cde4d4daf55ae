"""The ladder as a pure state machine: pressures and a clock in, rungs and permissions out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.memory.machine import StillClock

from embank.errors import InvalidInput
from embank.memory.ladder import Ladder, Rung
from embank.memory.settings import Settings

RUNGS = Settings().rungs()
RELEASE, TRIM, SHRINK, UNLOAD, RECYCLE, REFUSE = RUNGS


@pytest.fixture
def ladder(clock: StillClock) -> Ladder:
    return Ladder(Settings().rungs(), cooldown_s=5.0, clock=clock)


def entered(ladder: Ladder, *pressures: float) -> list[str | None]:
    steps = [ladder.step(pressure) for pressure in pressures]
    return [step.entered.name if step.entered else None for step in steps]


def test_the_marks_are_those_of_the_design() -> None:
    assert [(rung.name, rung.enter, rung.leave) for rung in Settings().rungs()] == [
        ("release", 0.70, 0.60),
        ("trim", 0.75, 0.68),
        ("shrink", 0.80, 0.70),
        ("unload", 0.85, 0.72),
        ("recycle", 0.92, 0.75),
        ("refuse", 0.95, 0.80),
    ]


@pytest.mark.parametrize("place", range(len(RUNGS)), ids=[rung.name for rung in RUNGS])
def test_each_rung_is_entered_at_its_mark_and_left_below_its_own_way_down(ladder: Ladder, place: int) -> None:
    rung = RUNGS[place]
    climb(ladder, rung.enter - 0.001)
    assert ladder.active == RUNGS[:place]
    assert ladder.step(rung.enter).entered == rung
    assert ladder.rung == rung
    assert ladder.step(rung.leave).left == ()
    assert ladder.active == RUNGS[: place + 1]
    left = ladder.step(rung.leave - 0.001).left
    assert left[0] == rung
    assert ladder.active == tuple(lower for lower in RUNGS[:place] if rung.leave - 0.001 >= lower.leave)


def climb(ladder: Ladder, pressure: float) -> None:
    for _ in RUNGS:
        ladder.step(pressure)


def test_up_and_down_the_whole_ladder_mark_by_mark(ladder: Ladder) -> None:
    up = entered(ladder, *(rung.enter for rung in RUNGS))
    assert up == ["release", "trim", "shrink", "unload", "recycle", "refuse"]
    down = [[rung.name for rung in ladder.step(rung.leave - 0.001).left] for rung in reversed(RUNGS)]
    assert down == [["refuse"], ["recycle"], ["unload"], ["shrink"], ["trim"], ["release"]]
    assert ladder.rung is None


def test_a_collapse_leaves_every_rung_at_once_highest_first(ladder: Ladder) -> None:
    climb(ladder, 0.96)
    assert ladder.step(0.1).left == tuple(reversed(RUNGS))


def test_between_its_marks_a_rung_does_not_flicker(ladder: Ladder) -> None:
    assert entered(ladder, 0.71, 0.69, 0.71, 0.61, 0.70) == ["release", None, None, None, None]
    assert ladder.active == (RELEASE,)


def test_it_climbs_one_rung_a_step(ladder: Ladder) -> None:
    names = [rung.name for rung in RUNGS]
    assert entered(ladder, *[0.99] * 7) == [*names, None]


def test_it_does_not_climb_while_pressure_falls(ladder: Ladder) -> None:
    steps = [ladder.step(pressure) for pressure in (0.99, 0.98, 0.97, 0.96)]
    assert [step.entered for step in steps] == [RELEASE, None, None, None]
    assert [step.falling for step in steps] == [None, TRIM, TRIM, TRIM], "and says so"
    assert entered(ladder, 0.96) == ["trim"]


def test_a_fall_within_the_noise_is_no_fall(ladder: Ladder) -> None:
    assert entered(ladder, 0.99, 0.987) == ["release", "trim"]


def test_ease_comes_down_but_never_climbs(ladder: Ladder) -> None:
    assert ladder.ease(0.99).entered is None
    assert ladder.rung is None
    climb(ladder, 0.96)
    assert ladder.ease(0.79).left == (REFUSE,)
    assert not ladder.refusing


def test_bulk_work_shrinks_from_its_rung_on_and_only_the_top_refuses(ladder: Ladder) -> None:
    states = []
    for pressure in (0.7, 0.75, 0.80, 0.85, 0.92, 0.95, 0.79, 0.69):
        ladder.step(pressure)
        states.append((ladder.shrinking, ladder.refusing))
    assert states == [*[(False, False)] * 2, *[(True, False)] * 3, (True, True), (True, False), (False, False)]


def test_no_action_on_a_rung_that_is_not_active(ladder: Ladder) -> None:
    ladder.step(0.72)
    assert may_act(ladder, RELEASE, "a", 0.72)
    assert not may_act(ladder, TRIM, "a", 0.72)


def test_an_action_waits_for_its_cool_down_and_no_other(ladder: Ladder, clock: StillClock) -> None:
    ladder.step(0.72)
    assert ladder.acted(RELEASE, "a", before=0.74, after=0.72)
    clock.sleep(4.9)
    assert not may_act(ladder, RELEASE, "a", 0.72)
    assert may_act(ladder, RELEASE, "b", 0.72)
    clock.sleep(0.1)
    assert may_act(ladder, RELEASE, "a", 0.72)


def test_an_action_that_freed_nothing_waits_until_pressure_has_risen(ladder: Ladder, clock: StillClock) -> None:
    ladder.step(0.72)
    assert not ladder.acted(RELEASE, "a", before=0.72, after=0.72)
    clock.sleep(3600)
    assert not may_act(ladder, RELEASE, "a", 0.72)
    assert not may_act(ladder, RELEASE, "a", 0.65)
    assert not may_act(ladder, RELEASE, "a", 0.7249)
    assert may_act(ladder, RELEASE, "a", 0.73)


def test_a_futile_action_gets_another_chance_when_the_rung_is_entered_again(ladder: Ladder, clock: StillClock) -> None:
    ladder.step(0.78)
    ladder.acted(RELEASE, "a", before=0.78, after=0.78)
    clock.sleep(10)
    ladder.step(0.5)
    ladder.step(0.71)
    assert may_act(ladder, RELEASE, "a", 0.71)


def test_leaving_the_rung_does_not_shorten_the_cool_down(ladder: Ladder) -> None:
    ladder.step(0.72)
    ladder.acted(RELEASE, "a", before=0.72, after=0.5)
    ladder.step(0.5)
    ladder.step(0.72)
    assert not may_act(ladder, RELEASE, "a", 0.72)


def test_an_action_that_helps_again_is_no_longer_futile(ladder: Ladder, clock: StillClock) -> None:
    ladder.step(0.72)
    ladder.acted(RELEASE, "a", before=0.72, after=0.72)
    clock.sleep(10)
    ladder.acted(RELEASE, "a", before=0.80, after=0.72)
    clock.sleep(10)
    assert may_act(ladder, RELEASE, "a", 0.72)


def test_a_forgotten_action_starts_anew(ladder: Ladder) -> None:
    ladder.step(0.72)
    ladder.acted(RELEASE, "a", before=0.72, after=0.72)
    ladder.acted(RELEASE, "b", before=0.72, after=0.72)
    ladder.forget("a")
    assert may_act(ladder, RELEASE, "a", 0.72)
    assert not may_act(ladder, RELEASE, "b", 0.72)


def test_rungs_need_different_names(clock: StillClock) -> None:
    with pytest.raises(InvalidInput):
        Ladder([Rung("a", 0.5, 0.4), Rung("a", 0.6, 0.5)], cooldown_s=1, clock=clock)
    with pytest.raises(InvalidInput):
        Ladder([], cooldown_s=1, clock=clock)


def may_act(ladder: Ladder, rung: Rung, action: str, pressure: float) -> bool:
    return ladder.hindrance(rung, action, pressure) is None


def test_why_an_action_is_not_taken_is_said(ladder: Ladder, clock: StillClock) -> None:
    ladder.step(0.72)
    assert ladder.hindrance(TRIM, "a", 0.72) == "rung left"
    assert ladder.hindrance(RELEASE, "a", 0.72, after_s=10) == "waiting"
    ladder.acted(RELEASE, "a", before=0.72, after=0.72)
    assert ladder.hindrance(RELEASE, "a", 0.72) == "cool-down"
    clock.sleep(10)
    assert ladder.hindrance(RELEASE, "a", 0.72, after_s=10) == "fruitless"
    assert ladder.hindrance(RELEASE, "a", 0.74, after_s=10) is None


def test_what_is_for_a_rung_that_stays_waits_anew_when_it_is_entered_again(ladder: Ladder, clock: StillClock) -> None:
    ladder.step(0.72)
    clock.sleep(59)
    ladder.step(0.5)
    ladder.step(0.72)
    clock.sleep(59)
    assert ladder.hindrance(RELEASE, "a", 0.72, after_s=60) == "waiting"
    clock.sleep(1)
    assert ladder.hindrance(RELEASE, "a", 0.72, after_s=60) is None


def test_an_action_that_goes_on_cools_down_and_is_not_judged(ladder: Ladder, clock: StillClock) -> None:
    ladder.step(0.72)
    ladder.began(RELEASE, "a")
    assert ladder.hindrance(RELEASE, "a", 0.72) == "cool-down"
    clock.sleep(5)
    assert ladder.hindrance(RELEASE, "a", 0.72) is None


def test_a_clock_that_is_set_back_makes_no_cool_down_longer(ladder: Ladder, clock: StillClock) -> None:
    ladder.step(0.72)
    ladder.acted(RELEASE, "a", before=0.80, after=0.72)
    clock.sleep(-3600)
    assert may_act(ladder, RELEASE, "a", 0.72)


@given(st.lists(st.floats(0, 2), max_size=50))
def test_whatever_the_pressures_the_active_rungs_are_the_lowest_and_justified(pressures: list[float]) -> None:
    ladder = Ladder(Settings().rungs(), cooldown_s=5.0, clock=StillClock())
    highest = dict.fromkeys(ladder.rungs, 0.0)
    for pressure in pressures:
        height = len(ladder.active)
        ladder.step(pressure)
        assert ladder.active == ladder.rungs[: len(ladder.active)]
        assert len(ladder.active) <= height + 1
        for rung in ladder.rungs:
            highest[rung] = 0.0 if pressure < rung.leave else max(highest[rung], pressure)
            if rung in ladder.active:
                assert highest[rung] >= rung.enter
