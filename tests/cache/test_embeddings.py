"""What the embedding cache gives back: the same bits, for the same text, in the same space, or nothing."""

from __future__ import annotations

import unicodedata
from typing import Any, Literal

import numpy as np
import pytest
from tests.cache.vectors import Float32, names, unit
from tests.memory.machine import StillClock

from embank.cache.embeddings import EmbeddingCache
from embank.cache.keys import Hasher
from embank.errors import InvalidInput

Dtype = Literal["float16", "int8", "float32"]
DTYPES: list[Dtype] = ["float16", "int8", "float32"]
ERROR = {"float16": 1e-3, "int8": 0.02, "float32": 0.0}

HOSTILE = [
    "",
    "\0",
    "a\0",
    "a",
    " a",
    "a ",
    "\ud800",
    "\udfff",
    "\ud800\udc00",
    "\U00010000",
    unicodedata.normalize("NFC", "é"),
    unicodedata.normalize("NFD", "é"),
    "\ufeff",
    "🫖" * 3,
    "x" * 3_000_000,
    "x" * 3_000_001,
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dimension", [1, 3, 384])
def test_a_hit_is_bit_for_bit_what_put_returned(dtype: Dtype, dimension: int) -> None:
    texts, vectors = names(700), unit(700, dimension)
    with EmbeddingCache("8MB", dtype=dtype) as cache:
        kept = cache.put_many(texts, vectors, space="m")
        assert kept.dtype == np.float32
        assert np.abs(kept - vectors).max() <= ERROR[dtype]
        got, found = cache.get_many(texts, space="m")
        assert found.all()
        assert got.tobytes() == kept.tobytes()
        for number in (0, 1, 699):  # the path of single texts
            one, found = cache.get_many([texts[number]], space="m")
            assert found.tolist() == [True]
            assert one.tobytes() == kept[number : number + 1].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_was_kept_once_is_kept_unchanged(dtype: Dtype) -> None:
    """Rows that went through the cache come out of it as they went in."""
    texts = names(300)
    with EmbeddingCache("8MB", dtype=dtype) as first, EmbeddingCache("8MB", dtype=dtype) as second:
        kept = first.put_many(texts, unit(300, 33), space="m")
        assert second.put_many(texts, kept, space="m").tobytes() == kept.tobytes()


def test_float16_keeps_the_least_and_the_largest_numbers() -> None:
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    both = np.concatenate((halves, -halves)).reshape(2, -1)
    with EmbeddingCache("8MB") as cache:
        assert cache.put_many(["a", "b"], both, space="m").tobytes() == both.tobytes()
        assert cache.get_many(["a", "b"], space="m")[0].tobytes() == both.tobytes()
        assert cache.get_many(["b"], space="m")[0].tobytes() == both[1:].tobytes()


def test_the_rows_that_are_not_there_are_zeros_and_said_to_be_missing() -> None:
    with EmbeddingCache("1MB") as cache:
        kept = cache.put_many(["a", "c"], unit(2), space="m")
        zeros = np.zeros(32, np.float32)
        got, found = cache.get_many(["b", "c", "a", "b", "c"], space="m")
        assert found.tolist() == [False, True, True, False, True]
        assert got.tobytes() == np.stack([zeros, kept[1], kept[0], zeros, kept[1]]).tobytes()
        got, found = cache.get_many([], space="m")
        assert (got.shape, found.shape) == ((0, 32), (0,))
        got, found = cache.get_many(["a", "b"], space="unheard of")
        assert (got.shape, found.tolist()) == ((2, 0), [False, False])


def test_spaces_and_kinds_never_answer_for_each_other() -> None:
    """Also where their names, joined, are the same."""
    places = [
        ("ab", "c", "d"),
        ("a", "bc", "d"),
        ("a", "b", "cd"),
        ("", "abc", "d"),
        ("abc", "", "d"),
        ("ab", "", "cd"),
    ]
    vectors = unit(len(places))
    with EmbeddingCache("1MB", dtype="float32") as cache:
        for (space, kind, text), vector in zip(places, vectors, strict=True):
            cache.put_many([text], [vector], space=space, kind=kind)
        for (space, kind, text), vector in zip(places, vectors, strict=True):
            got, found = cache.get_many([text], space=space, kind=kind)
            assert found.all()
            assert got.tobytes() == vector.tobytes()
        assert cache.get_many(["d"], space="ab", kind="query")[1].tolist() == [False]


def test_any_text_is_a_text_of_its_own() -> None:
    vectors = unit(len(HOSTILE))
    with EmbeddingCache("1MB", dtype="float32") as cache:
        cache.put_many(HOSTILE, vectors, space="m")
        got, found = cache.get_many(HOSTILE, space="m")
        assert found.all()
        assert got.tobytes() == vectors.tobytes()
        for text, vector in zip(HOSTILE, vectors, strict=True):
            assert cache.get_many([text], space="m")[0].tobytes() == vector.tobytes()
        assert cache.stats().entries == len(HOSTILE)


@pytest.mark.parametrize("same", ["bucket", "first word", "second word"])
def test_keys_that_collide_in_part_are_told_apart(monkeypatch: pytest.MonkeyPatch, same: str) -> None:
    """As nobody can make them who does not know the secret. What finds no place in its buckets is not kept."""

    def digest(text: str, fresh: object) -> bytes:
        number = int(text.split()[1])
        words = {
            "bucket": (1 << 40 | number << 8 | 3, 1 << 41 | number << 8 | 3),
            "first word": (7, number << 32 | number),
            "second word": (number << 32 | number, 7),
        }[same]
        return b"".join(word.to_bytes(8, "little") for word in words)

    monkeypatch.setattr(Hasher, "digest", staticmethod(digest))
    monkeypatch.setattr(
        Hasher, "digests", lambda self, texts, space, kind: b"".join(digest(text, None) for text in texts)
    )
    texts, vectors = names(200), unit(200)
    with EmbeddingCache("1MB", dtype="float32") as cache:
        cache.put_many(texts, vectors, space="m")
        got, found = cache.get_many(texts, space="m")
        assert 8 <= found.sum() == cache.stats().entries
        assert cache.stats().rejected == 200 - found.sum()
        assert got[found].tobytes() == vectors[found].tobytes()
        for number, text in enumerate(texts):
            one, there = cache.get_many([text], space="m")
            assert there[0] == found[number]
            assert not there[0] or one.tobytes() == vectors[number].tobytes()


def test_of_two_caches_each_has_its_own_keys_unless_it_is_given_them() -> None:
    assert Hasher(None, "int8").digests(["a"], "m", "") != Hasher(None, "int8").digests(["a"], "m", "")
    assert Hasher(b"k" * 99, "int8").digests(["a"], "m", "") == Hasher(b"k" * 99, "int8").digests(["a"], "m", "")
    assert Hasher(b"k", "int8").digests(["a"], "m", "") != Hasher(b"k", "float16").digests(["a"], "m", "")


def test_overwriting_counts_once_and_the_last_vector_counts() -> None:
    old, new = unit(500, seed=1), unit(500, seed=2)
    texts = names(500)
    with EmbeddingCache("1MB", dtype="float32") as cache:
        cache.put_many(texts, old, space="m")
        held = cache.used_bytes()
        for _ in range(5):
            cache.put_many(texts, old, space="m")
        cache.put_many(texts, new, space="m")
        stats = cache.stats()
        assert (stats.entries, stats.inserted, stats.overwritten, cache.used_bytes()) == (500, 500, 3_000, held)
        assert cache.get_many(texts, space="m")[0].tobytes() == new.tobytes()


def test_of_a_text_that_occurs_twice_in_one_call_the_last_vector_counts() -> None:
    vectors = unit(5)
    with EmbeddingCache("1MB", dtype="float32") as cache:
        kept = cache.put_many(["a", "b", "a", "c", "a"], vectors, space="m")
        assert kept.tobytes() == vectors[[4, 1, 4, 3, 4]].tobytes()
        assert cache.get_many(["a", "b", "c"], space="m")[0].tobytes() == vectors[[4, 1, 3]].tobytes()
        assert cache.stats().entries == 3


def bad_puts() -> list[Any]:
    fine = unit(2)
    nan, infinite, zero = fine.copy(), fine.copy(), fine.copy()
    nan[1, 3], infinite[0, 0], zero[1] = np.nan, -np.inf, 0
    return [
        pytest.param(["a", "b"], nan, {}, id="not a number"),
        pytest.param(["a", "b"], infinite, {}, id="infinite"),
        pytest.param(["a", "b"], zero, {}, id="zero"),
        pytest.param(["a", "b"], fine * 1e6, {}, id="too large for float16"),
        pytest.param(["a", "b"], fine * 1e-9, {}, id="too small for float16"),
        pytest.param(["a", "b"], fine.astype(np.float64) * 1e300, {}, id="too large for float32"),
        pytest.param(["a", "b"], fine[:1], {}, id="too few vectors"),
        pytest.param(["a"], fine, {}, id="too few texts"),
        pytest.param(["a", "b"], fine[0], {}, id="one dimension"),
        pytest.param(["a", "b"], fine[None], {}, id="three dimensions"),
        pytest.param(["a", "b"], fine[:, :0], {}, id="no width"),
        pytest.param(["a", "b"], fine[:, :16], {}, id="another width than the space's"),
        pytest.param(["a", "b"], [[1.0, 2.0], [3.0]], {}, id="ragged"),
        pytest.param(["a", "b"], [["x"] * 32] * 2, {}, id="no numbers"),
        pytest.param(["a", "b"], None, {}, id="no vectors"),
        pytest.param(["a", b"b"], fine, {}, id="bytes among the texts"),
        pytest.param(["a", None], fine, {}, id="None among the texts"),
        pytest.param("ab", fine, {}, id="a single str"),
        pytest.param(7, fine, {}, id="no list"),
        pytest.param(["a", "b"], fine, {"space": 3}, id="a space that is no str"),
        pytest.param(["a", "b"], fine, {"space": ["m"]}, id="a list as space"),
        pytest.param(["a", "b"], fine, {"kind": None}, id="a kind that is no str"),
        pytest.param(["a", "b"], fine, {"kind": {}}, id="a dict as kind"),
        pytest.param(["a", "b"], fine, {"seconds": -1.0}, id="negative seconds"),
        pytest.param(["a", "b"], fine, {"seconds": float("nan")}, id="seconds not a number"),
        pytest.param(["a", "b"], fine, {"seconds": "1"}, id="seconds as str"),
        pytest.param(["a", "b"], fine, {"tokens": [1]}, id="too few tokens"),
        pytest.param(["a", "b"], fine, {"tokens": [1, -1]}, id="negative tokens"),
        pytest.param(["a", "b"], fine, {"tokens": ["x", "y"]}, id="tokens as str"),
    ]


@pytest.mark.parametrize(("texts", "vectors", "more"), bad_puts())
def test_bad_input_is_refused_and_keeps_nothing(texts: Any, vectors: Any, more: dict[str, Any]) -> None:
    with EmbeddingCache("1MB") as cache:
        cache.put_many(["there"], unit(1), space="m")
        before = cache.stats()
        with pytest.raises(InvalidInput):
            cache.put_many(texts, vectors, **{"space": "m", **more})
        after = cache.stats()
        assert (after.entries, after.inserted, after.used_bytes) == (1, before.inserted, before.used_bytes)
        assert cache.get_many(["a", "b", "there"], space="m")[1].tolist() == [False, False, True]


def test_what_names_the_row_and_the_dimension() -> None:
    vectors = unit(3)
    vectors[2, 5] = np.nan
    with EmbeddingCache("1MB") as cache:
        with pytest.raises(InvalidInput, match="vector 2 "):
            cache.put_many(names(3), vectors, space="m")
        cache.put_many(["a"], unit(1), space="m")
        with pytest.raises(InvalidInput, match="32 dimensions"):
            cache.put_many(["a"], unit(1, 33), space="m")
        with pytest.raises(InvalidInput, match="32 dimensions"):
            cache.learn("m", 33)
        cache.put_many(["a"], unit(1, 33), space="another")  # each space has its own
        assert cache.get_many(["a"], space="m")[0].shape == (1, 32)


@pytest.mark.parametrize("asked", [["a", 3], [None], "a", b"a", 3])
def test_bad_questions_are_refused(asked: Any) -> None:
    with EmbeddingCache("1MB") as cache:
        for _ in range(2):
            with pytest.raises(InvalidInput):
                cache.get_many(asked, space="m")
            cache.put_many(["a"], unit(1), space="m")
        with pytest.raises(InvalidInput):
            cache.get_many(["a"], space=b"m")  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    "options",
    [
        {"limit": 0},
        {"limit": -1},
        {"limit": "much"},
        {"limit": "10%"},
        {"policy": "fifo"},
        {"dtype": "float64"},
        {"secret": b""},
        {"secret": "word"},
    ],
)
def test_bad_settings_are_refused(options: Any) -> None:
    with pytest.raises(InvalidInput):
        EmbeddingCache(**options)


