"""Reservations: never more than the budget in sum, in line, and refused at once where waiting is no use."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.memory.conftest import Govern
from tests.memory.machine import MB, Cache, Machine, StillClock
from tests.waiting import until

from embank.errors import BudgetExceeded, InvalidInput
from embank.events.kinds import BulkWorkPaused
from embank.events.stream import Stream
from embank.memory.governor import Governor
from embank.memory.priority import Priority, bulk_work
from embank.memory.reserve import Reservation
from embank.memory.settings import Settings


def test_what_fits_is_granted_whole_and_given_back(govern: Govern, machine: Machine) -> None:
    machine.held_bytes = 30 * MB
    governor = govern()
    with governor.reserve("a batch", 50 * MB) as reservation:
        assert reservation.granted_bytes == 50 * MB
        assert (governor.snapshot().reserved_bytes, governor.available_bytes()) == (50 * MB, 20 * MB)
    assert governor.available_bytes() == 70 * MB
    reservation.release()
    assert governor.available_bytes() == 70 * MB


def test_reservations_count_in_full_also_when_their_bytes_are_in_use(govern: Govern, machine: Machine) -> None:
    governor = govern()
    with governor.reserve("a batch", 40 * MB):
        machine.hold(40 * MB)
        assert governor.available_bytes() == 20 * MB


def test_a_flexible_request_gets_what_is_there(govern: Govern, machine: Machine) -> None:
    machine.held_bytes = 80 * MB
    with govern().reserve("a batch", 50 * MB, least_bytes=10 * MB) as reservation:
        assert reservation.granted_bytes == 20 * MB


def test_what_is_missing_is_asked_of_consumers(govern: Govern, machine: Machine) -> None:
    cache = Cache(machine, "cache", 60 * MB)
    governor = govern()
    governor.register(cache)
    with governor.reserve("a batch", 50 * MB) as reservation:
        assert reservation.granted_bytes == 50 * MB
    assert (cache.asked, cache.bytes) == ([10 * MB], 50 * MB)


def test_what_consumers_cannot_make_up_is_refused_with_the_facts(govern: Govern, machine: Machine) -> None:
    machine.held_bytes = 30 * MB
    governor = govern()
    governor.register(Cache(machine, "cache", 60 * MB))
    with pytest.raises(BudgetExceeded, match=r"a batch needs 80\.0 MB") as refusal:
        governor.reserve("a batch", 90 * MB, least_bytes=80 * MB)
    assert refusal.value.fields == {
        "what": "a batch",
        "wanted_bytes": 80 * MB,
        "available_bytes": 70 * MB,
        "budget_bytes": 100 * MB,
    }
    assert governor.snapshot().refused == 1


def test_what_could_never_fit_is_refused_without_asking_or_waiting(
    govern: Govern, machine: Machine, clock: StillClock
) -> None:
    cache = Cache(machine, "cache", 10 * MB)
    machine.hold(40 * MB)
    governor = govern()
    governor.register(cache)
    governor.settle()
    with governor.reserve("other work", MB):
        began_s = clock.time_s
        with pytest.raises(BudgetExceeded):
            governor.reserve("too much", 61 * MB, wait_s=3600)
        assert (clock.time_s, cache.asked) == (began_s, [])
    with governor.reserve("all there is", 60 * MB) as reservation:
        assert reservation.granted_bytes == 60 * MB


def test_where_nobody_could_give_back_there_is_no_waiting(govern: Govern, machine: Machine) -> None:
    machine.held_bytes = 80 * MB
    with pytest.raises(BudgetExceeded):  # the clock stands still: if it waited, it would wait for ever
        govern().reserve("a batch", 30 * MB, wait_s=3600)


def test_a_thread_does_not_wait_for_itself(govern: Govern) -> None:
    governor = govern()
    with governor.reserve("a window", 80 * MB), pytest.raises(BudgetExceeded):  # again with a clock that stands still
        governor.reserve("a batch in it", 30 * MB, wait_s=3600)


@pytest.mark.parametrize(("wanted", "least"), [(-1, None), (10, 11), (10, -1)])
def test_numbers_that_make_no_sense_are_refused(govern: Govern, wanted: int, least: int | None) -> None:
    with pytest.raises(InvalidInput, match="can't reserve"):
        govern().reserve("a batch", wanted, least_bytes=least)


def test_the_refusing_rung_refuses_at_once_though_it_would_fit(govern: Govern, machine: Machine) -> None:
    cache = Boaster(machine, "cache", 96 * MB)
    governor = govern()
    governor.register(cache)
    governor.check()
    asked = len(cache.asked)
    with pytest.raises(BudgetExceeded):
        governor.reserve("a batch", MB, wait_s=3600)
    assert len(cache.asked) == asked


class Boaster(Cache):
    def release(self, wanted_bytes: int) -> int:
        self.asked.append(wanted_bytes)
        return 0


# --- waiting --------------------------------------------------------------------------------------------------------


class Waiter(threading.Thread):
    """Reserves in a thread of its own and keeps what it gets until `done` is set."""

    def __init__(
        self,
        governor: Governor,
        wanted_bytes: int,
        *,
        wait_s: float = 3600.0,
        priority: Priority = "interactive",
        least: int | None = None,
    ) -> None:
        super().__init__(daemon=True)
        self.governor = governor
        self.wanted_bytes = wanted_bytes
        self.options: dict[str, Any] = {"wait_s": wait_s, "priority": priority, "least_bytes": least}
        self.got: Reservation | None = None
        self.refusal: BudgetExceeded | None = None
        self.settled = threading.Event()
        self.done = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            with self.governor.reserve("waiting work", self.wanted_bytes, **self.options) as self.got:
                self.settled.set()
                self.done.wait(30)
        except BudgetExceeded as error:
            self.refusal = error
            self.settled.set()

    def finish(self) -> None:
        self.done.set()
        self.join(30)
        assert not self.is_alive()


def test_a_request_waits_for_others_to_give_back(govern: Govern) -> None:
    governor = govern()
    with governor.reserve("first", 80 * MB):
        waiter = Waiter(governor, 50 * MB)
        until(lambda: governor.snapshot().waiting == 1)
        assert not waiter.settled.is_set()
    assert waiter.settled.wait(30)
    assert waiter.got is not None
    waiter.finish()
    assert governor.snapshot().reserved_bytes == 0


def test_waiting_ends_by_the_injected_clock(govern: Govern, clock: StillClock) -> None:
    governor = govern()
    with governor.reserve("first", 80 * MB):
        waiter = Waiter(governor, 50 * MB, wait_s=10.0)
        until(lambda: governor.snapshot().waiting == 1)
        clock.sleep(9.9)
        assert not waiter.settled.wait(0.2)
        clock.sleep(0.1)
        assert waiter.settled.wait(30)
        assert waiter.refusal is not None
        assert waiter.refusal.fields["available_bytes"] == 20 * MB
    waiter.finish()
    assert governor.snapshot().waiting == 0


def test_those_that_wait_are_served_in_order_and_a_small_one_does_not_overtake(govern: Govern) -> None:
    governor = govern()
    first = governor.reserve("first", 60 * MB)
    second = governor.reserve("second", 20 * MB)
    waiters = []
    for number, wanted in enumerate((70 * MB, 10 * MB, 70 * MB), start=1):
        waiters.append(Waiter(governor, wanted))
        until(lambda number=number: governor.snapshot().waiting == number)  # type: ignore[misc]
    hasty = Waiter(governor, 20 * MB, wait_s=0)  # it would take what the first in line waits for
    hasty.finish()
    assert hasty.refusal is not None
    second.release()
    assert not waiters[1].settled.wait(0.2), "40 MB are there, but the one before it waits for 70"
    first.release()
    for waiter in waiters[:2]:
        assert waiter.settled.wait(30)
    assert not waiters[2].settled.wait(0.2)
    waiters[0].finish()
    assert waiters[2].settled.wait(30)
    for waiter in waiters[1:]:
        waiter.finish()
    assert governor.snapshot().reserved_bytes == 0


def test_many_that_wait_are_served_first_come_first_served(govern: Govern) -> None:
    governor = govern()
    order: list[int] = []

    def work(number: int) -> None:
        with governor.reserve(f"work {number}", 100 * MB, wait_s=3600):
            order.append(number)

    first = governor.reserve("first", 100 * MB)
    threads = []
    for number in range(8):
        threads.append(threading.Thread(target=work, args=(number,)))
        threads[-1].start()
        until(lambda number=number: governor.snapshot().waiting == number + 1)  # type: ignore[misc]
    first.release()
    for thread in threads:
        thread.join(30)
    assert order == list(range(8))


def test_what_a_finished_reservation_left_in_a_cache_is_asked_for_again(govern: Govern, machine: Machine) -> None:
    cache = Cache(machine, "cache")
    governor = govern()
    governor.register(cache)
    with governor.reserve("first", 60 * MB):
        waiter = Waiter(governor, 50 * MB)
        until(lambda: governor.snapshot().waiting == 1)
        cache.bytes = 60 * MB
        machine.hold(60 * MB)
    assert waiter.settled.wait(30)
    assert waiter.got is not None
    assert cache.bytes == 50 * MB
    waiter.finish()


def test_a_raised_budget_serves_those_that_wait(govern: Govern) -> None:
    governor = govern()
    with governor.reserve("first", 80 * MB):
        waiter = Waiter(governor, 50 * MB)
        until(lambda: governor.snapshot().waiting == 1)
        governor.budget_bytes = 130 * MB
        assert waiter.settled.wait(30)
        assert waiter.got is not None
        waiter.finish()


def test_a_lowered_budget_refuses_those_it_could_never_serve(govern: Govern) -> None:
    governor = govern()
    with governor.reserve("first", 80 * MB):
        waiter = Waiter(governor, 50 * MB)
        until(lambda: governor.snapshot().waiting == 1)
        governor.budget_bytes = 40 * MB
        assert waiter.settled.wait(30)
        assert waiter.refusal is not None
        waiter.finish()


def test_those_in_line_are_refused_when_the_last_holder_leaves_too_little(govern: Govern, machine: Machine) -> None:
    governor = govern()
    with governor.reserve("first", 80 * MB):
        waiter = Waiter(governor, 50 * MB)
        until(lambda: governor.snapshot().waiting == 1)
        machine.hold(60 * MB)
    assert waiter.settled.wait(30)
    assert waiter.refusal is not None
    waiter.finish()


# --- many at once ---------------------------------------------------------------------------------------------------


def test_under_eight_threads_the_budget_is_never_exceeded(machine: Machine) -> None:
    budget = 100 * MB
    machine.held_bytes = 20 * MB
    governor = Governor(budget, meter=machine, settings=Settings(trim_interval_s=3600))
    cache = Cache(machine, "cache", 30 * MB)
    governor.register(cache)
    lock = threading.Lock()
    promised = 0
    most = 0
    granted = refused = 0
    cache_floor = cache.bytes

    def work(seed: int) -> None:
        nonlocal promised, most, granted, refused, cache_floor
        random_ = random.Random(seed)
        for _ in range(150):
            wanted = random_.randrange(1, 60) * MB
            least = random_.randrange(0, wanted // MB + 1) * MB
            try:
                reservation = governor.reserve("work", wanted, least_bytes=least, wait_s=random_.choice([0, 0.002, 5]))
            except BudgetExceeded:
                with lock:
                    refused += 1
                continue
            assert least <= reservation.granted_bytes <= wanted
            with lock:
                granted += 1
                promised += reservation.granted_bytes
                most = max(most, promised)
                cache_floor = min(cache_floor, cache.bytes)
            if random_.random() < 0.3:
                time.sleep(0.0002)
            with lock:
                promised -= reservation.granted_bytes
            reservation.release()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    state = governor.snapshot()
    assert most <= budget - 20 * MB, "what is promised, and what can't be released, fit together"
    assert (state.reserved_bytes, state.waiting) == (0, 0)
    assert (state.granted, state.refused) == (granted, refused)
    assert granted > 100


def test_real_use_of_what_was_promised_stays_within_the_budget(machine: Machine) -> None:
    budget = 100 * MB
    governor = Governor(budget, meter=machine)
    over: list[int] = []

    def work(seed: int) -> None:
        random_ = random.Random(seed)
        for _ in range(60):
            with governor.reserve("work", 40 * MB, least_bytes=5 * MB, wait_s=30) as reservation:
                used = reservation.granted_bytes
                machine.hold(used)
                if machine.held_bytes > budget:
                    over.append(machine.held_bytes)
                time.sleep(random_.random() * 0.001)
                machine.hold(-used)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert over == []


@given(st.lists(st.tuples(st.integers(0, 120), st.integers(0, 120), st.booleans()), max_size=30), st.integers(0, 99))
def test_in_one_thread_the_promises_always_fit(requests: list[tuple[int, int, bool]], held: int) -> None:
    machine = Machine(held_bytes=held)
    governor = Governor(100, meter=machine, clock=StillClock(), settings=Settings())
    kept: list[Reservation] = []
    for wanted, least, release in requests:
        if release and kept:
            kept.pop(0).release()
        room = 100 - held - sum(one.granted_bytes for one in kept)
        try:
            reservation = governor.reserve("work", max(wanted, least), least_bytes=least)
        except BudgetExceeded:
            assert least > max(room, -1)
        else:
            assert reservation.granted_bytes == min(max(wanted, least), room)
            kept.append(reservation)


# --- interactive and bulk -------------------------------------------------------------------------------------------


def bulk(governor: Governor, wanted: int, *, least: int | None = None, wait_s: float = 3600.0) -> Waiter:
    return Waiter(governor, wanted, wait_s=wait_s, priority="bulk", least=least)


def waiting(governor: Governor, count: int) -> None:
    until(lambda: governor.snapshot().waiting == count)


def test_interactive_work_comes_before_bulk_work_that_came_earlier(govern: Govern) -> None:
    governor = govern()
    first = govern_in_thread(governor, 80 * MB)
    ingest = bulk(governor, 50 * MB)
    waiting(governor, 1)
    query = Waiter(governor, 60 * MB)
    waiting(governor, 2)
    first.finish()
    assert query.settled.wait(30)
    assert not ingest.settled.wait(0.2)
    query.finish()
    assert ingest.settled.wait(30)
    assert ingest.got is not None
    ingest.finish()


def govern_in_thread(governor: Governor, wanted: int) -> Waiter:
    holder = Waiter(governor, wanted)
    assert holder.settled.wait(30)
    return holder


def test_an_interactive_request_that_fits_overtakes_bulk_work_in_line(govern: Govern) -> None:
    governor = govern()
    first = govern_in_thread(governor, 60 * MB)
    ingest = bulk(governor, 50 * MB)
    waiting(governor, 1)
    hasty = Waiter(governor, 30 * MB, wait_s=0)
    assert hasty.settled.wait(30)
    assert hasty.got is not None
    for waiter in (hasty, first, ingest):
        waiter.finish()


def test_bulk_work_that_waited_its_patience_gets_its_turn(govern: Govern, clock: StillClock) -> None:
    governor = govern(bulk_patience_s=5)
    first = govern_in_thread(governor, 80 * MB)
    ingest = bulk(governor, 90 * MB)
    waiting(governor, 1)
    queries = [Waiter(governor, 60 * MB)]
    waiting(governor, 2)
    clock.sleep(5)
    queries.append(Waiter(governor, 60 * MB))
    waiting(governor, 3)
    first.finish()
    assert ingest.settled.wait(30), "it came first, and counts as interactive now"
    assert ingest.got is not None
    assert not queries[0].settled.wait(0.2)
    ingest.finish()
    for query in queries:
        assert query.settled.wait(30)
        query.finish()


def test_a_stream_of_queries_does_not_starve_bulk_work(govern: Govern, clock: StillClock) -> None:
    governor = govern(bulk_patience_s=5)
    before = govern_in_thread(governor, 60 * MB)
    ingest = bulk(governor, 90 * MB)
    waiting(governor, 1)
    served = 0
    while not ingest.settled.is_set():
        assert served < 100
        query = Waiter(governor, 60 * MB)  # there is always one more before the last has ended
        waited = 1 if ingest.settled.is_set() else 2
        until(lambda waited=waited: governor.snapshot().waiting >= waited or ingest.settled.is_set())  # type: ignore[misc]
        clock.sleep(1)
        before.finish()
        until(lambda query=query: query.settled.is_set() or ingest.settled.is_set())  # type: ignore[misc]
        before, served = query, served + 1
    assert ingest.got is not None
    assert 4 <= served <= 7, "about as long as its patience"
    ingest.finish()
    before.finish()


def on_rung(machine: Machine, governor: Governor, held: int) -> None:
    machine.held_bytes = held * MB
    governor.check()


def test_on_the_shrinking_rung_bulk_work_gets_a_part_and_queries_all(govern: Govern, machine: Machine) -> None:
    governor = govern(shrink_to=0.25)
    on_rung(machine, governor, 81)
    with governor.reserve("query", 8 * MB) as query:
        assert query.granted_bytes == 8 * MB
    for wanted, least, granted in ((16, 0, 4), (16, 6, 6), (4, 4, 4)):
        with governor.reserve("ingest", wanted * MB, least_bytes=least * MB, priority="bulk") as reservation:
            assert reservation.granted_bytes == granted * MB
    machine.held_bytes = 69 * MB
    with governor.reserve("ingest", 16 * MB, priority="bulk") as reservation:
        assert reservation.granted_bytes == 16 * MB, "the rung was left"


def test_on_the_shrinking_rung_bulk_work_pauses_while_queries_go_on(
    govern: Govern, machine: Machine, clock: StillClock
) -> None:
    with Stream() as stream, stream.subscribe(kinds=[BulkWorkPaused]) as events:
        governor = govern(stream=stream, bulk_patience_s=5)
        on_rung(machine, governor, 81)
        ingests = [bulk(governor, 4 * MB), bulk(governor, 4 * MB)]
        waiting(governor, 2)
        for _ in range(10):
            with governor.reserve("query", 10 * MB):
                pass
        assert not any(ingest.settled.wait(0.1) for ingest in ingests)
        assert governor.snapshot().paused == 2
        clock.sleep(4.9)
        assert not ingests[0].settled.wait(0.2)
        clock.sleep(0.1)
        for ingest in ingests:
            assert ingest.settled.wait(30), "it is slowed down, not stopped"
            assert ingest.got is not None
            ingest.finish()
        told = [event for event in events.drain() if isinstance(event, BulkWorkPaused)]
    assert [(event.what, event.rung) for event in told] == [("waiting work", "shrink")], "once until the rung is left"


def test_a_pause_ends_when_pressure_falls_or_the_deadline_comes_and_is_no_refusal(
    govern: Govern, machine: Machine, clock: StillClock
) -> None:
    governor = govern(bulk_patience_s=3600)
    on_rung(machine, governor, 81)
    hurried, patient = bulk(governor, 4 * MB, wait_s=2), bulk(governor, 4 * MB)
    waiting(governor, 2)
    clock.sleep(2)
    assert hurried.settled.wait(30)
    assert hurried.got is not None
    assert not patient.settled.wait(0.2)
    machine.held_bytes = 60 * MB
    assert patient.settled.wait(30)
    assert patient.got is not None
    for waiter in (hurried, patient):
        waiter.finish()


def test_work_that_holds_a_reservation_is_neither_paused_nor_refused(govern: Govern, machine: Machine) -> None:
    governor = govern(bulk_patience_s=3600)
    with bulk_work(), governor.reserve("a window", 2 * MB):
        on_rung(machine, governor, 81)
        with governor.reserve("a batch in it", 8 * MB, least_bytes=MB, wait_s=3600) as batch:
            assert batch.granted_bytes == 2 * MB, "shrunk, though"
        on_rung(machine, governor, 96)
        with governor.reserve("a batch in it", 8 * MB, least_bytes=MB, wait_s=3600) as batch:
            assert batch.granted_bytes == 2 * MB
        query = Waiter(governor, MB)
        assert query.settled.wait(30)
        assert query.refusal is not None, "new work is"
        query.finish()


def test_while_new_work_is_refused_bulk_work_waits_to_its_deadline(
    govern: Govern, machine: Machine, clock: StillClock
) -> None:
    governor = govern()
    on_rung(machine, governor, 96)
    first, second = bulk(governor, MB, wait_s=60), bulk(governor, MB, wait_s=120)
    waiting(governor, 2)
    clock.sleep(60)
    assert first.settled.wait(30)
    assert first.refusal is not None
    machine.held_bytes = 10 * MB
    assert second.settled.wait(30)
    assert second.got is not None
    for waiter in (first, second):
        waiter.finish()


def test_a_dry_run_neither_shrinks_nor_pauses(govern: Govern, machine: Machine) -> None:
    governor = govern(dry_run=True)
    on_rung(machine, governor, 81)
    with governor.reserve("ingest", 16 * MB, wait_s=3600, priority="bulk") as reservation:
        assert reservation.granted_bytes == 16 * MB


def test_the_priority_is_the_threads_unless_it_is_given(govern: Govern, machine: Machine) -> None:
    governor = govern()
    on_rung(machine, governor, 81)

    def granted(priority: Priority | None = None) -> int:
        with governor.reserve("work", 16 * MB, least_bytes=0, priority=priority) as reservation:
            return reservation.granted_bytes // MB

    seen: list[int] = []
    with bulk_work():
        assert (granted(), granted("interactive")) == (4, 16)
        other = threading.Thread(target=lambda: seen.append(granted()))
        other.start()
        other.join()
    assert seen == [16], "another thread's work is its own"
    assert (granted(), granted("bulk")) == (16, 4)


def test_a_clock_that_is_set_back_makes_nobody_wait_longer(govern: Govern, clock: StillClock) -> None:
    governor = govern()
    first = govern_in_thread(governor, 80 * MB)
    waiter = Waiter(governor, 50 * MB, wait_s=10)
    waiting(governor, 1)
    clock.sleep(6)
    assert not waiter.settled.wait(0.2)
    clock.sleep(-3600)
    assert not waiter.settled.wait(0.2)
    clock.sleep(4)
    assert waiter.settled.wait(30)
    assert waiter.refusal is not None
    for each in (first, waiter):
        each.finish()


def test_without_limits_everything_is_granted_and_nobody_is_asked(govern: Govern, machine: Machine) -> None:
    cache = Cache(machine, "cache", 99 * MB)
    governor = govern(enabled=False)
    governor.register(cache)
    governor.check()
    with governor.reserve("anything", 500 * MB) as reservation:
        assert reservation.granted_bytes == 500 * MB
    state = governor.snapshot()
    assert (cache.asked, state.rung, state.limited) == ([], None, False)
