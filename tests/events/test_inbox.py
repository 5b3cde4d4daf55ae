"""One subscriber's queue, against a plain model of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from embank.events.inbox import Inbox
from embank.events.kinds import Event, ModelLoadStarted, ModelUnloaded


def event(number: int) -> Event:
    return Event(at=float(number))


def ignore(event: Event) -> None: ...


@given(
    st.integers(1, 4), st.lists(st.sampled_from(["offer", "begin", "end", "take", "take one", "clear"]), max_size=60)
)
def test_the_counts_always_add_up_and_order_is_kept(capacity: int, acts: list[str]) -> None:
    inbox = Inbox(ignore, kinds=None, capacity=capacity)
    waiting: list[int] = []
    begun: int | None = None
    offered = dropped = delivered = 0
    for act in acts:
        if act == "offer":
            offered += 1
            assert inbox.offer(event(offered))
            waiting.append(offered)
            dropped += len(waiting) > capacity
            waiting = waiting[-capacity:]
        elif act == "begin" and begun is None:
            got = inbox.begin()
            begun = waiting.pop(0) if waiting else None
            assert got == (None if begun is None else event(begun))
        elif act == "end" and begun is not None:
            inbox.end(failed=False)
            begun, delivered = None, delivered + 1
        elif act.startswith("take"):
            count = 1 if act == "take one" else len(waiting)
            assert inbox.take(1 if act == "take one" else None) == [event(number) for number in waiting[:count]]
            delivered += len(waiting[:count])
            waiting = waiting[count:]
        elif act == "clear":
            inbox.clear()
            dropped, waiting = dropped + len(waiting), []
        assert (inbox.offered, inbox.delivered, inbox.dropped) == (offered, delivered, dropped)
        assert inbox.pending == len(waiting) + (begun is not None)
        assert inbox.offered == inbox.delivered + inbox.dropped + inbox.pending
        first_open = min([*([] if begun is None else [begun]), *waiting], default=offered + 1)
        assert inbox.settled == first_open - 1


def test_only_the_kinds_wanted_are_queued_with_what_derives_from_them() -> None:
    inbox = Inbox(None, kinds=(ModelLoadStarted,), capacity=9)
    assert inbox.offer(ModelLoadStarted("m"))
    assert not inbox.offer(ModelUnloaded("m", 1))
    assert (len(inbox), inbox.offered) == (1, 1)
    everything = Inbox(None, kinds=(Event,), capacity=9)
    assert everything.offer(ModelUnloaded("m", 1))


def test_closing_drops_what_waits_for_a_callback_and_keeps_what_is_pulled() -> None:
    for callback, left in ((ignore, 0), (None, 2)):
        inbox = Inbox(callback, kinds=None, capacity=9)
        inbox.offer(event(1))
        inbox.offer(event(2))
        inbox.close()
        assert (inbox.closed, len(inbox), inbox.dropped) == (True, left, 2 - left)
