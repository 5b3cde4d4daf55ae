"""API keys: a file of the bank that holds their hashes, never the keys; read anew when it changed.

A key is `emb_ID_SECRET`. The secret has 256 random bits, so one round of SHA-256 hides it: there is nothing to guess
that a slow hash would protect. The id names the entry, and only the hash is compared, in constant time. What was
revoked stays in the file with its time. The file is replaced as a whole, so a reader never sees half of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embank.client.schemas import Scope
from embank.errors import BankDamaged, InvalidInput
from embank.system.files import Files

FILE = "keys.json"

_SCOPES: tuple[Scope, ...] = ("read", "write", "admin")
_TOKEN = re.compile(r"emb_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NOBODY = hashlib.sha256(secrets.token_bytes(32)).hexdigest()
MOST_KEYS = 1_000


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret. A scope includes those before it: read, write, admin."""

    id: str
    name: str
    scope: Scope
    sha256: str
    created: float
    revoked: float | None = None

    def allows(self, scope: Scope) -> bool:
        return _SCOPES.index(self.scope) >= _SCOPES.index(scope)


class KeyBook:
    """The keys of a bank. Thread-safe; several processes may use the same file.

    `admin_key` is one more, which is in no file and can't be revoked: the settings', for servers set up by a program.
    """

    def __init__(self, bank: Path, *, admin_key: str | None = None, files: Files | None = None) -> None:
        self._path = bank / FILE
        self._given = () if admin_key is None else (Key("settings", "http.admin_key", "admin", _hash(admin_key), 0.0),)
        self._files = files or Files()
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] | None = None
        self._keys: dict[str, Key] = {}

    def keys(self) -> list[Key]:
        """All that were ever made, in that order, those revoked included."""
        self._refresh()
        return list(self._keys.values())

    def in_force(self) -> list[Key]:
        """Those that open something."""
        return [*self._given, *(key for key in self.keys() if key.revoked is None)]

    def add(self, name: str, scope: Scope, *, now: float) -> tuple[Key, str]:
        """Make a key; it, and the text to give to whoever shall have it, which is told this one time."""
        if not name.strip() or len(name) > 100 or not name.isprintable():
            raise InvalidInput(f"{name!r} can't name a key: use 1 to 100 printable characters", name=name)
        if scope not in _SCOPES:
            raise InvalidInput(f"{scope!r} is no scope: there are {', '.join(_SCOPES)}", scope=scope)
        secret = secrets.token_urlsafe(32)
        key = Key(secrets.token_hex(6), name, scope, _hash(secret), now)
        with self._changing() as keys:
            if len(keys) >= MOST_KEYS:
                raise InvalidInput(f"there are {len(keys)} keys already, the most that are kept")
            keys[key.id] = key
        return key, f"emb_{key.id}_{secret}"

    def revoke(self, id_: str, *, now: float) -> Key:
        """Take a key out of force, at once for every server of the bank; it, as it is then."""
        with self._changing() as keys:
            key = keys.get(id_)
            if key is None:
                raise InvalidInput(f"there is no key {id_!r}: `embank keys list` tells their ids", id=id_)
            if key.revoked is None:
                keys[id_] = key = Key(key.id, key.name, key.scope, key.sha256, key.created, now)
        return key

    def find(self, token: str) -> Key | None:
        """The key that a caller showed, if it is in force."""
        self._refresh()
        for given in self._given:
            if hmac.compare_digest(_hash(token), given.sha256):
                return given
        parts = _TOKEN.fullmatch(token)
        key = self._keys.get(parts[1]) if parts else None
        # Compared even where there is no such key, so that the time taken does not tell which ids exist.
        same = hmac.compare_digest(_hash(parts[2] if parts else token), _NOBODY if key is None else key.sha256)
        return key if same and key is not None and key.revoked is None else None

    def _refresh(self) -> None:
        seen = self._stamp()
        if seen == self._seen:
            return
        with self._lock:
            self._keys = self._read()
            self._seen = seen

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def _read(self) -> dict[str, Key]:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            listed = [_key(each) for each in json.loads(content)["keys"]]
        except (ValueError, KeyError, TypeError) as error:
            raise BankDamaged(
                f"{self._path} is damaged ({error}): put back a copy of it, or remove it and make new keys",
                path=str(self._path),
            ) from error
        return {key.id: key for key in listed}

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Key]]:
        """The keys as they are in the file, written back at the end; other processes wait."""
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            keys = self._read()
            yield keys
            content = json.dumps({"keys": [asdict(key) for key in keys.values()]}, indent=1) + "\n"
            self._files.replace(self._path, content.encode())
        finally:
            os.close(folder)
        self._refresh()


def _key(fields: Any) -> Key:
    key = Key(**fields)
    if key.scope not in _SCOPES or not re.fullmatch(r"[0-9a-f]{64}", key.sha256):
        raise ValueError(f"the entry {key.id!r}")
    return key


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def changes(before: Sequence[Key], after: Sequence[Key]) -> tuple[list[Key], list[Key]]:
    """Which keys came into force and which went out of it."""
    old, new = {key.id: key for key in before}, {key.id: key for key in after}
    return [new[each] for each in new if each not in old], [old[each] for each in old if each not in new]
