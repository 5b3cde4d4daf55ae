"""From texts to vectors: windows, duplicates, batches of padded tokens, reservations, and the last check.

Model-independent: an `Engine` computes one padded batch; everything that makes it lean and right is here. Sorting a
window by length and cutting it at a number of padded tokens is both the fastest and the leanest way to batch: padding
costs as much as text, and a batch's memory is its rows times its longest. Where an engine has several lanes, small
batches run beside each other, one core each: a batch that stays in a core's own cache, with no other core to wait for,
was measured up to twice as fast as the same tokens in one batch over all cores.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np

from embank.embed.cost import BatchCost
from embank.embed.texts import checked_kind, checked_texts
from embank.errors import EmbankError, EmbeddingFailed

if TYPE_CHECKING:
    import numpy.typing as npt

    from embank.embed.engine import Budget, Engine, Publisher, TokenIds
    from embank.embed.model import Kind, Vectors

# Of a large batch there are several in a window, so that few are cut short by its end or by a change of width:
# measured on an H200 in bfloat16, 16 thousand texts/s with 4,096 texts, 5 thousand with 512.
_LEAST_WINDOW_TEXTS, _MOST_WINDOW_TEXTS = 512, 4096
_WINDOW_TOKENS_A_TEXT = 4
_WINDOW_CHARACTERS = 2 << 20
# How long a batch waits for others to end before it gives up.
_WAIT_S = 60.0
# Answers smaller than this are not worth a reservation of their own.
_SMALL_ANSWER_BYTES = 1 << 20

_Work = TypeVar("_Work")
_Done = TypeVar("_Done")


@dataclass(slots=True)
class _Call:
    """One call of `embed` under way. `padded_tokens` is the sum over batches of rows times width."""

    engine: Engine
    kind: Kind
    budget: Budget
    lanes: _Lanes
    batch_tokens: int
    cost: BatchCost
    tokens: int = 0
    padded_tokens: int = 0
    truncated: int = 0


def plan(
    lengths: Sequence[int] | npt.NDArray[np.intp], padded_tokens: int = 1024, *, step: int | None = None
) -> list[npt.NDArray[np.intp]]:
    """Batches of indices into `lengths`, longest first, each with rows times width within `padded_tokens`.

    A batch's width is its longest text; with `step`, that rounded up to a multiple of it, and then a batch holds only
    texts of one width. Every index is in exactly one batch; a batch has at least one row, however long. Equal lengths
    keep their order.
    """
    widths = np.asarray(lengths, dtype=np.intp)
    if step is not None:
        widths = -(-widths // step) * step
    order = np.argsort(-widths, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        width = max(1, int(widths[order[start]]))
        stop = min(len(order), start + max(1, padded_tokens // width))
        if step is not None:
            # Falling widths: the first narrower one ends the batch.
            stop = start + int(np.count_nonzero(widths[order[start:stop]] == width))
        batches.append(order[start:stop])
        start = stop
    return batches


def embed(
    engine: Engine,
    texts: Sequence[str],
    kind: Kind,
    *,
    budget: Budget,
    publisher: Publisher,
    batch_tokens: int | None = None,
    cost: BatchCost | None = None,
) -> Vectors:
    """L2-normalised float32 vectors of `texts`, in their order; publishes one `TextsEmbedded`.

    `batch_tokens` is how many padded tokens a batch may have; by default as many as the engine says. `cost` corrects
    the engine's estimates of what a batch takes.

    Working memory is one window's token ids and one batch, whatever the number of texts. Raises `InvalidInput` for a
    text that is none, `BudgetExceeded` when not even one row fits, `EmbeddingFailed` when the engine raises or answers
    with the wrong shape or with values that can't be a direction. Thread-safe where the engine is.
    """
    from embank.events.kinds import TextsEmbedded

    started_s = time.perf_counter()
    listed = checked_texts(texts)
    dimension = engine.fingerprint.dimension
    answer_bytes = len(listed) * dimension * 4
    is_small = answer_bytes <= _SMALL_ANSWER_BYTES
    with (
        nullcontext() if is_small else budget.reserve("embedded vectors", answer_bytes, wait_s=_WAIT_S),
        _Lanes(engine.lanes) as lanes,
    ):
        call = _Call(
            engine,
            checked_kind(kind),
            budget,
            lanes,
            batch_tokens or engine.batch_tokens,
            cost or BatchCost(lambda: None),
        )
        vectors = np.empty((len(listed), dimension), dtype=np.float32)
        for start, stop in _windows(listed, call.batch_tokens):
            _embed_window(call, listed[start:stop], vectors[start:stop], offset=start)
    name = engine.fingerprint.name
    seconds = time.perf_counter() - started_s
    publisher.publish(TextsEmbedded(name, len(listed), call.tokens, call.padded_tokens, seconds, call.truncated))
    return vectors


def _windows(texts: list[str], batch_tokens: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of bounded count and bounded size; one text may be larger than a window."""
    most = min(max(batch_tokens // _WINDOW_TOKENS_A_TEXT, _LEAST_WINDOW_TEXTS), _MOST_WINDOW_TEXTS)
    start = 0
    characters = 0
    for index, text in enumerate(texts):
        if index > start and (index - start == most or characters + len(text) > _WINDOW_CHARACTERS):
            yield start, index
            start, characters = index, 0
        characters += len(text)
    if start < len(texts):
        yield start, len(texts)


def _embed_window(call: _Call, texts: list[str], out: Vectors, *, offset: int) -> None:
    """Fill `out` (a view of the answer, one row a text); equal texts are computed once."""
    engine = call.engine
    places: dict[str, int] = {}
    owner = np.fromiter((places.setdefault(text, len(places)) for text in texts), dtype=np.intp, count=len(texts))
    # In one thread: two only waited for each other at the allocator (measured 4 % slower).
    encoded = engine.encode(list(places), call.kind)
    ids = encoded.rows
    lengths = np.fromiter(map(len, ids), dtype=np.intp, count=len(ids))
    distinct = np.empty((len(ids), out.shape[1]), dtype=np.float32)
    batches = plan(lengths, call.batch_tokens, step=engine.length_step)
    call.padded_tokens += _compute(call, ids, batches, distinct)
    call.truncated += encoded.truncated
    if encoded.owners is not None:
        distinct, lengths = _joined(distinct, lengths, encoded.owners)
    norms = np.sqrt(np.einsum("ij,ij->i", distinct, distinct))
    # One comparison finds NaN, infinity and zero: none of them is a direction, and none may leave this room.
    bad = ~((norms > 0) & np.isfinite(norms))
    if bad.any():
        index = offset + int(np.flatnonzero(bad[owner])[0])
        raise EmbeddingFailed(
            f"the model {engine.fingerprint.name!r} answered texts[{index}] with a vector of norm "
            f"{norms[owner[index - offset]]}",
            model=engine.fingerprint.name,
            index=index,
        )
    distinct /= norms[:, np.newaxis]
    np.take(distinct, owner, axis=0, out=out)
    call.tokens += int(lengths[owner].sum())


def _joined(
    rows: Vectors, lengths: npt.NDArray[np.intp], owners: npt.NDArray[np.intp]
) -> tuple[Vectors, npt.NDArray[np.intp]]:
    """One row and one length a text: the mean of the directions of its pieces, each weighted with its tokens."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    # Of a piece without a direction the norm is 0 or NaN; the check that follows sees it in the text's.
    with np.errstate(invalid="ignore", divide="ignore"):
        weighted = rows * (lengths / norms)[:, np.newaxis].astype(np.float32)
    return np.add.reduceat(weighted, starts), np.add.reduceat(lengths, starts)


def _compute(call: _Call, ids: list[TokenIds], batches: list[npt.NDArray[np.intp]], out: Vectors) -> int:
    """Compute every batch into its rows of `out`; the padded tokens that this took.

    As many batches at the same time, and each as large, as the bytes granted allow: first lanes are given up, then
    batches are cut into smaller ones, down to one row.
    """
    engine = call.engine
    widths = [_width(engine, len(ids[batch[0]])) for batch in batches]
    factor = call.cost.factor  # read once: it may change while this window is cut

    def cost(estimated_bytes: int) -> int:
        return int(estimated_bytes * factor)

    least_bytes = cost(max(engine.batch_bytes(1, width) for width in widths))
    estimated_bytes = max(engine.batch_bytes(len(batch), width) for batch, width in zip(batches, widths, strict=True))
    largest_bytes = max(cost(estimated_bytes), least_bytes, 1)
    lanes = min(engine.lanes, len(batches))
    with call.budget.reserve("embed batches", lanes * largest_bytes, least_bytes=least_bytes, wait_s=_WAIT_S) as grant:
        lanes = max(1, min(lanes, grant.granted_bytes // largest_bytes))
        lane_bytes = grant.granted_bytes // lanes
        pieces = []
        for batch, width in zip(batches, widths, strict=True):
            rows = max(1, lane_bytes // max(cost(engine.batch_bytes(1, width)), 1))
            pieces += [batch[start : start + rows] for start in range(0, len(batch), rows)]

        def fill(piece: npt.NDArray[np.intp]) -> None:
            out[piece] = _checked_forward(engine, [ids[index] for index in piece])

        with call.cost.watched(min(lanes * estimated_bytes, int(grant.granted_bytes / factor))):
            call.lanes.map(fill, pieces, lanes)
    return sum(len(batch) * width for batch, width in zip(batches, widths, strict=True))


class _Lanes:
    """The calling thread and, once there is work for more than one, others beside it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._pool: ThreadPoolExecutor | None = None

    def map(self, do: Callable[[_Work], _Done], work: Sequence[_Work], lanes: int) -> list[_Done]:
        """`do` of each piece of work, in order, `lanes` at a time; after an error nothing further is begun."""
        if lanes == 1:
            return [do(piece) for piece in work]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._most - 1, thread_name_prefix="embank-embed")
        done: dict[int, _Done] = {}
        waiting = deque(enumerate(work))  # taking from it is atomic

        def run() -> None:
            while True:
                try:
                    number, piece = waiting.popleft()
                except IndexError:
                    return
                try:
                    done[number] = do(piece)
                except BaseException:
                    waiting.clear()
                    raise

        others = [self._pool.submit(run) for _ in range(lanes - 1)]
        run()
        for other in others:
            other.result()
        return [done[number] for number in range(len(work))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _width(engine: Engine, length: int) -> int:
    step = engine.length_step or 1
    return -(-length // step) * step


def _checked_forward(engine: Engine, piece: list[TokenIds]) -> Vectors:
    name = engine.fingerprint.name
    try:
        vectors = engine.forward(piece)
        shape = np.shape(vectors)
    except (EmbankError, MemoryError):
        raise
    except Exception as error:
        raise EmbeddingFailed(f"the model {name!r} failed on {len(piece)} texts: {error}", model=name) from error
    wanted = (len(piece), engine.fingerprint.dimension)
    if shape != wanted:
        raise EmbeddingFailed(f"the model {name!r} answered with shape {shape} where {wanted} was due", model=name)
    return vectors
