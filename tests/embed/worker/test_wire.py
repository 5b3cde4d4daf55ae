from __future__ import annotations

import random

import numpy as np
import pytest

from embank.embed.worker.wire import (
    Frame,
    Frames,
    Garbled,
    Kind,
    Payload,
    checksum,
    packed_rows,
    packed_texts,
    unpacked_rows,
    unpacked_texts,
)

FRAMES = [
    Frame(Kind.PING, 3, 1),
    Frame(Kind.FORWARD, 3, 2**40, {"rows": 5, "room": 60}, Payload(4096, 2**33, 0xFFFFFFFF)),
    Frame(Kind.ERROR, 3, 7, {"error": {"message": "größer, 今日"}}),
]


def test_frames_come_as_they_were_sent_however_they_are_cut() -> None:
    data = b"".join(frame.encoded() for frame in FRAMES)
    for step in (1, 2, 7, 43, 44, 45, len(data)):
        reader = Frames(3)
        got = [frame for start in range(0, len(data), step) for frame in reader.feed(data[start : start + step])]
        assert got == FRAMES
        assert not reader.incomplete


def test_a_part_of_a_frame_is_no_frame() -> None:
    data = FRAMES[1].encoded()
    for length in range(1, len(data)):
        reader = Frames(3)
        assert list(reader.feed(data[:length])) == []
        assert reader.incomplete


def test_a_flipped_bit_never_makes_another_frame() -> None:
    rng = random.Random(5)
    for frame in FRAMES:
        data = frame.encoded()
        for bit in rng.sample(range(len(data) * 8), min(400, len(data) * 8)):
            spoiled = bytearray(data)
            spoiled[bit // 8] ^= 1 << bit % 8
            reader = Frames(3)
            try:
                assert list(reader.feed(bytes(spoiled))) == []  # it waits for a rest that never comes
            except Garbled:
                continue
            assert reader.incomplete


@pytest.mark.parametrize(
    "data", [b"Traceback (most recent call last)", b"\0" * 64, b"Emb!", b"E\n", b"EmbW" + b"\xff" * 60]
)
def test_what_is_no_message_is_seen_at_once(data: bytes) -> None:
    with pytest.raises(Garbled):
        list(Frames(1).feed(data))


def test_a_message_to_another_generation_is_refused() -> None:
    with pytest.raises(Garbled, match="generation 3 came where 4 was due"):
        list(Frames(4).feed(FRAMES[0].encoded()))


def test_garbage_behind_a_message_is_seen() -> None:
    reader = Frames(3)
    feed = reader.feed(FRAMES[0].encoded() + b"print debugging")
    assert next(feed) == FRAMES[0]
    with pytest.raises(Garbled, match="is not the beginning of a message"):
        next(feed)


def test_a_message_has_a_bound() -> None:
    with pytest.raises(Garbled, match="longer than"):
        Frame(Kind.LOG, 1, 0, {"message": "x" * (1 << 20)}).encoded()


# --- payloads -------------------------------------------------------------------------------------------------------


def test_texts_come_back() -> None:
    texts = ["", "abc", "größer 今日", "x" * 5000, "\0"]
    data = b"".join(packed_texts(texts))
    assert unpacked_texts(data, len(texts)) == texts
    assert unpacked_texts(b"".join(packed_texts([])), 0) == []


@pytest.mark.parametrize("count", [0, 1, 4, 400])
def test_texts_that_contradict_their_number_are_refused(count: int) -> None:
    data = b"".join(packed_texts(["abc", "defg", "h"]))
    with pytest.raises(Garbled):
        unpacked_texts(data, count)


def test_rows_come_back() -> None:
    rows = [np.arange(length, dtype=np.int32) for length in (1, 9, 3)]
    data = b"".join(packed_rows(rows))
    back = unpacked_rows(np.frombuffer(data, dtype=np.int32), 3)
    assert [row.tolist() for row in back] == [row.tolist() for row in rows]
    assert unpacked_rows(np.empty(0, dtype=np.int32), 0) == []


@pytest.mark.parametrize("numbers", [[], [2, 5], [2, 1, 1, 5], [0, 3, 5, 5, 5], [-1, 4, 5, 5, 5]])
def test_rows_that_contradict_their_lengths_are_refused(numbers: list[int]) -> None:
    with pytest.raises(Garbled):
        unpacked_rows(np.array(numbers, dtype=np.int32), 2)


def test_a_checksum_goes_over_all_parts() -> None:
    assert checksum([b"ab", memoryview(b"c")]) == checksum([b"abc"]) != checksum([b"acb"])
    assert checksum([]) == 0
