"""The one logging set-up.

Covers loggers under the name `embank`, the console and file handlers of Embank's own processes, and the two formats.
Does not touch the root logger, a handler that it did not add, or the process's warnings. As a library Embank is silent
until the application configures logging: the only handler that importing adds is a `NullHandler` on `embank`.

What may be logged: names, identities, counts, bytes, seconds, error messages. Never the text of a document or a query
and never a secret (keys, tokens, passwords), unless the user asked for exactly that by a setting.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO

from embank.errors import ConfigError

if TYPE_CHECKING:
    from embank.system.log_settings import Settings

TEXT_FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"

_ROOT = "embank"
_HANDLER_NAMES = frozenset({"embank.console", "embank.file"})
_RECORD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

logging.getLogger(_ROOT).addHandler(logging.NullHandler())


def get_logger(name: str) -> logging.Logger:
    """The logger called `name`, placed under `embank`, where the set-up's handlers are.

    `get_logger(__name__)` inside Embank gives that module's; a name from elsewhere, `"app.jobs"`, gives
    `embank.app.jobs`. Thread-safe; never configures anything.
    """
    if name == _ROOT or name.startswith(f"{_ROOT}."):
        return logging.getLogger(name)
    return logging.getLogger(f"{_ROOT}.{name}" if name else _ROOT)


def configure(settings: Settings, *, stream: TextIO | None = None) -> None:
    """Send Embank's logs where `settings` says; `stream` stands in for standard error.

    A second call replaces the handlers of the first. A file that can't be opened is a `ConfigError`, and then nothing
    has changed. Meant for the start of a process; not to be called by two threads at once.
    """
    handlers = _handlers(settings, stream)
    unconfigure()
    logger = logging.getLogger(_ROOT)
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(settings.level.upper())


def unconfigure() -> None:
    """Remove and close the handlers that `configure` added, and no other; the level is inherited again."""
    logger = logging.getLogger(_ROOT)
    for handler in [handler for handler in logger.handlers if handler.name in _HANDLER_NAMES]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.NOTSET)


class JsonLines(logging.Formatter):
    """One JSON object a line: time (ISO-8601, UTC), name, level, message; exception, stack and extra where there are.

    Values that JSON does not know are written as their `repr`, and numbers that are not finite as strings, so that
    every line is valid JSON.
    """

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "name": record.name,
            "level": record.levelname,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            entry["exception"] = record.exc_text
        if record.stack_info:
            entry["stack"] = self.formatStack(record.stack_info)
        extra = {key: _plain(value) for key, value in record.__dict__.items() if key not in _RECORD_FIELDS}
        if extra:
            entry["extra"] = extra
        return json.dumps(entry, ensure_ascii=False, allow_nan=False)


def _handlers(settings: Settings, stream: TextIO | None) -> list[logging.Handler]:
    handlers: list[logging.Handler] = []
    if settings.file is not None:
        from logging.handlers import WatchedFileHandler  # brings socket, pickle and queue along

        path = settings.file.expanduser()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Watched: reopens after another program has moved the file away to rotate it.
            handlers.append(WatchedFileHandler(path, encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            raise ConfigError(
                f"log.file: {str(path)!r} can't be written: {error.strerror or error}",
                key="log.file",
                value=str(path),
            ) from error
        handlers[-1].set_name("embank.file")
    if settings.console:
        handlers.append(logging.StreamHandler(stream if stream is not None else sys.stderr))
        handlers[-1].set_name("embank.console")
    for handler in handlers:
        handler.setFormatter(_formatter(settings.format))
    return handlers


def _formatter(kind: Literal["text", "json"]) -> logging.Formatter:
    return JsonLines() if kind == "json" else logging.Formatter(TEXT_FORMAT)


def _plain(value: Any, depth: int = 0) -> Any:
    """`value` as JSON knows it. Depth is bounded, which also ends a container that holds itself."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if depth < 8:
        if isinstance(value, Mapping):
            return {str(key): _plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [_plain(item, depth + 1) for item in value]
    return repr(value)