def test_clearing_one_space_leaves_the_others() -> None:
    with EmbeddingCache("4MB", dtype="float32") as cache:
        kept = {
            space: cache.put_many(names(900), unit(900, seed=seed), space=space) for seed, space in enumerate("abc")
        }
        held = cache.used_bytes()
        freed = cache.clear("b")
        assert freed > held // 4
        assert cache.used_bytes() == held - freed
        assert not cache.get_many(names(900), space="b")[1].any()
        for space in "ac":
            got, found = cache.get_many(names(900), space=space)
            assert found.all()
            assert got.tobytes() == kept[space].tobytes()
        assert cache.clear("never heard of") == 0
        assert cache.clear() > 0
        assert cache.stats().entries == 0
        assert not cache.get_many(names(900), space="a")[1].any()
        assert cache.stats().evictions == 0  # nobody had to go
        again = cache.put_many(names(900), unit(900, seed=9), space="a")
        assert cache.get_many(names(900), space="a")[0].tobytes() == again.tobytes()


def test_more_spaces_than_there_are_numbers() -> None:
    """The one written to longest ago goes, with its entries and nobody else's."""
    vectors = unit(300)
    with EmbeddingCache("4MB", dtype="float32") as cache:
        for number in range(300):
            cache.put_many(["a"], vectors[number : number + 1], space=f"m{number}")
        there = [bool(cache.get_many(["a"], space=f"m{number}")[1].all()) for number in range(300)]
        assert there == [number >= 45 for number in range(300)]
        assert cache.stats().entries == 255
        for number in range(45, 300):
            assert cache.get_many(["a"], space=f"m{number}")[0].tobytes() == vectors[number].tobytes()


