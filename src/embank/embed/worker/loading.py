"""What a worker says while it loads its model, and what it may ask for meanwhile: the parent's side.

Progress, events and log lines are passed on; bytes that the load reserves are reserved with the parent's own budget,
so that a model in another process has to fit like one in this one.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from embank.embed.worker.handoff import Identity, heard, heard_error, is_out_of_memory, told_error
from embank.embed.worker.wire import Frame, Garbled, Kind
from embank.system.log import get_logger

if TYPE_CHECKING:
    from embank.embed.engine import Grant, LoadRequest
    from embank.embed.worker.channel import Channel
    from embank.system.clock import Clock


class Loading:
    """One load. `advanced_at_s` is when it last got further. Used by the one thread that keeps the worker.

    Only a first load tells how far it is: later ones happen under a model that counts as ready.
    """

    def __init__(self, request: LoadRequest, *, first: bool, clock: Clock) -> None:
        self._request = request
        self._first = first
        self._clock = clock
        self._granted: dict[int, AbstractContextManager[Grant]] = {}
        self.advanced_at_s = clock.monotonic()

    def hear(self, channel: Channel, frame: Frame) -> Identity | None:
        """Act on what the worker says; its identity once it is ready.

        Raises what the load raised, `Garbled` for a frame that a worker does not send.
        """
        body = frame.body
        self.advanced_at_s = self._clock.monotonic()
        match frame.kind:
            case Kind.PROGRESS:
                if self._first:
                    self._request.on_progress(float(body["fraction"]), str(body["step"]))
            case Kind.EVENT:
                self._request.publisher.publish(heard(body["event"]))
            case Kind.LOG:
                level = min(int(body["level"]), logging.CRITICAL)
                get_logger(str(body["name"])).log(level, "in the worker: %s", body["message"])
            case Kind.RESERVE:
                self._reserve(channel, frame)
            case Kind.RELEASE:
                self._release(frame.id)
            case Kind.READY:
                identity = heard(body["identity"])
                if not isinstance(identity, Identity):
                    raise Garbled("a worker's identity is none")
                self.close()
                return identity
            case Kind.ERROR:
                error = heard_error(body["error"])
                raise MemoryError(str(error)) if is_out_of_memory(body["error"]) else error
            case _:
                raise Garbled(f"a worker never sends {frame.kind.name}")
        return None

    def close(self) -> None:
        """Give back what the load had reserved."""
        for number in list(self._granted):
            self._release(number)

    def _reserve(self, channel: Channel, frame: Frame) -> None:
        body = frame.body
        try:
            context = self._request.budget.reserve(
                str(body["what"]), int(body["wanted"]), least_bytes=body["least"], wait_s=float(body["wait_s"])
            )
            grant = context.__enter__()
        except Exception as error:  # noqa: BLE001 — whatever the budget raises is the load's to raise
            channel.send(Kind.GRANT, frame.id, body={"error": told_error(error)})
            return
        finally:
            self.advanced_at_s = self._clock.monotonic()  # to wait for bytes is not to hang
        self._granted[frame.id] = context
        channel.send(Kind.GRANT, frame.id, body={"granted": grant.granted_bytes})

    def _release(self, number: int) -> None:
        context = self._granted.pop(number, None)
        if context is not None:
            context.__exit__(None, None, None)
