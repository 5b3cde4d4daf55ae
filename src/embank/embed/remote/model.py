"""Remote models: any OpenAI-compatible `/v1/embeddings` as a `Model`.

Covers batches by count and bytes, equal texts asked for once, several requests at the same time, reservations, and the
identity of the vectors. It takes texts, not token ids: what is longer than the model takes the endpoint truncates or
refuses, and nobody here can count tokens. Weights can't be seen from here, so that address and name stand for them in
the fingerprint: who puts another model behind the same address under the same name mixes vectors, and only another
width gives that away.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from embank.embed.model import Fingerprint
from embank.embed.remote.answer import MOST_DIMENSIONS, RemoteAnswer, answer_bytes, read_answer, reading_bytes
from embank.embed.remote.endpoint import PREFIX, read_endpoint
from embank.embed.remote.transport import Request, Transport
from embank.embed.resident import ModelState
from embank.embed.texts import checked_kind, checked_texts
from embank.errors import ConfigError, EmbeddingFailed, OfflineMode, RemoteFailed
from embank.events.kinds import ModelLoaded, ModelLoadFailed, ModelLoadStarted, ModelUnloaded, TextsEmbedded

if TYPE_CHECKING:
    from embank.embed.engine import Budget, Publisher
    from embank.embed.model import Kind, Vectors
    from embank.embed.remote.settings import Settings
    from embank.system.clock import Clock

_PROBE = "dimension"
# How long a request waits for memory that other work holds.
_WAIT_S = 60.0
# Answers smaller than this are not worth a reservation of their own.
_SMALL_ANSWER_BYTES = 1 << 20
# Of a text's bytes: the words of the body, as text of up to four bytes a character, and the body itself.
_BODY_BYTES_A_BYTE = 5


@dataclass(slots=True)
class _Call:
    """One call of `embed` under way: it fills `out`, shape (texts, dimension), at the places that it is given."""

    texts: list[str]
    prefix: str
    out: Vectors
    deadline_s: float
    stopped: threading.Event = field(default_factory=threading.Event)

    def sizes(self, places: Sequence[int]) -> list[int]:
        """UTF-8 bytes of the texts at these places, with the prefix."""
        beginning = len(self.prefix.encode())
        return [beginning + len(self.texts[place].encode()) for place in places]


class RemoteModel:
    """A model behind an endpoint. Follows `Model`. Thread-safe; made by `Loader`.

    `name` is what the endpoint calls it, `dimensions` what is asked of it (None: the settings', or its own width).
    Where no width is asked for, the first use embeds one word to learn it; it is kept, and an answer of any other width
    is refused. Raises `ConfigError` where the settings don't say where it is, or would send the key in the open, and
    `OfflineMode` where `offline` and the endpoint is not on this machine.
    """

    precision = "remote"

    def __init__(
        self,
        name: str,
        settings: Settings,
        *,
        dimensions: int | None = None,
        offline: bool = False,
        budget: Budget,
        publisher: Publisher,
        clock: Clock,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if settings.url is None:
            raise ConfigError(
                f"the model {PREFIX}{name} needs the address of its endpoint: set remote.url (EMBANK_REMOTE__URL), "
                f"such as https://HOST/v1",
                key="remote.url",
            )
        endpoint = read_endpoint(settings.url)
        if offline and not endpoint.is_loopback:
            raise OfflineMode(
                f"embed.offline is set, and the model {PREFIX}{name} is at {endpoint.place}: texts are sent to this "
                f"machine only; set embed.offline to false (EMBANK_EMBED__OFFLINE), or use a model that is here",
                name=name,
                place=endpoint.place,
            )
        self.model_name = f"{PREFIX}{name}"
        self._name = name
        self._settings = settings
        self._endpoint = endpoint
        self._asked_dimension = settings.dimensions or dimensions
        self._batch_bytes = settings.batch_bytes.resolve(0)
        self._budget = budget
        self._publisher = publisher
        self._clock = clock
        self._transport = Transport(
            endpoint, settings, model=self.model_name, publisher=publisher, clock=clock, jitter=jitter
        )
        self._lock = threading.Lock()  # guards what follows; never held while something else is called
        self._identity = None if self._asked_dimension is None else self._fingerprint_of(self._asked_dimension)
        self._flight: Future[Fingerprint] | None = None
        self._users = 0
        self._used_at_s: float | None = None
        self._state = self._standing("absent")

    # --- Model --------------------------------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        return str(self._known_identity())

    @property
    def dimension(self) -> int:
        return self._known_identity().dimension

    @property
    def max_tokens(self) -> int:
        return self._settings.max_tokens

    def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """See `Model`. Each distinct text is sent once; where one request fails for good, the whole call does.

        Raises `InvalidInput`, `BudgetExceeded`, and `RemoteFailed` at the latest when `deadline_s` is over and requests
        under way have ended, which may take one `timeout_s` more.
        """
        listed = checked_texts(texts)
        is_query = checked_kind(kind) == "query"
        started_s = time.perf_counter()
        deadline_s = self._clock.monotonic() + self._settings.deadline_s
        dimension = self._known_identity().dimension
        if not listed:
            return np.empty((0, dimension), dtype=np.float32)
        held_bytes = len(listed) * dimension * 4
        with (
            self._using(),
            nullcontext()
            if held_bytes <= _SMALL_ANSWER_BYTES
            else self._budget.reserve("remote vectors", held_bytes, wait_s=_WAIT_S),
        ):
            out = np.empty((len(listed), dimension), dtype=np.float32)
            prefix = self._settings.query_prefix if is_query else self._settings.passage_prefix
            first: dict[str, int] = {}
            owner = np.fromiter((first.setdefault(text, place) for place, text in enumerate(listed)), dtype=np.intp)
            tokens = self._fill(_Call(listed, prefix, out, deadline_s), list(first.values()))
            repeated = np.flatnonzero(owner != np.arange(len(listed)))
            out[repeated] = out[owner[repeated]]
        seconds = time.perf_counter() - started_s
        self._publisher.publish(TextsEmbedded(self.model_name, len(listed), tokens, tokens, seconds))
        return out

    # --- how it stands ------------------------------------------------------------------------------------------------

    def warm(self) -> None:
        """Learn the model's width if nothing tells it. Raises what went wrong."""
        self._known_identity()

    def state(self) -> ModelState:
        """`ready` once its width is known; it holds nothing here."""
        with self._lock:
            state, users, used_at_s = self._state, self._users, self._used_at_s
        age_s = None if used_at_s is None else 0.0 if users else max(self._clock.monotonic() - used_at_s, 0.0)
        return replace(state, users=users, last_used_s=age_s)

    def unload(self) -> int:
        """Close the connections unless a call is using them. There are no bytes to give up: always 0."""
        with self._lock:
            if self._users:
                return 0
            closed = self._transport.close()
            self._state = self._standing("absent")
        if closed:
            self._publisher.publish(ModelUnloaded(self.model_name, 0))
        return 0

    # --- Consumer, as the models are that are held here ---------------------------------------------------------------

    @property
    def name(self) -> str:
        return f"model {self.model_name}"

    def used_bytes(self) -> int:
        """Nothing: weights are at the endpoint, and what requests under way take is reserved."""
        return 0

    def release(self, wanted_bytes: int) -> int:  # noqa: ARG002 - there is nothing to give
        return 0

    def rebuild_cost(self) -> float:
        return 0.0

    # --- its identity -------------------------------------------------------------------------------------------------

    def _known_identity(self) -> Fingerprint:
        """Its fingerprint; asked for by this thread, or awaited where another is at it."""
        with self._lock:
            if self._identity is not None:
                if self._state.status != "ready":
                    self._state = self._standing("ready")
                return self._identity
            flight, leads = self._flight, self._flight is None
            if flight is None:
                flight = self._flight = Future()
        if leads:
            self._learn(flight)
        return flight.result()

    def _learn(self, flight: Future[Fingerprint]) -> None:
        """Embed one word and settle `flight`. What went wrong is raised from there, also in this thread."""
        started_s = time.perf_counter()
        self._state = self._standing("loading", step="asking the endpoint")
        self._publisher.publish(ModelLoadStarted(self.model_name))
        try:
            deadline_s = self._clock.monotonic() + self._settings.deadline_s
            with self._using(), self._budget.reserve("remote model", reading_bytes(1, MOST_DIMENSIONS), wait_s=_WAIT_S):
                answer = self._ask([self._settings.passage_prefix + _PROBE], [0], None, deadline_s, threading.Event())
            identity = self._fingerprint_of(answer.vectors.shape[1])
        except BaseException as error:
            with self._lock:
                self._flight = None
                self._state = self._standing("failed", error=str(error))
            self._publisher.publish(ModelLoadFailed(self.model_name, str(error)))
            if isinstance(error, Exception):
                flight.set_exception(error)
                return
            # Ctrl-C is this thread's alone.
            flight.set_exception(EmbeddingFailed(f"asking for {self.model_name!r} was interrupted"))
            raise
        with self._lock:
            self._identity = identity
            self._flight = None
            self._state = self._standing("ready")
        self._publisher.publish(ModelLoaded(self.model_name, str(identity), time.perf_counter() - started_s, 0))
        flight.set_result(identity)

    def _fingerprint_of(self, dimension: int) -> Fingerprint:
        return Fingerprint(
            name=self._name,
            weights=f"remote:{self._endpoint.identity}",
            tokenizer="remote",
            pooling="remote",
            normalized=True,
            dimension=dimension,
            engine="remote",
            precision="remote",
            query_prefix=self._settings.query_prefix,
            passage_prefix=self._settings.passage_prefix,
        )

    def _standing(
        self, status: Literal["absent", "loading", "ready", "failed"], *, step: str = "", error: str = ""
    ) -> ModelState:
        return ModelState(
            self.model_name,
            self.precision,
            status,
            fraction=float(status == "ready"),
            step=step,
            error=error,
            engine="remote",
            device="remote",
        )

    @contextmanager
    def _using(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                self._used_at_s = self._clock.monotonic()

    # --- requests -----------------------------------------------------------------------------------------------------

    def _fill(self, call: _Call, places: list[int]) -> int:
        """Vectors of the texts at these places, several requests at a time; tokens, where the endpoint counts them."""
        batches = list(self._batches(call, places))
        threads = min(self._settings.concurrency, len(batches))
        if threads == 1:
            return sum(self._send(call, batch) for batch in batches)
        with ThreadPoolExecutor(threads, thread_name_prefix="embank-remote") as pool:
            under_way = [pool.submit(self._send, call, batch) for batch in batches]
            try:
                return sum(done.result() for done in as_completed(under_way))
            except BaseException:
                call.stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _batches(self, call: _Call, places: list[int], *, most_bytes: int | None = None) -> Iterator[list[int]]:
        """Consecutive places of bounded count and text, and with `most_bytes` of bounded working memory, too.

        A batch has at least one text, however long.
        """
        batch: list[int] = []
        text_bytes = 0
        for place, size in zip(places, call.sizes(places), strict=True):
            is_full = (
                len(batch) == self._settings.batch_texts
                or text_bytes + size > self._batch_bytes
                or (
                    most_bytes is not None and self._working_bytes(call, len(batch) + 1, text_bytes + size) > most_bytes
                )
            )
            if batch and is_full:
                yield batch
                batch, text_bytes = [], 0
            batch.append(place)
            text_bytes += size
        if batch:
            yield batch

    def _send(self, call: _Call, batch: list[int]) -> int:
        """Fill the batch's rows of the answer, in as many requests as the bytes granted make it; its tokens."""
        sizes = call.sizes(batch)
        wanted_bytes = self._working_bytes(call, len(batch), sum(sizes))
        least_bytes = self._working_bytes(call, 1, max(sizes))
        wait_s = min(_WAIT_S, max(call.deadline_s - self._clock.monotonic(), 0.0))
        tokens = 0
        with self._budget.reserve("remote request", wanted_bytes, least_bytes=least_bytes, wait_s=wait_s) as grant:
            for part in self._batches(call, batch, most_bytes=grant.granted_bytes):
                texts = [call.prefix + call.texts[place] for place in part]
                answer = self._ask(texts, part, call.out.shape[1], call.deadline_s, call.stopped)
                call.out[part] = answer.vectors
                tokens += answer.tokens
        return tokens

    def _working_bytes(self, call: _Call, rows: int, text_bytes: int) -> int:
        return text_bytes * _BODY_BYTES_A_BYTE + reading_bytes(rows, call.out.shape[1])

    def _ask(
        self,
        texts: list[str],
        numbers: Sequence[int],
        dimension: int | None,
        deadline_s: float,
        stopped: threading.Event,
    ) -> RemoteAnswer:
        """One request. `numbers` are the texts' places in the call, for messages."""
        asked: dict[str, object] = {"model": self._name, "input": texts, "encoding_format": "base64"}
        if self._asked_dimension is not None:
            asked["dimensions"] = self._asked_dimension
        request = Request(
            body=json.dumps(asked, ensure_ascii=False).encode(),
            texts=len(texts),
            limit_bytes=answer_bytes(len(texts), dimension or MOST_DIMENSIONS),
            deadline_s=deadline_s,
            stopped=stopped,
            read=partial(
                read_answer,
                place=self._endpoint.place,
                numbers=numbers,
                dimension=dimension,
                normalize=self._settings.normalize,
            ),
        )
        try:
            return self._transport.post(request)
        except RemoteFailed as error:
            if error.fields.get("outcome") == "wrong_width" and self._asked_dimension is not None:
                raise RemoteFailed(
                    f"{error}: the endpoint can't cut its vectors to {self._asked_dimension} dimensions: leave "
                    f"remote.dimensions and embed.dimensions empty, or set them to its own width",
                    **error.fields,
                ) from error
            raise