def test_many_widths_share_one_limit() -> None:
    with EmbeddingCache("2MB") as cache:
        for width in range(1, 300):
            cache.put_many(names(40), unit(40, width), space=f"m{width}")
            assert cache.used_bytes() <= 2_000_000
        got, found = cache.get_many(names(40), space="m299")
        assert found.any()
        assert got.shape == (40, 299)


def computed(clock: StillClock, calls: list[list[str]], seconds: float = 0.0) -> Any:
    def compute(texts: list[str]) -> Float32:
        calls.append(list(texts))
        clock.time_s += seconds
        return np.array([[len(text), 1.0, 2.0] for text in texts], np.float32)

    return compute


def test_get_or_compute_computes_what_is_missing_once(clock: StillClock) -> None:
    calls: list[list[str]] = []
    with EmbeddingCache("1MB", dtype="float32", clock=clock) as cache:
        first = cache.get_or_compute(["a", "bb", "a", "ccc"], computed(clock, calls, 3.0), space="m")
        assert first[:, 0].tolist() == [1, 2, 1, 3]
        second = cache.get_or_compute(("ccc", "dddd", "a", "dddd"), computed(clock, calls, 1.0), space="m")
        assert second[:, 0].tolist() == [3, 4, 1, 4]
        third = cache.get_or_compute(["a", "bb", "dddd"], computed(clock, calls), space="m")
        assert third[:, 0].tolist() == [1, 2, 4]
        assert calls == [["a", "bb", "ccc"], ["dddd"]]
        assert cache.get_or_compute([], computed(clock, calls), space="m").shape == (0, 3)
        assert cache.stats().seconds_saved > 0


