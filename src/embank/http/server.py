"""Serving a bank until it is told to stop: the socket, the signals, and an end that finishes what was begun."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from embank.bank import Bank
from embank.errors import EmbankError, InvalidInput, MissingExtra
from embank.events.kinds import ServiceStarted
from embank.http.settings import Settings
from embank.system.log import get_logger
from embank.system.notify import ServiceManager

try:
    import fastapi  # noqa: F401 -- whether it is there
    import httptools  # noqa: F401
    from uvicorn import Config, Server
except ImportError as error:
    raise MissingExtra(error.name or "uvicorn", "serve") from error

from embank.http.app import make_app
from embank.http.heartbeat import Heartbeat
from embank.http.protocol import bounded
from embank.http.security import book_of, check_place

_log = get_logger(__name__)

Ready = Callable[[str], None]
"""Called with the address once requests are taken."""


class BankServer(Server):
    """One server of one open bank, which stays its caller's to close. `run` returns when it was told to stop.

    SIGTERM and SIGINT stop it: no new work is taken, what is under way gets `http.drain_s`, and a second signal ends
    that, too. In a thread other than the main one, `stop` does the same. The socket is bound when it is made, so that
    an address that is taken is told at once.
    """

    def __init__(self, bank: Bank, *, on_ready: Ready | None = None) -> None:
        settings: Settings = bank.config.section("http")
        check_place(settings, book_of(bank.path, settings))
        self._bank = bank
        self._certificate = settings.tls_cert
        self._on_ready = on_ready
        self._manager = ServiceManager()
        self._beating: asyncio.Task[None] | None = None
        self._socket = _bound(settings)
        self.endpoint = _endpoint(settings, self._socket)
        try:
            app = make_app(bank)
        except EmbankError:
            self._socket.close()
            raise
        self.service = app.service
        super().__init__(
            Config(
                app,
                http=bounded(settings),
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=True,
                proxy_headers=False,
                timeout_keep_alive=settings.keep_alive_s,
                timeout_graceful_shutdown=settings.drain_s,
                ssl_certfile=None if settings.tls_cert is None else str(settings.tls_cert),
                ssl_keyfile=None if settings.tls_key is None else str(settings.tls_key),
            )
        )

    def serve_until_stopped(self) -> None:
        """Serve. The bank names the address meanwhile, so that commands find it."""
        self.run(sockets=[self._socket])

    def stop(self) -> None:
        """Begin to end, as SIGTERM does. From any thread."""
        lock = self._bank.engine.store.lock
        if lock is not None:
            lock.withdraw()
        self.service.drain()
        self._manager.tell("STOPPING=1", "STATUS=finishing what is under way")
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            lock = self._bank.engine.store.lock
            if lock is not None:
                lock.announce(self.endpoint, secret=self.service.secret, certificate=self._certificate)
            self.service.stream.publish(ServiceStarted(endpoint=self.endpoint, keys=self.service.guard.keys))
            if self._on_ready is not None:
                self._on_ready(self.endpoint)
            self._beating = asyncio.create_task(Heartbeat(self.service, self._manager, self.endpoint).run())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self._beating is not None:
            self._beating.cancel()
            with suppress(asyncio.CancelledError):
                await self._beating

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals stop the server, and nothing else: the bank is still to be closed when it has ended."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 -- a signal handler's form
        if self.should_exit:
            self.force_exit = True
        _log.warning("signal %d: no new work is taken, what is under way is finished", sig)
        self.stop()


def _bound(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Named, since asyncio turns off Nagle's algorithm only where it reads TCP: else each answer took 40 ms longer.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((settings.host, settings.port))
    except OSError as error:
        made.close()
        raise InvalidInput(
            f"can't listen on {settings.host}:{settings.port}: {error.strerror or error}; choose another http.host or "
            f"http.port",
            host=settings.host,
            port=settings.port,
        ) from error
    return made


def _endpoint(settings: Settings, listening: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'http' if settings.tls_cert is None else 'https'}://{host}:{listening.getsockname()[1]}"
