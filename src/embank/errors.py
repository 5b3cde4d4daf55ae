"""The one error tree.

Every error that Embank raises on purpose is an `EmbankError`; each branch belongs to a room and also inherits the
builtin that a caller would naturally catch. An error carries the facts it names as attributes. Faces translate errors
once: `embank.cli` into exit codes, the service into HTTP statuses.

    EmbankError
    ├── InvalidInput (ValueError)            a caller's value can't be used: what, which value, what to do
    ├── ConfigError (ValueError)             a setting's key or value is wrong
    ├── MissingExtra (ImportError)           an optional dependency is not installed; names the extra
    ├── MemoryBudgetError
    │   ├── BudgetExceeded (MemoryError)     the work can't fit: wanted, available, which setting to change
    │   └── BudgetBelowFloor (ValueError)    a budget that can't work, and the least that would
    ├── SourceError (ValueError)             a source as a whole can't be read
    ├── ModelError
    │   ├── ModelNotFound (LookupError)      no such model, or its weights are not on this machine
    │   ├── ModelFileError (ValueError)      weights, tokenizer or configuration damaged or of another architecture
    │   ├── DeviceNotFound (LookupError)     the device asked for is not on this machine
    │   ├── ModelInUse (BlockingIOError)     a process has the model open, so that its files stay
    │   ├── HubError (ConnectionError)       the models' hub can't be reached, refuses or breaks off
    │   │   └── OfflineMode                  nothing may be downloaded: embed.offline, or the hub client's own switch
    │   └── EmbeddingFailed (RuntimeError)   the model answered wrongly (count, width, NaN) or not at all
    │       └── RemoteFailed                 an endpoint refused, broke off, was late or answered wrongly
    ├── ServiceError                         a server answered with an error: status, code, request_id
    │   └── ServiceUnreachable (ConnectionError) a server gave no answer
    └── StoreError
        ├── BankNotFound (FileNotFoundError) there is no bank at that path
        ├── BankLocked (BlockingIOError)     another process writes this bank
        │   └── BankServed                   a server writes it: what it can't be asked for wants it stopped
        ├── BankReadOnly (PermissionError)   this handle was opened for reading
        ├── BankDamaged (ValueError)         the files contradict each other
        ├── FormatTooNew (ValueError)        written by a newer Embank
        ├── StorageFull (OSError)            the disk has no room; nothing of the batch was kept
        ├── IndexUnavailable (ConnectionError) the library or server that keeps an index fails; vectors are scanned
        ├── StorageFailed (OSError)          the disk can't be read, written or synchronised
        ├── CollectionNotFound (LookupError)
        ├── DocumentNotFound (LookupError)
        ├── FingerprintMismatch (ValueError) vectors of another model
        ├── MetricMismatch (ValueError)      a collection compares vectors by another metric
        └── ProtectedCollectionError (PermissionError)
"""

from __future__ import annotations

import re
from typing import Any


class EmbankError(Exception):
    """Base of every error raised on purpose. `fields` holds the facts that the message names."""

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields: dict[str, Any] = fields

    def __str__(self) -> str:
        return self.message

    @classmethod
    def code(cls) -> str:
        """The class's name in snake case, by which services tell it."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


class InvalidInput(EmbankError, ValueError):
    """A value given by the caller can't be used."""


class ConfigError(EmbankError, ValueError):
    """A setting's key or value is wrong; the message names it and suggests the nearest right one."""


class MissingExtra(EmbankError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed: pip install 'embank[{extra}]'",
            package=package,
            extra=extra,
        )


class MemoryBudgetError(EmbankError):
    """Base of errors of the memory governor."""


class BudgetExceeded(MemoryBudgetError, MemoryError):
    """The work can't fit into the memory budget, whatever is released."""

    def __init__(self, what: str, *, wanted_bytes: int, available_bytes: int, budget_bytes: int) -> None:
        super().__init__(
            f"{what} needs {_megabytes(wanted_bytes)}, but {_megabytes(max(available_bytes, 0))} of the "
            f"{_megabytes(budget_bytes)} budget are left: raise memory.budget (EMBANK_MEMORY__BUDGET) or make the "
            f"work smaller",
            what=what,
            wanted_bytes=wanted_bytes,
            available_bytes=available_bytes,
            budget_bytes=budget_bytes,
        )


class BudgetBelowFloor(MemoryBudgetError, ValueError):
    """A memory budget that is no more than what nobody can release; field `least_bytes` is one that would work."""


class SourceError(EmbankError, ValueError):
    """A source as a whole can't be read (a missing folder, a file that is no JSONL)."""


class ModelError(EmbankError):
    """Base of errors of the embedding engine."""


class ModelNotFound(ModelError, LookupError):
    """No such model, or its weights are not on this machine."""


class ModelFileError(ModelError, ValueError):
    """A file of the model is missing, damaged, altered or of another architecture."""


class DeviceNotFound(ModelError, LookupError):
    """The device asked for is not on this machine, or not one that the engine can compute on."""


class ModelInUse(ModelError, BlockingIOError):
    """A process, this one or another, has the model open or is making it: its files can't be removed now."""


class HubError(ModelError, ConnectionError):
    """The models' hub can't be reached, refuses what was asked for, or breaks off."""


class OfflineMode(HubError):
    """Nothing may be downloaded, as the settings say."""


class EmbeddingFailed(ModelError, RuntimeError):
    """The model raised, or answered with the wrong count, the wrong width or values that are not finite."""


class RemoteFailed(EmbeddingFailed):
    """An embeddings endpoint refused, could not be reached in time or answered wrongly; `fields` has its outcome."""


class ServiceError(EmbankError):
    """A server answered with an error; `fields` has `status`, `code`, `param`, `request_id` and the `facts` it told."""


class ServiceUnreachable(ServiceError, ConnectionError):
    """A server gave no answer, however often it was asked."""


class StoreError(EmbankError):
    """Base of errors of the store."""


class BankNotFound(StoreError, FileNotFoundError):
    """There is no bank at that path."""


class BankLocked(StoreError, BlockingIOError):
    """Another process holds the bank for writing; `fields` has its pid and endpoint when known."""


class BankServed(BankLocked):
    """A running server holds the bank, and what is wanted can't be done through it; `fields` has pid and endpoint."""


class BankReadOnly(StoreError, PermissionError):
    """This handle was opened for reading only."""


class BankDamaged(StoreError, ValueError):
    """The bank's files contradict each other; the message says which and what to do."""


class FormatTooNew(StoreError, ValueError):
    """The bank was written by a newer Embank."""


class StorageFull(StoreError, OSError):
    """The disk has no room. Nothing of the batch was kept; what was acknowledged before is safe."""


class IndexUnavailable(StoreError, ConnectionError):
    """The library or server that keeps a vector index failed or can't be reached. Searches scan the vectors instead."""


class StorageFailed(StoreError, OSError):
    """The disk can't be read, written or synchronised. What was acknowledged before is safe as far as the disk is."""


class CollectionNotFound(StoreError, LookupError):
    """The bank has no collection of that name."""


class DocumentNotFound(StoreError, LookupError):
    """The collection has no document of that id."""


class FingerprintMismatch(StoreError, ValueError):
    """The vectors offered and those stored come from different models."""


class MetricMismatch(StoreError, ValueError):
    """A collection compares its vectors by another metric than the one asked for."""


class ProtectedCollectionError(StoreError, PermissionError):
    """A protected collection refuses purge, drop, delete and any change of an existing document."""


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
