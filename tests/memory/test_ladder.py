"""The ladder as a pure state machine: pressures and a clock in, rungs and permissions out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.memory.machine import StillClock

from embank.errors import InvalidInput
from embank.memory.ladder import Ladder, Rung
from embank.memory.settings import Settings

RELEASE, TRIM, REFUSE = Settings().rungs()


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
        ("refuse", 0.95, 0.80),
    ]


def test_each_rung_is_entered_at_its_mark_and_not_before(ladder: Ladder) -> None:
    assert entered(ladder, 0.0, 0.699, 0.70, 0.749, 0.75, 0.949, 0.95, 2.0) == [
        *(None, None, "release", None, "trim", None, "refuse", None)
    ]


def test_each_rung_is_left_below_its_own_way_down(ladder: Ladder) -> None:
    entered(ladder, 0.96, 0.96, 0.96)
    assert ladder.active == (RELEASE, TRIM, REFUSE)
    left = [[rung.name for rung in ladder.step(pressure).left] for pressure in (0.80, 0.79, 0.68, 0.67, 0.60, 0.59)]
    assert left == [[], ["refuse"], [], ["trim"], [], ["release"]]
    assert ladder.rung is None


def test_a_collapse_leaves_every_rung_at_once_highest_first(ladder: Ladder) -> None:
    entered(ladder, 0.96, 0.96, 0.96)
    assert ladder.step(0.1).left == (REFUSE, TRIM, RELEASE)


def test_between_its_marks_a_rung_does_not_flicker(ladder: Ladder) -> None:
    assert entered(ladder, 0.71, 0.69, 0.71, 0.61, 0.70) == ["release", None, None, None, None]
    assert ladder.active == (RELEASE,)


def test_it_climbs_one_rung_a_step(ladder: Ladder) -> None:
    assert entered(ladder, 0.99, 0.99, 0.99, 0.99) == ["release", "trim", "refuse", None]


def test_it_does_not_climb_while_pressure_falls(ladder: Ladder) -> None:
    assert entered(ladder, 0.99, 0.98, 0.97, 0.96) == ["release", None, None, None]
    assert entered(ladder, 0.96) == ["trim"]


def test_a_fall_within_the_noise_is_no_fall(ladder: Ladder) -> None:
    assert entered(ladder, 0.99, 0.987) == ["release", "trim"]


def test_ease_comes_down_but_never_climbs(ladder: Ladder) -> None:
    assert ladder.ease(0.99).entered is None
    assert ladder.rung is None
    entered(ladder, 0.96, 0.96, 0.96)
    assert ladder.ease(0.79).left == (REFUSE,)
    assert not ladder.refusing


def test_only_the_top_refuses(ladder: Ladder) -> None:
    refusing = []
    for pressure in (0.7, 0.75, 0.95, 0.79):
        ladder.step(pressure)
        refusing.append(ladder.refusing)
    assert refusing == [False, False, True, False]


def test_no_action_on_a_rung_that_is_not_active(ladder: Ladder) -> None:
    ladder.step(0.72)
    assert ladder.may_act(RELEASE, "a", 0.72)
    assert not ladder.may_act(TRIM, "a", 0.72)


def test_an_action_waits_for_its_cool_down_and_no_other(ladder: Ladder, clock: StillClock) -> None:
    ladder.step(0.72)
    assert ladder.acted(RELEASE, "a", before=0.74, after=0.72)
    clock.sleep(4.9)
    assert not ladder.may_act(RELEASE, "a", 0.72)
    assert ladder.may_act(RELEASE, "b", 0.72)
    clock.sleep(0.1)
    assert ladder.may_act(RELEASE, "a", 0.72)


def test_an_action_that_freed_nothing_waits_until_pressure_has_risen(ladder: Ladder, clock: StillClock) -> None:
    ladder.step(0.72)
    assert not ladder.acted(RELEASE, "a", before=0.72, after=0.72)
    clock.sleep(3600)
    assert not ladder.may_act(RELEASE, "a", 0.72)
    assert not ladder.may_act(RELEASE, "a", 0.65)
    assert not ladder.may_act(RELEASE, "a", 0.7249)
    assert ladder.may_act(RELEASE, "a", 0.73)


def test_a_futile_action_gets_another_chance_when_the_rung_is_entered_again(ladder: Ladder, clock: StillClock) -> None:
    ladder.step(0.78)
    ladder.acted(RELEASE, "a", before=0.78, after=0.78)
    clock.sleep(10)
    ladder.step(0.5)
    ladder.step(0.71)
    assert ladder.may_act(RELEASE, "a", 0.71)


def test_leaving_the_rung_does_not_shorten_the_cool_down(ladder: Ladder) -> None:
    ladder.step(0.72)
    ladder.acted(RELEASE, "a", before=0.72, after=0.5)
    ladder.step(0.5)
    ladder.step(0.72)
    assert not ladder.may_act(RELEASE, "a", 0.72)


def test_an_action_that_helps_again_is_no_longer_futile(ladder: Ladder, clock: StillClock) -> None:
    ladder.step(0.72)
    ladder.acted(RELEASE, "a", before=0.72, after=0.72)
    clock.sleep(10)
    ladder.acted(RELEASE, "a", before=0.80, after=0.72)
    clock.sleep(10)
    assert ladder.may_act(RELEASE, "a", 0.72)


def test_a_forgotten_action_starts_anew(ladder: Ladder) -> None:
    ladder.step(0.72)
    ladder.acted(RELEASE, "a", before=0.72, after=0.72)
    ladder.acted(RELEASE, "b", before=0.72, after=0.72)
    ladder.forget("a")
    assert ladder.may_act(RELEASE, "a", 0.72)
    assert not ladder.may_act(RELEASE, "b", 0.72)


def test_rungs_need_different_names(clock: StillClock) -> None:
    with pytest.raises(InvalidInput):
        Ladder([Rung("a", 0.5, 0.4), Rung("a", 0.6, 0.5)], cooldown_s=1, clock=clock)
    with pytest.raises(InvalidInput):
        Ladder([], cooldown_s=1, clock=clock)


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
