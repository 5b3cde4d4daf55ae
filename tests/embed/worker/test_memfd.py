from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embank.embed.worker.memfd import KEPT_BYTES, Closed, SharedMemory, read_at, write_at
from embank.embed.worker.wire import Garbled, Payload
from embank.errors import InvalidInput
from embank.memory.meter import SystemMeter

if sys.platform != "linux":
    pytest.skip("memfd is Linux's", allow_module_level=True)

MB = 1 << 20


@pytest.fixture
def memory() -> SharedMemory:
    return SharedMemory(most_bytes=64 * MB)


def test_what_one_side_writes_the_other_reads(memory: SharedMemory) -> None:
    region = memory.take(100)
    sent = memory.write(region, [b"abc", memoryview(b"defgh")])
    assert read_at(memory.fd, sent) == b"abcdefgh"
    numbers = np.arange(6, dtype=np.float32)
    answer = write_at(memory.fd, region.offset, [numbers.data.cast("B")])
    assert memory.read(region, answer, np.float32).tolist() == numbers.tolist()
    memory.close()


def test_what_was_read_is_the_readers_own(memory: SharedMemory) -> None:
    region = memory.take(8)
    numbers = memory.read(region, write_at(memory.fd, region.offset, [b"\1\0\0\0\2\0\0\0"]), np.int32)
    write_at(memory.fd, region.offset, [b"\xff" * 8])
    assert numbers.tolist() == [1, 2]
    memory.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda p: Payload(p.offset, p.length, p.check ^ 1),
        lambda p: Payload(p.offset + 4096, p.length, p.check),
        lambda p: Payload(p.offset, 1 << 20, p.check),
        lambda p: Payload(p.offset, p.length - 1, p.check),
    ],
)
def test_an_answer_elsewhere_or_altered_is_refused(memory: SharedMemory, change: object) -> None:
    region = memory.take(8)
    told = write_at(memory.fd, region.offset, [b"12345678"])
    with pytest.raises(Garbled):
        memory.read(region, change(told), np.int32)  # type: ignore[operator]
    memory.close()


def test_a_request_altered_on_its_way_is_refused(memory: SharedMemory) -> None:
    region = memory.take(8)
    sent = memory.write(region, [b"12345678"])
    os.pwrite(memory.fd, b"X", sent.offset)
    with pytest.raises(Garbled):
        read_at(memory.fd, sent)
    memory.close()


def test_regions_never_overlap(memory: SharedMemory) -> None:
    def use(number: int) -> None:
        for size in (10, 5000, 3 * MB, 100):
            region = memory.take(size)
            data = bytes([number]) * size
            sent = memory.write(region, [data])
            assert read_at(memory.fd, sent) == data
            memory.give(region)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(40)))
    memory.close()


def test_it_grows_for_a_large_message_and_shrinks_again(memory: SharedMemory) -> None:
    small = memory.take(10)
    memory.write(small, [b"0123456789"])
    large = memory.take(20 * MB)
    memory.write(large, [b"x" * (20 * MB)])
    assert memory.held_bytes() >= 20 * MB
    memory.give(large)
    assert memory.held_bytes() <= KEPT_BYTES + large.offset
    assert memory.read(small, write_at(memory.fd, small.offset, [b"0123"]), np.uint8).tobytes() == b"0123"
    memory.close()
    assert memory.held_bytes() == 0


def test_who_finds_it_full_waits_until_there_is_room(memory: SharedMemory) -> None:
    first, second = memory.take(40 * MB), memory.take(20 * MB)
    with ThreadPoolExecutor(1) as pool:
        third = pool.submit(memory.take, 30 * MB)
        assert not third.done()
        memory.give(first)
        assert third.result(30).offset == 0
    memory.give(second)
    memory.close()


def test_what_can_never_fit_is_refused(memory: SharedMemory) -> None:
    with pytest.raises(InvalidInput, match=r"67108865 bytes are more than the 67108864 .* embed\.isolation to thread"):
        memory.take(64 * MB + 1)
    memory.close()


def test_closing_wakes_who_waits(memory: SharedMemory) -> None:
    memory.take(60 * MB)
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            memory.take(60 * MB)
        except Closed as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    memory.close()
    memory.close()
    thread.join(30)
    assert len(caught) == 1
    with pytest.raises(Closed):
        memory.take(1)


def test_nobody_can_truncate_it(memory: SharedMemory) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(memory.fd, 0)
    memory.close()


def test_the_meter_counts_it_once(memory: SharedMemory) -> None:
    """The owner maps it, the other side does not: the sum over both has it once."""
    meter = SystemMeter()
    read = "len(os.pread(int(sys.argv[1]), 32 << 20, 0))"
    script = f"import os, sys; print(flush=True); input(); print({read}, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(memory.fd)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[memory.fd],
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        region = memory.take(32 * MB)
        text = b"x" * (32 * MB)
        child.stdout.readline()  # it is up, and holds what it will
        before = meter.read()
        memory.write(region, [text])
        child.stdin.write(b"\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"33554432\n"  # so many does the other side see
        after = meter.read()
        assert after.processes == before.processes >= 2
        assert 31 * MB <= after.tree_bytes - before.tree_bytes <= 48 * MB
        memory.give(region)
        assert after.tree_bytes - meter.read().tree_bytes >= 30 * MB
        child.communicate(b"\n")
    memory.close()
