"""The stream: nobody waits, nobody is hurt by another's failure, and every event is accounted for."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import time
import weakref

import pytest

from embank.errors import InvalidInput
from embank.events.kinds import Event, ModelLoadStarted, ModelUnloaded, SearchAnswered
from embank.events.stream import Stream, Subscription

WAIT_S = 60.0
"""A bound on what takes milliseconds, so that a failure ends."""


def event(number: int) -> Event:
    return Event(at=float(number))


def numbers(events: list[Event]) -> list[int]:
    return [int(event.at) for event in events]


# --- callbacks --------------------------------------------------------------------------------------------------------


def test_callbacks_see_what_was_published_since_they_came_in_order() -> None:
    with Stream() as stream:
        early: list[Event] = []
        late: list[Event] = []
        stream.publish(event(0))
        stream.subscribe(early.append)
        stream.publish(event(1))
        stream.subscribe(late.append)
        for number in range(2, 500):
            stream.publish(event(number))
        assert stream.flush(WAIT_S)
        assert numbers(early) == list(range(1, 500))
        assert numbers(late) == list(range(2, 500))
        assert stream.published == 500
        assert stream.dropped == 0


def test_only_the_kinds_asked_for_arrive() -> None:
    with Stream() as stream:
        got: list[Event] = []
        subscription = stream.subscribe(got.append, kinds=[ModelLoadStarted, SearchAnswered])
        started, answered = ModelLoadStarted("m"), SearchAnswered("c", "dense", 5, 0.01)
        for each in (started, ModelUnloaded("m", 1), answered):
            stream.publish(each)
        assert stream.flush(WAIT_S)
        assert got == [started, answered]
        assert (subscription.delivered, subscription.dropped, stream.published) == (2, 0, 3)


def test_callbacks_run_in_one_daemon_thread_that_ends_with_the_last_of_them() -> None:
    stream = Stream()
    threads: list[threading.Thread] = []
    first = stream.subscribe(lambda _: threads.append(threading.current_thread()))
    second = stream.subscribe(lambda _: threads.append(threading.current_thread()))
    stream.publish(event(1))
    assert stream.flush(WAIT_S)
    thread = threads[0]
    assert threads == [thread, thread]
    assert thread.daemon
    assert thread is not threading.current_thread()
    first.close()
    second.close()
    thread.join(WAIT_S)
    assert not thread.is_alive()
    got: list[Event] = []
    stream.subscribe(got.append)
    stream.publish(event(2))
    assert stream.close(timeout_s=WAIT_S)
    assert numbers(got) == [2]


def test_a_failing_callback_reaches_nobody_and_is_logged_once_for_each_kind(caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: Event) -> None:
        raise SystemExit if isinstance(event, ModelUnloaded) else ValueError("no")

    with Stream() as stream, caplog.at_level(logging.ERROR, logger="embank"):
        failing = stream.subscribe(fail)
        got: list[Event] = []
        stream.subscribe(got.append)
        events = [ModelLoadStarted("a"), ModelLoadStarted("b"), ModelUnloaded("a", 1), ModelUnloaded("b", 1)]
        for each in events:
            stream.publish(each)
        assert stream.flush(WAIT_S)
        assert got == events
        assert (failing.failures, failing.delivered, failing.dropped) == (4, 4, 0)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "ModelLoadStarted" in messages[0]
    assert "ModelUnloaded" in messages[1]
    assert all(record.exc_info for record in caplog.records)


def test_a_stuck_callback_holds_up_neither_publisher_nor_its_bound() -> None:
    stream = Stream()
    stuck, go_on = threading.Event(), threading.Event()
    seen: list[Event] = []

    def wait(event: Event) -> None:
        seen.append(event)
        stuck.set()
        go_on.wait(WAIT_S)

    subscription = stream.subscribe(wait, capacity=10)
    stream.publish(event(0))
    assert stuck.wait(WAIT_S)
    for number in range(1, 1001):
        stream.publish(event(number))
    assert (subscription.pending, subscription.dropped, stream.dropped) == (11, 990, 990)
    assert not stream.flush(0.01)
    go_on.set()
    assert stream.flush(WAIT_S)
    assert numbers(seen) == [0, *range(991, 1001)]  # the newest survive
    assert (subscription.delivered, subscription.pending) == (11, 0)
    assert stream.close(timeout_s=WAIT_S)
    assert stream.dropped == 990


def test_flush_waits_for_an_event_that_is_begun_though_later_ones_were_dropped() -> None:
    stream = Stream()
    stuck, go_on = threading.Event(), threading.Event()

    def wait(_: Event) -> None:
        stuck.set()
        go_on.wait(WAIT_S)

    subscription = stream.subscribe(wait, capacity=1)
    stream.publish(event(0))
    assert stuck.wait(WAIT_S)
    flushed: list[bool] = []
    flusher = threading.Thread(target=lambda: flushed.append(stream.flush(WAIT_S)))
    flusher.start()
    for number in range(1, 50):
        stream.publish(event(number))
    assert subscription.dropped == 48
    flusher.join(0.05)
    assert flushed == []
    go_on.set()
    flusher.join(WAIT_S)
    assert flushed == [True]
    stream.close(timeout_s=WAIT_S)


def test_a_callback_may_publish_subscribe_flush_and_close() -> None:
    stream = Stream()
    answers: list[object] = []
    got: list[Event] = []

    def act(event_: Event) -> None:
        if event_.at == 1:
            stream.publish(event(2))
            answers.append(stream.flush(WAIT_S))  # can't wait for itself: at once, no
            stream.subscribe(got.append)
            stream.publish(event(3))
        elif event_.at == 3:
            answers.append("closing")
            subscription.close()

    subscription = stream.subscribe(act)
    stream.publish(event(1))
    assert stream.flush(WAIT_S)
    stream.publish(event(4))
    assert stream.flush(WAIT_S)
    assert answers == [False, "closing"]
    assert numbers(got) == [3, 4]
    assert stream.close(timeout_s=WAIT_S)


# --- pulling ----------------------------------------------------------------------------------------------------------


def test_draining_takes_what_is_there_oldest_first() -> None:
    with Stream() as stream, stream.subscribe(capacity=3) as subscription:
        assert subscription.drain() == []
        for number in range(5):
            stream.publish(event(number))
        assert (subscription.pending, subscription.dropped) == (3, 2)
        assert numbers(subscription.drain()) == [2, 3, 4]
        assert subscription.drain(wait_s=0.001) == []
        assert (subscription.delivered, subscription.pending) == (3, 0)


def test_draining_waits_for_the_first() -> None:
    with Stream() as stream, stream.subscribe() as subscription:
        publisher = threading.Timer(0.05, stream.publish, [event(7)])
        publisher.start()
        assert numbers(subscription.drain(wait_s=WAIT_S)) == [7]
        publisher.join()


@pytest.mark.parametrize("closer", ["subscription", "stream"])
def test_iterating_waits_for_each_and_ends_after_closing(closer: str) -> None:
    stream = Stream()
    subscription = stream.subscribe()
    got: list[Event] = []
    reader = threading.Thread(target=lambda: got.extend(subscription))
    reader.start()
    for number in range(100):
        stream.publish(event(number))
    if closer == "subscription":
        subscription.close()
    else:
        stream.close()
    reader.join(WAIT_S)
    assert not reader.is_alive()
    stream.publish(event(100))
    assert numbers(got) == list(range(100))
    assert numbers(list(subscription)) == []


def test_what_a_callback_gets_cannot_be_pulled() -> None:
    with Stream() as stream:
        subscription = stream.subscribe(lambda _: None)
        with pytest.raises(InvalidInput, match="go to a callback"):
            subscription.drain()
        with pytest.raises(InvalidInput, match="go to a callback"):
            next(iter(subscription))


# --- closing ----------------------------------------------------------------------------------------------------------


def test_a_closed_subscription_gets_nothing_more_and_its_drops_stay_counted() -> None:
    with Stream() as stream:
        subscription = stream.subscribe(capacity=1)
        stream.publish(event(1))
        stream.publish(event(2))
        subscription.close()
        subscription.close()
        stream.publish(event(3))
        assert subscription.closed
        assert numbers(subscription.drain()) == [2]
        assert (stream.dropped, stream.published) == (1, 3)


def test_a_closed_stream_counts_and_takes_no_subscriber() -> None:
    stream = Stream()
    got: list[Event] = []
    subscription = stream.subscribe(got.append)
    stream.publish(event(1))
    assert stream.close(timeout_s=WAIT_S)
    assert stream.close()
    stream.publish(event(2))
    assert numbers(got) == [1]
    assert subscription.closed
    assert stream.published == 2
    assert stream.flush(0.0)
    with pytest.raises(InvalidInput, match="closed"):
        stream.subscribe(got.append)


def test_closing_does_not_wait_for_ever() -> None:
    stream = Stream()
    stuck, go_on = threading.Event(), threading.Event()

    def wait(_: Event) -> None:
        stuck.set()
        go_on.wait(WAIT_S)

    subscription = stream.subscribe(wait)
    stream.publish(event(1))
    stream.publish(event(2))
    assert stuck.wait(WAIT_S)
    assert not stream.close(timeout_s=0.01)
    assert (subscription.pending, subscription.dropped) == (1, 1)
    go_on.set()


def test_a_capacity_below_one_is_refused() -> None:
    with pytest.raises(InvalidInput, match="capacity must be at least 1, not 0"):
        Stream().subscribe(capacity=0)


def test_a_stream_that_nobody_holds_is_collected() -> None:
    stream = Stream()
    stream.subscribe()
    stream.publish(event(1))
    held = weakref.ref(stream)
    del stream
    gc.collect()
    assert held() is None


# --- several threads, forks, exits ------------------------------------------------------------------------------------


def publish_each(stream: Stream, publisher: str, count: int) -> None:
    for number in range(count):
        stream.publish(ModelUnloaded(publisher, number))


def drain_until(done: threading.Event, subscription: Subscription, into: list[Event]) -> None:
    while not done.is_set():
        into.extend(subscription.drain(wait_s=0.01))


def come_and_go_until(done: threading.Event, stream: Stream) -> None:
    while not done.is_set():
        with stream.subscribe(lambda _: None, capacity=1):
            stream.flush(0.001)


def numbers_by_publisher(events: list[Event]) -> dict[str, list[int]]:
    by_publisher: dict[str, list[int]] = {}
    for each in events:
        assert isinstance(each, ModelUnloaded)
        by_publisher.setdefault(each.model, []).append(each.freed_bytes)
    return by_publisher


def test_under_many_threads_every_event_is_delivered_or_counted_as_dropped() -> None:
    publishers, each = 6, 3000
    stream = Stream()
    got: dict[str, list[Event]] = {"all": [], "small": [], "slow": [], "pulled": [], "drained": []}

    def slow(event: Event) -> None:
        got["slow"].append(event)
        if len(got["slow"]) % 100 == 0:
            time.sleep(0.001)

    subscriptions: dict[str, Subscription] = {
        "all": stream.subscribe(got["all"].append, capacity=publishers * each),
        "small": stream.subscribe(got["small"].append, capacity=7),
        "slow": stream.subscribe(slow, capacity=64),
        "pulled": stream.subscribe(capacity=128),
        "drained": stream.subscribe(capacity=50),
    }
    done = threading.Event()
    puller = threading.Thread(target=lambda: got["pulled"].extend(subscriptions["pulled"]))
    others = [
        threading.Thread(target=drain_until, args=(done, subscriptions["drained"], got["drained"])),
        threading.Thread(target=come_and_go_until, args=(done, stream)),
    ]
    writers = [threading.Thread(target=publish_each, args=(stream, str(name), each)) for name in range(publishers)]
    for thread in [puller, *others, *writers]:
        thread.start()
    for thread in writers:
        thread.join(WAIT_S)
    assert stream.flush(WAIT_S)
    done.set()
    for thread in others:
        thread.join(WAIT_S)
    stream.close(timeout_s=WAIT_S)
    puller.join(WAIT_S)
    got["drained"].extend(subscriptions["drained"].drain())

    assert stream.published == publishers * each
    assert numbers_by_publisher(got["all"]) == {str(publisher): list(range(each)) for publisher in range(publishers)}
    for name, subscription in subscriptions.items():
        assert subscription.pending == 0
        assert subscription.delivered == len(got[name])
        assert subscription.delivered + subscription.dropped == stream.published
        for seen in numbers_by_publisher(got[name]).values():
            assert seen == sorted(set(seen))  # in order, none twice


def test_a_finalizer_that_publishes_inside_the_stream_does_not_hang() -> None:
    stream = Stream()
    with stream.subscribe(capacity=1) as subscription:

        class Last(Event):
            def __del__(self) -> None:
                stream.publish(event(-1))

        stream.publish(Last())
        stream.publish(event(1))  # drops the other one, whose finalizer runs with the lock held
        assert stream.published == 3
        assert (subscription.dropped, subscription.pending) == (2, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork_the_child_has_a_working_stream_of_its_own() -> None:
    code = """
