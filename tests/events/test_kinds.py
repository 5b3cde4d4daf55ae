"""What every kind of event has in common."""

from __future__ import annotations

import dataclasses
import inspect
import time
from types import ModuleType
from typing import get_type_hints

import pytest

from embank.events import kinds
from embank.events.event import within_request
from embank.events.kinds import Event, ModelLoaded, RungEntered, RungLeft


def all_kinds(module: ModuleType) -> list[type[Event]]:
    return [
        cls for _, cls in inspect.getmembers(module, inspect.isclass) if issubclass(cls, Event) and cls is not Event
    ]


@pytest.mark.parametrize("kind", all_kinds(kinds), ids=lambda kind: kind.__name__)
def test_a_kind_is_frozen_slotted_plain_and_stamped(kind: type[Event]) -> None:
    names = [field.name for field in dataclasses.fields(kind) if field.name not in {"at", "during"}]
    assert names
    before = time.time()
    event = kind(*range(len(names)))
    assert before <= event.at <= time.time()
    assert event.kind == kind.__name__
    assert not hasattr(event, "__dict__")
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.at = 0.0  # type: ignore[misc]  # that is the point
    plain = {str, int, float, bool, int | None, str | None, float | None}
    several = {tuple[str, ...]}
    pairs = {tuple[tuple[str, int], ...], tuple[tuple[int, int], ...]}  # by name or process id
    assert set(get_type_hints(kind).values()) <= plain | several | pairs
    assert dataclasses.asdict(event) == {
        "at": event.at,
        "during": None,
        **{name: place for place, name in enumerate(names)},
    }


def test_the_publishers_clock_may_say_when() -> None:
    event = ModelLoaded("minilm", "abc", 0.4, 46_000_000, at=12.5)
    assert (event.at, event.model, event.bytes) == (12.5, "minilm", 46_000_000)
    assert event == ModelLoaded("minilm", "abc", seconds=0.4, bytes=46_000_000, at=12.5)


def test_an_event_names_the_request_that_it_happened_in() -> None:
    with within_request("r1"):
        inside = RungEntered("trim", 0.76, 1, 2)
    assert (inside.during, RungEntered("trim", 0.76, 1, 2).during) == ("r1", None)


def test_events_of_different_kinds_are_never_equal() -> None:
    entered, again, left = (kind("trim", 0.76, 1, 2, at=1.0) for kind in (RungEntered, RungEntered, RungLeft))
    assert entered == again
    assert entered != left
