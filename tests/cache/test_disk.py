"""The second level on disk: what was kept is there after whatever happened, bit for bit, or is a miss."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tests.cache.disk_writer import ROW_BYTES, keys_of, rows_of

from embank.cache.disk import DiskLevel
from embank.cache.embeddings import EmbeddingCache
from embank.cache.settings import LEAST_DISK_BYTES
from embank.errors import InvalidInput
from embank.testing.faults import FaultyFiles

LIMIT = 4 << 20
_WRITER = Path(__file__).with_name("disk_writer.py")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "embeddings"


def filled(path: Path, numbers: range = range(500), limit: int = LIMIT) -> None:
    level = DiskLevel(path, limit)
    level.put_many(keys_of(numbers), rows_of(numbers))
    level.close()


def found_of(level: DiskLevel, numbers: range = range(500)) -> npt.NDArray[np.bool_]:
    """Which numbers are found; those that are have their own rows."""
    rows, found = level.get_many(keys_of(numbers), ROW_BYTES)
    assert rows.shape == (len(numbers), ROW_BYTES)
    assert np.array_equal(rows[found], rows_of(numbers)[found])
    return found


# --- keeping --------------------------------------------------------------------------------------------------------


def test_rows_survive_a_restart_bit_for_bit(path: Path) -> None:
    filled(path)
    level = DiskLevel(path, LIMIT)
    assert found_of(level).all()
    assert not found_of(level, range(500, 600)).any()
    stats = level.stats()
    assert (stats.name, stats.entries, stats.hits, stats.misses, stats.errors) == ("disk", 500, 500, 100, 0)
    assert 500 * ROW_BYTES <= stats.bytes <= LIMIT
    level.close()
    level.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_secret_is_kept_as_long_as_the_rows(path: Path) -> None:
    first, second = DiskLevel(path, LIMIT), DiskLevel(path.with_name("other"), LIMIT)
    assert first.secret != second.secret
    secret = first.secret
    first.clear()
    first.close()
    assert DiskLevel(path, LIMIT).secret == secret


def test_the_last_row_put_under_a_key_is_found(path: Path) -> None:
    level = DiskLevel(path, LIMIT)
    keys = keys_of(range(10))
    level.put_many(keys, rows_of(range(10)))
    level.put_many(keys, rows_of(range(100, 110)))
    rows, found = level.get_many(keys, ROW_BYTES)
    assert found.all()
    assert np.array_equal(rows, rows_of(range(100, 110)))
    assert level.stats().entries == 10


def test_rows_of_several_widths_lie_beside_each_other(path: Path) -> None:
    level = DiskLevel(path, LIMIT)
    widths = {768: range(50), 388: range(100, 150), 3_073: range(200, 250), 1: range(300, 350)}
    for width, numbers in widths.items():
        level.put_many(keys_of(numbers), rows_of(numbers, width))
    for width, numbers in widths.items():
        rows, found = level.get_many(keys_of(numbers), width)
        assert found.all()
        assert np.array_equal(rows, rows_of(numbers, width))
    # Of another width than asked for is not what was asked for.
    assert not level.get_many(keys_of(range(50)), 388)[1].any()


def test_recent_gives_what_was_written_last_first(path: Path) -> None:
    filled(path)
    level = DiskLevel(path, LIMIT)
    blocks = list(level.recent(ROW_BYTES, 120))
    assert np.array_equal(np.concatenate([keys for keys, _ in blocks]), keys_of(range(380, 500))[::-1])
    assert np.array_equal(np.concatenate([rows for _, rows in blocks]), rows_of(range(380, 500))[::-1])
    assert list(level.recent(ROW_BYTES, 0)) == []
    assert list(level.recent(384, 100)) == []
    assert sum(len(keys) for keys, _ in level.recent(ROW_BYTES, 10**6)) == 500


def test_clearing_forgets_and_gives_the_disk_back(path: Path) -> None:
    filled(path)
    level = DiskLevel(path, LIMIT)
    assert level.clear() >= 500 * ROW_BYTES
    assert not found_of(level).any()
    assert level.stats().entries == 0
    level.put_many(keys_of(range(10)), rows_of(range(10)))
    assert found_of(level, range(10)).all()


# --- the limit ------------------------------------------------------------------------------------------------------


def test_the_limit_is_kept_and_the_latest_stay(path: Path) -> None:
    level = DiskLevel(path, LEAST_DISK_BYTES)
    for start in range(0, 6_000, 200):
        numbers = range(start, start + 200)
        level.put_many(keys_of(numbers), rows_of(numbers))
        assert path.stat().st_size <= LEAST_DISK_BYTES
    kept = found_of(level, range(6_000))
    assert kept[-800:].mean() >= 0.99
    assert not kept[:4_000].any()
    assert 1_000 <= level.stats().entries <= LEAST_DISK_BYTES / ROW_BYTES


def test_what_is_used_stays_and_what_is_not_goes(path: Path) -> None:
    level = DiskLevel(path, LEAST_DISK_BYTES)
    hot = range(100)
    level.put_many(keys_of(hot), rows_of(hot))
    for start in range(1_000, 7_000, 200):
        numbers = range(start, start + 200)
        level.put_many(keys_of(numbers), rows_of(numbers))
        assert found_of(level, hot).mean() >= 0.95
    assert not found_of(level, range(1_000, 4_000)).any()


@pytest.mark.parametrize("limit", [LEAST_DISK_BYTES, 8 << 20])
def test_under_another_limit_it_begins_anew(path: Path, limit: int) -> None:
    filled(path)
    level = DiskLevel(path, limit)
    assert not found_of(level).any()
    level.put_many(keys_of(range(10)), rows_of(range(10)))
    assert found_of(level, range(10)).all()
    assert path.stat().st_size <= limit


@pytest.mark.parametrize("limit", [0, LEAST_DISK_BYTES - 1, "50%", "12KB"])
def test_a_limit_that_can_hold_nothing_is_refused(path: Path, limit: str | int) -> None:
    with pytest.raises(InvalidInput):
        DiskLevel(path, limit)


# --- damage ---------------------------------------------------------------------------------------------------------


def test_flipped_bytes_are_misses_and_are_dropped(path: Path) -> None:
    filled(path)
    content = bytearray(path.read_bytes())
    places = np.random.default_rng(1).choice(np.arange(4_096, len(content)), 400, replace=False)
    for place in places.tolist():
        content[place] ^= 0x10
    path.write_bytes(content)
    level = DiskLevel(path, LIMIT)
    found = found_of(level)  # what is found is right
    assert 50 < found.sum() < 500
    before = level.stats().entries
    assert before < 500
    found_of(level)
    assert level.stats().entries == before
    level.put_many(keys_of(range(500)), rows_of(range(500)))
    assert found_of(level).all()


@pytest.mark.parametrize("part", [0.0, 0.00001, 0.001, 0.1, 0.5, 0.9, 0.99999])
def test_a_truncated_file_opens(path: Path, part: float) -> None:
    filled(path)
    size = path.stat().st_size
    os.truncate(path, int(size * part))
    level = DiskLevel(path, LIMIT)
    found = found_of(level)
    assert not found.all()
    assert found.any() == (part >= 0.5)
    level.put_many(keys_of(range(500)), rows_of(range(500)))
    assert found_of(level).all()


def test_a_file_cut_short_while_it_is_open_is_a_miss(path: Path) -> None:
    level = DiskLevel(path, LIMIT)
    level.put_many(keys_of(range(500)), rows_of(range(500)))
    os.truncate(path, 0)
    assert not found_of(level).any()
    level.put_many(keys_of(range(500)), rows_of(range(500)))
    assert found_of(level).all()


def test_a_damaged_header_begins_anew(path: Path) -> None:
    filled(path)
    with path.open("r+b") as file:
        file.seek(20)
        file.write(b"\xff\xff")
    level = DiskLevel(path, LIMIT)
    assert not found_of(level).any()
    level.put_many(keys_of(range(10)), rows_of(range(10)))
    assert found_of(level, range(10)).all()


def test_a_file_of_something_else_is_kept_aside(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"SQLite format 3\0" + bytes(10_000))
    level = DiskLevel(path, LIMIT)
    level.put_many(keys_of(range(10)), rows_of(range(10)))
    assert found_of(level, range(10)).all()
    assert path.with_name("embeddings.unreadable").read_bytes().startswith(b"SQLite format 3\0")


def test_what_lies_behind_the_limit_is_cut_off(path: Path) -> None:
    filled(path)
    with path.open("ab") as file:
        file.write(bytes(8 << 20))
    level = DiskLevel(path, LIMIT)
    assert path.stat().st_size <= LIMIT
    assert found_of(level).all()


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 50, 10_000, 50_000, 90_000])
def test_a_full_disk_is_an_error_and_nothing_of_it_is_found(path: Path, room: int) -> None:
    files = FaultyFiles()
    level = DiskLevel(path, LIMIT, files=files)
    level.put_many(keys_of(range(100)), rows_of(range(100)))
    files.room_bytes = room
    with pytest.raises(OSError) as caught:
        level.put_many(keys_of(range(100, 200)), rows_of(range(100, 200)))
    assert caught.value.errno == errno.ENOSPC
    found = found_of(level, range(200))  # whatever is found is whole
    assert found[:100].all()
    if room <= 50_000:  # not all the records
        assert not found[100:].any()
    files.room_bytes = None
    level.put_many(keys_of(range(100, 200)), rows_of(range(100, 200)))
    assert found_of(level, range(200)).all()
    level.close()
    assert found_of(DiskLevel(path, LIMIT), range(200)).all()


def test_a_full_disk_does_not_take_hits_away(path: Path) -> None:
    files = FaultyFiles()
    level = DiskLevel(path, LEAST_DISK_BYTES, files=files)
    for start in range(0, 1_200, 100):
        level.put_many(keys_of(range(start, start + 100)), rows_of(range(start, start + 100)))
    files.room_bytes = 0
    assert found_of(level, range(200, 300)).mean() >= 0.95  # old ones, which would be moved up
    assert level.stats().errors == 1


def test_the_breaker_makes_misses_of_a_full_disk(path: Path) -> None:
    files = FaultyFiles()
    cache = EmbeddingCache("1MB", second=DiskLevel(path, LIMIT, files=files))
    files.room_bytes = 0
    vectors = np.ones((3, 8), np.float32)
    cache.put_many(["a", "b", "c"], vectors, space="s")
    assert cache.get_many(["a", "b", "c"], space="s")[1].all()
    assert cache.stats().second_errors == 1


def test_killed_in_the_middle_of_writing(path: Path) -> None:
    acknowledged = 0
    for _ in range(4):
        writer = subprocess.Popen(
            [sys.executable, _WRITER, path, str(64 << 20)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        said = writer.stdout.readline()
        time.sleep(0.2)
        writer.kill()
        said += writer.stdout.read()
        writer.communicate()
        acknowledged = max(int(line) for line in said.splitlines(keepends=True) if line.endswith("\n"))
        level = DiskLevel(path, 64 << 20)
        assert level.writable
        # The process went, the page cache did not: all that was acknowledged is there, and what is there is right.
        assert found_of(level, range(acknowledged)).all()
        found_of(level, range(acknowledged, acknowledged + 200))
        level.close()


def test_of_two_processes_one_writes_and_both_read(path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, _WRITER, path, str(LIMIT), "2"], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert [writer.stdout.readline() for _ in range(3)] == ["writing\n", "64\n", "128\n"]
    level = DiskLevel(path, LIMIT)
    assert not level.writable
    assert level.stats().name == "disk (read only)"
    assert found_of(level, range(128)).all()
    level.put_many(keys_of(range(200, 210)), rows_of(range(200, 210)))
    assert level.clear() == 0
    assert not found_of(level, range(200, 210)).any()
    assert sum(len(keys) for keys, _ in level.recent(ROW_BYTES, 1_000)) == 128
    writer.communicate("")
    assert writer.returncode == 0
    level.close()
    again = DiskLevel(path, LIMIT)
    assert again.writable
    assert found_of(again, range(128)).all()


def test_a_reader_sees_what_is_written_after_it_opened(path: Path) -> None:
    writer = DiskLevel(path, LIMIT)
    reader = DiskLevel(path, LIMIT, read_only=True)
    assert not found_of(reader).any()
    writer.put_many(keys_of(range(500)), rows_of(range(500)))
    assert found_of(reader).all()
    writer.clear()
    assert not found_of(reader).any()
    assert not reader.writable


def test_reading_only_makes_no_file(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DiskLevel(path, LIMIT, read_only=True)
    assert not path.parent.exists()


def test_threads_never_get_a_wrong_row(path: Path) -> None:
    level = DiskLevel(path, LEAST_DISK_BYTES)  # the ring goes round and round
    numbers = range(2_000)
    keys, rows = keys_of(numbers), rows_of(numbers)
    problems: list[str] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for turn in range(60):
            some = rng.choice(len(numbers), 100, replace=False)
            if seed % 2:
                level.put_many(keys[some], rows[some])
            else:
                got, found = level.get_many(keys[some], ROW_BYTES)
                if not np.array_equal(got[found], rows[some][found]):
                    problems.append(f"thread {seed}, turn {turn}")
            if seed == 1 and turn % 20 == 19:
                level.clear()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_closed_it_finds_and_keeps_nothing(path: Path) -> None:
    level = DiskLevel(path, LIMIT)
    level.put_many(keys_of(range(10)), rows_of(range(10)))
    level.close()
    assert not found_of(level, range(10)).any()
    level.put_many(keys_of(range(10)), rows_of(range(10)))
    assert level.clear() == 0
    assert list(level.recent(ROW_BYTES, 10)) == []
    assert level.stats().entries == 0


# --- with the cache in front ----------------------------------------------------------------------------------------


def test_vectors_are_the_same_bit_for_bit_after_a_restart(path: Path) -> None:
    texts = [f"text {number}" for number in range(300)]
    vectors = np.random.default_rng(5).normal(size=(300, 384)).astype(np.float32)

    def opened() -> EmbeddingCache:
        level = DiskLevel(path, LIMIT)
        return EmbeddingCache("4MB", second=level, secret=level.secret)

    with opened() as cache:
        made = cache.put_many(texts, vectors, space="model")
    with opened() as cache:
        cache.learn("model", 384)
        again, found = cache.get_many(texts, space="model")
        assert found.all()
        assert np.array_equal(again, made)
        assert cache.stats().second_hits == 300
    with opened() as cache:
        assert cache.warm_up(space="model", dimension=384, most=250) == 250
        again, found = cache.get_many(texts[50:], space="model")
        assert np.array_equal(again[found], made[50:][found])
        assert cache.stats().hits == 250
        assert cache.stats().second_hits == 0
        cache.clear()
        assert not cache.get_many(texts, space="model")[1].any()