import os, threading, time
from embank.events.kinds import Event
from embank.events.stream import Stream

stream = Stream()
got = []
stream.subscribe(got.append)
pulled = stream.subscribe()
gone = stream.subscribe(); stream.publish(Event()); gone.close()
threading.Thread(target=lambda: [stream.publish(Event()) for _ in iter(int, 1)], daemon=True).start()
for _ in range(20):  # while another thread is publishing, so that the lock is often held at the fork
    time.sleep(0.002)
    pid = os.fork()
    if pid == 0:
        mine = []
        assert stream.published == 0 and stream.flush(5)
        assert pulled.drain() == [] and list(pulled) == [] and pulled.closed
        assert len(gone.drain()) == 1
        stream.subscribe(mine.append)
        stream.publish(Event(at=5.0))
        assert stream.flush(5) and stream.close() and [e.at for e in mine] == [5.0]
        os._exit(7)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 7:
        raise SystemExit("child failed")
assert not pulled.closed
print("well")
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (found.stdout, found.returncode) == ("well\n", 0), found.stderr


def test_a_process_may_exit_with_a_stream_open_and_a_callback_at_work() -> None:
    code = """
import time
from embank.events.kinds import Event
from embank.events.stream import Stream
stream = Stream()
stream.subscribe(lambda _: time.sleep(600))
stream.subscribe()
for _ in range(10):
    stream.publish(Event())
print("bye")
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (found.stdout, found.stderr, found.returncode) == ("bye\n", "", 0)
