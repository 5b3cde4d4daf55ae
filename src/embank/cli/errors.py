"""Which error ends in which exit code, and how an error is told: the one place for both.

People get one message on standard error. Programs (`--json`) get one JSON document on standard output, as they do for
a result: `{"error": {"kind", "message", "exit_code", …fields}}`; the exit code says which of the two it is.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from embank.errors import (
    BankDamaged,
    BankLocked,
    BankNotFound,
    BankReadOnly,
    CollectionNotFound,
    ConfigError,
    DocumentNotFound,
    EmbankError,
    FingerprintMismatch,
    FormatTooNew,
    InvalidInput,
    MemoryBudgetError,
    MetricMismatch,
    MissingExtra,
    ModelError,
    ModelInUse,
    ModelNotFound,
    ProtectedCollectionError,
    ServiceError,
    SourceError,
    StorageFailed,
    StorageFull,
)

OK = 0
UNEXPECTED = 1
USAGE = 2
NOT_FOUND = 3
REFUSED = 4
MEMORY = 5
STORAGE = 6
MODEL = 7
INTERRUPTED = 130
READER_GONE = 141

MEANINGS: Mapping[int, str] = {
    OK: "done",
    UNEXPECTED: "unexpected: a bug, or a demo that fell short",
    USAGE: "wrong usage, input or setting",
    NOT_FOUND: "not found: bank, collection, document or model",
    REFUSED: "bank locked by another process, read-only or protected; model in use; refused by a server",
    MEMORY: "does not fit into the memory budget",
    STORAGE: "storage full, damaged, unreadable or of a newer format",
    MODEL: "the model failed or its files are damaged",
    INTERRUPTED: "interrupted (Ctrl-C)",
    READER_GONE: "whoever read the output went away",
}

# The first class that fits decides, so a branch stands after its leaves.
_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (ModelNotFound, NOT_FOUND),
    (ModelInUse, REFUSED),
    (ModelError, MODEL),
    (BankNotFound, NOT_FOUND),
    (CollectionNotFound, NOT_FOUND),
    (DocumentNotFound, NOT_FOUND),
    (BankLocked, REFUSED),
    (BankReadOnly, REFUSED),
    (ProtectedCollectionError, REFUSED),
    (BankDamaged, STORAGE),
    (FormatTooNew, STORAGE),
    (StorageFull, STORAGE),
    (StorageFailed, STORAGE),
    (FingerprintMismatch, USAGE),
    (MetricMismatch, USAGE),
    (InvalidInput, USAGE),
    (ConfigError, USAGE),
    (SourceError, USAGE),
    (MissingExtra, USAGE),
    (MemoryBudgetError, MEMORY),
    (ServiceError, REFUSED),
    (EmbankError, UNEXPECTED),
    (KeyboardInterrupt, INTERRUPTED),
    (BrokenPipeError, READER_GONE),
    (MemoryError, MEMORY),
    # A folder that may not be written, a disk that fails: the system's own words say it best.
    (OSError, STORAGE),
)


def exit_code(error: BaseException) -> int:
    """The exit code that an error ends in."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), UNEXPECTED)


def tell(error: BaseException, *, as_json: bool) -> int:
    """Tell the user of an error; return its exit code. What nobody foresaw comes with its traceback."""
    code = exit_code(error)
    if code == UNEXPECTED and not isinstance(error, EmbankError):
        import traceback

        traceback.print_exception(error)
        tell_failure(type(error).__name__, f"unexpected: {error}", code=code, as_json=as_json)
    elif isinstance(error, EmbankError):
        tell_failure(type(error).__name__, error.message, code=code, as_json=as_json, fields=error.fields)
    else:
        tell_failure(type(error).__name__, _words(error), code=code, as_json=as_json)
    return code


def tell_failure(kind: str, message: str, *, code: int, as_json: bool, fields: Mapping[str, Any] | None = None) -> None:
    """Write one failure: a line for people on standard error, or a JSON document on standard output."""
    from embank.cli.output import plain, write_json

    if as_json:
        # The fields first, so that none of them can take the place of what every error has.
        write_json({"error": {**(fields or {}), "kind": kind, "message": message, "exit_code": code}})
    else:
        sys.stderr.write(f"embank: {plain(message, lines=True)}\n")


def exit_code_lines() -> list[str]:
    """The table of exit codes, for help and documentation."""
    return [f"{code} {meaning}" for code, meaning in MEANINGS.items()]


def _words(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error) or type(error).__name__
