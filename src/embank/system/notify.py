"""Word to the service manager that started this process: ready, status, stopping, still alive (sd_notify(3)).

Covers the protocol alone: lines sent as one datagram to the Unix socket that `NOTIFY_SOCKET` names, a path or, behind
`@`, an abstract name. The variables are handed in. Without them nothing is sent, so that no caller needs to ask.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from embank.system.log import get_logger

_log = get_logger(__name__)


class ServiceManager:
    """Thread-safe; `tell` never waits and never raises, and may be called in a signal handler.

    `alive_every_s` is how often the manager wants to hear `WATCHDOG=1`, halved as it advises; None where it does not.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        given = os.environ if environ is None else environ
        self._address = _address(given.get("NOTIFY_SOCKET", ""))
        self.alive_every_s = _alive_every_s(given) if self._address else None
        self._failed = False

    @property
    def listens(self) -> bool:
        """Whether there is one."""
        return self._address is not None

    def tell(self, *lines: str) -> bool:
        """Send lines such as `READY=1`; whether they were taken. The first failure is logged."""
        if self._address is None:
            return False
        text = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
                sending.setblocking(False)
                sending.sendto(text.encode(), self._address)
        except OSError as error:
            if not self._failed:
                self._failed = True
                _log.warning("the service manager can't be told how it goes: %s", error)
            return False
        return True


def _address(given: str) -> str | None:
    if given.startswith("@"):
        return f"\0{given[1:]}"
    if given and not given.startswith("/"):
        _log.warning("the service manager can't be told how it goes: NOTIFY_SOCKET=%s is no Unix socket", given)
        return None
    return given or None


def _alive_every_s(environ: Mapping[str, str]) -> float | None:
    """Half of the time-out, if it is meant for this process and not for one that passed its environment on."""
    try:
        usec, pid = int(environ.get("WATCHDOG_USEC", "0")), int(environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        _log.warning("WATCHDOG_USEC and WATCHDOG_PID are no numbers: the service manager gets no sign of life")
        return None
    return usec / 2e6 if usec > 0 and pid == os.getpid() else None
