"""A disk of which only what was synchronised is certain, made from a shim's journal.

A file has the content of its last synchronisation, and the writes since; a folder has the entries of its last one, and
the changes since: a new file whose folder was not synchronised may be gone. After a power cut there may be any of the
writes and changes since: none, the first few, or some here and there, a write also in part.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from tests.crash import shim

_SECTOR = 512

Change = TypeVar("Change")
Fate = Literal["none", "first", "some", "all"]
"""What of the changes that were not synchronised is there after the cut."""


@dataclass(eq=False)
class File:
    """`durable` is certain; `pending` are (offset, data) of writes, and (size, None) of cuts, since."""

    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        self.durable, self.pending = _applied(self.durable, self.pending), []

    def content(self, rng: random.Random, fate: Fate) -> bytes:
        chosen = []
        for offset, data in _chosen(self.pending, rng, fate):
            torn = fate == "some" and data is not None and len(data) > _SECTOR and rng.random() < 0.2
            kept = data[: rng.randrange(0, len(data), _SECTOR)] if torn and data is not None else data
            chosen.append((offset, kept))
        return _applied(self.durable, chosen)


@dataclass(eq=False)
class Folder:
    """`durable` and `now` are its entries; `pending` are (name, what it becomes) since it was synchronised."""

    durable: dict[str, File | Folder] = field(default_factory=dict)
    now: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[list[tuple[str, File | Folder | None]]] = field(default_factory=list)

    def change(self, *entries: tuple[str, File | Folder | None]) -> None:
        """One change that is there as a whole or not."""
        _enter(self.now, entries)
        self.pending.append(list(entries))

    def sync(self) -> None:
        self.durable, self.pending = dict(self.now), []

    def entries(self, rng: random.Random, fate: Fate) -> dict[str, File | Folder]:
        there = dict(self.durable)
        for entries in _chosen(self.pending, rng, fate):
            _enter(there, entries)
        return there


class Disk:
    """What is below a folder: all that is there at first is durable."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._nodes: dict[int, File | Folder] = {}
        self._top = self._loaded(root)

    def read(self, journal: Path) -> str | None:
        """Take in the journal of one process; at what that was killed, if it says so."""
        killed = None
        for each in shim.records(journal):
            if each.kind == shim.KILLED:
                killed = each.told()
            else:
                self._take(each.kind, each.inode, each.offset, each.path, each.data)
        return killed

    def is_as(self, root: Path) -> str | None:
        """`None` if nothing was missed: all changes together make what is there now; else what differs."""
        return _differs(self._top, root, random.Random(0))

    def cut(self, target: Path, rng: random.Random, fate: Fate) -> None:
        """Write what is there after a power cut to `target`, a folder that does not exist."""
        _write(self._top, target, rng, fate)

    def _take(self, kind: int, inode: int, offset: int, path: str, data: bytes) -> None:
        node = self._nodes.get(inode)
        if kind == shim.SYNC:
            if node is not None:
                node.sync()
        elif kind in (shim.WRITE, shim.TRUNCATE):
            if isinstance(node, File):
                node.pending.append((offset, data if kind == shim.WRITE else None))
        elif kind in (shim.CREATE, shim.MKDIR):
            made = self._nodes[inode] = File() if kind == shim.CREATE else Folder()
            folder, name = self._place(path)
            folder.change((name, made))
        elif kind == shim.UNLINK:
            folder, name = self._place(path)
            folder.change((name, None))
        elif kind in (shim.RENAME, shim.LINK):
            self._rename(path, os.fsdecode(data), keep=kind == shim.LINK)
        else:
            raise AssertionError(f"system call {offset} changed {path or inode} in a way that is not followed")

    def _rename(self, path: str, target: str, *, keep: bool) -> None:
        folder, name = self._place(path)
        other, new = self._place(target)
        node = folder.now[name]
        if keep:
            other.change((new, node))
        elif folder is other:
            folder.change((new, node), (name, None))
        else:
            other.change((new, node))
            folder.change((name, None))

    def _place(self, path: str) -> tuple[Folder, str]:
        *folders, name = Path(path).relative_to(self._root.resolve()).parts
        at = self._top
        for each in folders:
            below = at.now[each]
            assert isinstance(below, Folder), path
            at = below
        return at, name

    def _loaded(self, path: Path) -> Folder:
        entries: dict[str, File | Folder] = {}
        for each in path.iterdir():
            node = self._loaded(each) if each.is_dir() else File(each.read_bytes())
            entries[each.name] = self._nodes[each.stat().st_ino] = node
        made = Folder(entries, dict(entries))
        self._nodes[path.stat().st_ino] = made
        return made


def _enter(there: dict[str, File | Folder], entries: object) -> None:
    for name, node in entries:  # type: ignore[attr-defined]
        if node is None:
            there.pop(name, None)
        else:
            there[name] = node


def _chosen(pending: list[Change], rng: random.Random, fate: Fate) -> list[Change]:
    if fate == "all" or not pending:
        return pending
    if fate == "none":
        return []
    return pending[: rng.randint(0, len(pending))] if fate == "first" else [x for x in pending if rng.random() < 0.5]


def _applied(durable: bytes, changes: list[tuple[int, bytes | None]]) -> bytes:
    if not changes:
        return durable
    content = bytearray(durable)
    for offset, data in changes:
        if data is None:
            del content[offset:]
            content.extend(bytes(offset - len(content)))
        else:
            content.extend(bytes(max(offset - len(content), 0)))
            content[offset : offset + len(data)] = data
    return bytes(content)


def _write(folder: Folder, target: Path, rng: random.Random, fate: Fate) -> None:
    target.mkdir(mode=0o700)
    for name, node in folder.entries(rng, fate).items():
        if isinstance(node, Folder):
            _write(node, target / name, rng, fate)
        elif not name.endswith("-shm"):  # shared memory, not content: who opens the database first makes it anew
            (target / name).write_bytes(node.content(rng, fate))


def _differs(folder: Folder, path: Path, rng: random.Random) -> str | None:
    if set(folder.now) != {each.name for each in path.iterdir()}:
        return f"{path} holds {sorted(each.name for each in path.iterdir())}, not {sorted(folder.now)}"
    for name, node in folder.now.items():
        if isinstance(node, Folder):
            found = _differs(node, path / name, rng)
        else:
            same = name.endswith("-shm") or node.content(rng, "all") == (path / name).read_bytes()
            found = None if same else f"{path / name} holds something else than was written"
        if found is not None:
            return found
    return None
