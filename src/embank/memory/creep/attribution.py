"""Whose growth it is, found by experiment.

Handed a suspected creep, it collects garbage and trims the allocator, asks each consumer for as many bytes, and then
lets operations go on for as long as they should take to leave 768 KiB more, with Python's allocations traced. At the
end memory is trimmed again: what matters is how much *trimmed* memory grew meanwhile, for a trim takes away what is
there of hoarding, whoever leaks.

    a consumer's own books rose, or releasing gave back what its books did not say  -> consumer
    lines of Python code hold more by as much, and that is no mere replacement      -> python: these lines
    trimmed memory grew, and Python knows nothing of it                             -> native: a C extension's
    trimmed memory did not grow, though the trim gave back what had grown           -> hoarding: the allocator's
    neither                                                                         -> unclear: it went on no longer

Asking consumers takes from them what they had earned, at most as many bytes as the growth. Collecting, trimming and the
two snapshots take tens of milliseconds in the thread whose operation ended; that happens on suspicion only. Does not
decide when to suspect, and heals nothing.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from embank.memory.consumer import Consumer
from embank.memory.creep.tracing import Location, Traced, Tracing
from embank.memory.trim import free as allocator_free
from embank.memory.trim import supported
from embank.memory.trim import trim as allocator_trim
from embank.system.log import get_logger

_log = get_logger(__name__)

Culprit = Literal["hoarding", "consumer", "python", "native", "unclear"]

_HALF = 0.5
_WANTED_BYTES = 768 * 1024
"""What should have leaked before it is judged: fragments that a trim leaves behind vary by less."""
_LEAST_OPERATIONS = 200
_MARK_AT = 0.25
"""How far into the tracing its mark is set."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Growth to be explained. `kinds` are the operations it goes with; `held` what consumers held before it."""

    growth_bytes: int
    bytes_per_operation: float
    kinds: tuple[str, ...]
    held: Mapping[str, int]
    managed: bool = False
    """Whether it is in the consumers' books."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whose growth it was. `name` is the consumer, or the line that grew most; `bytes` what was seen of it.

    `confidence` is the part of the expected growth that the experiment explained, at most 1. `locations` are lines of
    code and what they hold more, for python.
    """

    culprit: Culprit
    name: str
    bytes: int
    confidence: float
    kinds: tuple[str, ...]
    evidence: tuple[str, ...]
    locations: tuple[Location, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(slots=True)
class _State:
    """An experiment under way."""

    suspicion: Suspicion
    begun_at: int
    needed: int
    own_bytes: int
    held_bytes: int
    in_use_bytes: int | None
    trimmed_bytes: int
    blocks: int
    evidence: list[str]
    marked_at: int | None = None
    watch_bytes: int = 0
    """What the snapshots left behind in Python's allocator, at most."""


class Attribution:
    """One experiment at a time; its owner sees to it that one thread at a time calls it."""

    def __init__(
        self,
        *,
        read: Callable[[], int | None],
        consumers: Callable[[], Iterable[Consumer]],
        tracing: Tracing | None,
        most_operations: int,
        trim: Callable[[], bool] = allocator_trim,
        collect: Callable[[], object] = gc.collect,
        in_use: Callable[[], int | None] | None = None,
        blocks: Callable[[], int] = sys.getallocatedblocks,
        managed_bytes: Callable[[], int] | None = None,
    ) -> None:
        """`in_use` answers what malloc has handed out and not got back, None where it can't be asked.

        `blocks` answers how many blocks Python's own allocator has handed out.
        """
        self._read = read
        self._consumers = consumers
        self._tracing = tracing
        self._most_operations = most_operations
        self._trim = trim
        self._collect = collect
        self._in_use = in_use or (lambda: malloc_in_use(read))
        self._blocks = blocks
        self._managed_bytes = managed_bytes or (lambda: sum(held(consumers()).values()))
        self._state: _State | None = None

    @property
    def active(self) -> bool:
        """Whether an experiment is under way."""
        return self._state is not None

    def begin(self, suspicion: Suspicion, *, operations: int) -> Verdict | None:
        """Start; a verdict where the first part explains it, else None: tell it when operations end."""
        evidence: list[str] = []
        named = self._by_books(suspicion, evidence) if suspicion.managed else None
        if named is not None:
            return named
        before = self._read() or 0
        own = self._trimmed()
        trimmed = before - own
        evidence.append(f"collecting and trimming gave back {trimmed} of {suspicion.growth_bytes} bytes that had grown")
        # Whatever the trim gave back: much of it may have been there before.
        named = self._by_asking(suspicion, evidence)
        if named is not None:
            return named
        own = self._trimmed()
        rate = max(suspicion.bytes_per_operation, 1e-9)
        needed = min(max(round(_WANTED_BYTES / rate), _LEAST_OPERATIONS), self._most_operations)
        if self._tracing is None:
            evidence.append("allocations were not traced: switched off")
        elif not self._tracing.start():
            evidence.append("allocations were not traced: somebody else traces them")
        held_bytes, in_use = self._managed_bytes(), self._in_use()
        self._state = _State(suspicion, operations, needed, own, held_bytes, in_use, trimmed, self._blocks(), evidence)
        return None

    def operation_ended(self, operations: int) -> Verdict | None:
        """Go on; the verdict where the experiment is over."""
        state = self._state
        if state is None:
            return None
        done = operations - state.begun_at
        tracing = self._tracing
        if tracing is not None and tracing.check() and state.marked_at is None and done >= _MARK_AT * state.needed:
            state.marked_at = operations
            before = self._read() or 0
            tracing.mark()
            state.watch_bytes += max((self._read() or 0) - before, 0)
        return self._conclude(state, operations) if done >= state.needed else None

    def close(self) -> None:
        """Give an experiment under way up."""
        self._state = None
        if self._tracing is not None:
            self._tracing.close()

    def forget(self) -> None:
        """In a forked child: nothing is under way."""
        self._state = None
        if self._tracing is not None:
            self._tracing.forget()

    # --- consumers --------------------------------------------------------------------------------------------------

    def _by_books(self, suspicion: Suspicion, evidence: list[str]) -> Verdict | None:
        """The consumer whose own books rose by most of the growth."""
        rose = {name: used - suspicion.held.get(name, 0) for name, used in held(self._consumers()).items()}
        name = max(rose, key=lambda each: rose[each], default=None)
        if name is None or rose[name] < _HALF * suspicion.growth_bytes:
            return None
        evidence.append(f"by its own books it holds {rose[name]} bytes more than before")
        share = min(rose[name] / max(suspicion.growth_bytes, 1), 1.0)
        return Verdict("consumer", name, rose[name], share, suspicion.kinds, tuple(evidence))

    def _by_asking(self, suspicion: Suspicion, evidence: list[str]) -> Verdict | None:
        """The consumer that gives back what its books did not say."""
        for consumer in self._consumers():
            own, booked = self._read() or 0, _used(consumer)
            try:
                consumer.release(suspicion.growth_bytes)
            except Exception:  # noqa: BLE001 -- foreign code may raise anything: the others are asked all the same
                _log.exception("memory consumer %s failed in release", _name(consumer))
                continue
            self._trim()
            hidden = own - (self._read() or 0) - max(booked - _used(consumer), 0)
            if hidden >= _HALF * suspicion.growth_bytes:
                evidence.append(f"releasing gave back {hidden} bytes beyond what its books said")
                share = min(hidden / max(suspicion.growth_bytes, 1), 1.0)
                return Verdict("consumer", _name(consumer), hidden, share, suspicion.kinds, tuple(evidence))
        return None

    # --- the end ----------------------------------------------------------------------------------------------------

    def _conclude(self, state: _State, operations: int) -> Verdict:
        self._state = None
        untraced = self._read() or 0
        traced = Traced("not traced") if self._tracing is None else self._tracing.finish()
        before = self._read() or 0
        state.watch_bytes += max(before - untraced, 0)
        own = self._trimmed()
        done = operations - state.begun_at
        managed = self._managed_bytes() - state.held_bytes
        grown = own - state.own_bytes - managed - state.watch_bytes
        expected = max(state.suspicion.bytes_per_operation * done, 1.0)
        evidence = state.evidence
        evidence.append(f"trimmed memory grew by {grown} bytes over {done} operations; {expected:.0f} were expected")
        in_use, malloced = self._in_use(), 0
        if in_use is not None and state.in_use_bytes is not None:
            malloced = in_use - state.in_use_bytes - managed
            evidence.append(f"bytes in use by malloc changed by {malloced}")
        python = self._by_lines(state, traced, operations, max(grown, malloced))
        kinds = state.suspicion.kinds
        if python >= _HALF * expected:
            sure = min(python / expected, 1.0)
            return Verdict("python", str(traced.top[0]), round(python), sure, kinds, tuple(evidence), traced.top)
        # malloc's books are exact; what a library maps by itself is seen in the process's memory alone.
        leaked = max(grown, malloced)
        if leaked < _HALF * expected:
            return self._no_leak(state, expected, leaked, before - own)
        if traced.ended != "finished":
            return Verdict("unclear", "", leaked, 0.0, kinds, tuple(evidence))
        evidence.append(f"Python's own allocations grew by {max(round(python), 0)} bytes: the rest is not in Python's")
        sure = min(leaked / expected, 1.0) * (1 - min(max(python, 0.0) / leaked, 1.0))
        return Verdict("native", "", leaked, sure, kinds, tuple(evidence), traced.top)

    def _by_lines(self, state: _State, traced: Traced, operations: int, grown: int) -> float:
        """Growth of what Python's lines hold, over the whole experiment; 0 where it is not borne out by memory."""
        if traced.ended != "finished":
            state.evidence.append(f"no comparison of Python's allocations: {traced.ended}")
            return 0.0
        # The mark was set late: as much again as since then is assumed to have grown in the time before it.
        done = operations - state.begun_at
        scale = done / max(operations - (state.marked_at or state.begun_at), 1)
        python = min(traced.grown_bytes, sum(each.bytes for each in traced.top)) * scale
        # What is replaced looks like growth to the tracing: then neither memory nor the number of blocks grows with it.
        blocks = sum(each.blocks for each in traced.top) * scale
        if grown < _HALF * python and not self._blocks() - state.blocks >= _HALF * blocks > 0:
            return 0.0
        state.evidence.append(f"lines of Python code hold {traced.grown_bytes} bytes more than when the mark was set")
        return python

    def _no_leak(self, state: _State, expected: float, leaked: int, trimmed: int) -> Verdict:
        suspicion = state.suspicion
        state.evidence.append(f"the second trim gave back {trimmed} bytes")
        back = max(state.trimmed_bytes, trimmed)
        gave_back = state.trimmed_bytes >= _HALF * suspicion.growth_bytes or trimmed >= _HALF * expected
        if gave_back and supported():
            share = 1.0 - min(max(leaked, 0) / expected, 1.0)
            return Verdict("hoarding", "", back, share, suspicion.kinds, tuple(state.evidence))
        return Verdict("unclear", "", max(leaked, 0), 0.0, suspicion.kinds, tuple(state.evidence))

    def _trimmed(self) -> int:
        """What the process holds once garbage is collected and free pages are handed back."""
        self._collect()
        self._trim()
        return self._read() or 0


def held(consumers: Iterable[Consumer]) -> dict[str, int]:
    """Bytes by name; consumers of one name together."""
    found: dict[str, int] = {}
    for consumer in consumers:
        name = _name(consumer)
        found[name] = found.get(name, 0) + _used(consumer)
    return found


def malloc_in_use(read: Callable[[], int | None]) -> int | None:
    """Bytes that glibc's malloc has handed out and not got back; None where it can't be asked."""
    free, own = allocator_free(), read()
    return None if free is None or own is None else own - free.spare_bytes


def _used(consumer: Consumer) -> int:
    try:
        return max(int(consumer.used_bytes()), 0)
    except Exception:  # noqa: BLE001 -- foreign code may raise anything
        _log.exception("memory consumer %s failed in used_bytes", _name(consumer))
        return 0


def _name(consumer: Consumer) -> str:
    try:
        return str(consumer.name)
    except Exception:  # noqa: BLE001 -- foreign code may raise anything
        return type(consumer).__name__