def test_get_or_compute_passes_on_what_compute_raises_and_keeps_nothing(clock: StillClock) -> None:
    def broken(texts: list[str]) -> Float32:
        raise OSError(f"no model for {len(texts)}")

    with EmbeddingCache("1MB", clock=clock) as cache:
        with pytest.raises(OSError, match="no model for 2"):
            cache.get_or_compute(["a", "b"], broken, space="m")
        with pytest.raises(InvalidInput):
            cache.get_or_compute(["a", "b"], lambda texts: unit(1), space="m")
        assert cache.stats().entries == 0


def test_get_or_compute_gives_the_bits_of_later_hits(clock: StillClock) -> None:
    vectors = unit(40, 48)
    with EmbeddingCache("1MB", dtype="int8", clock=clock) as cache:
        first = cache.get_or_compute(names(40), lambda texts: vectors, space="m")
        assert first.tobytes() == cache.get_or_compute(names(40), lambda texts: vectors, space="m").tobytes()


def test_a_closed_cache_keeps_nothing_and_still_answers() -> None:
    cache = EmbeddingCache("1MB")
    vectors = cache.put_many(["a"], unit(1), space="m")
    cache.close()
    cache.close()
    assert cache.get_many(["a"], space="m")[1].tolist() == [False]
    assert cache.put_many(["a"], vectors, space="m").tobytes() == vectors.tobytes()
    assert cache.get_many(["a"], space="m")[1].tolist() == [False]
    assert cache.stats().entries == 0
