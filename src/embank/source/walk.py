"""Walking a folder: which files a source reads, in a fixed order, and why the others are left out.

Nothing but folders is opened here. One folder's names are held at a time for each level of depth.
"""

# A Path for each entry would take most of a walk's time: strings and os.path throughout.
# ruff: noqa: PTH110, PTH114, PTH116, PTH118

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embank.errors import SourceError
from embank.source.ignore import IgnoreRules, rules_above
from embank.source.report import Reason
from embank.source.settings import Settings

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

VCS_FOLDERS = frozenset({".git", ".hg", ".svn", ".bzr", ".jj", "_darcs", "CVS"})

Skipped = Callable[[str, Reason, str], None]
Refusal = tuple[Reason, str]
"""Why an entry is left out, and the detail."""


@dataclass(frozen=True, slots=True)
class Found:
    """A regular file to read: where it is, its POSIX path relative to the root, its size when it was seen."""

    path: str
    relative: str
    size_bytes: int


@dataclass(slots=True)
class _Folder:
    path: str
    relative: str  # "" for the root, else with a slash at the end
    identity: tuple[int, int]
    names: Iterator[str]
    rules: IgnoreRules | None


class FolderWalk:
    """Every file below `root` that the settings let through, sorted by name within its folder.

    Symbolic links to folders are followed once each and never into a folder that is being walked. `skip` hears of
    everything left out; the origin of a folder ends with a slash.
    """

    def __init__(self, root: Path, *, settings: Settings, skip: Skipped) -> None:
        self._root = root
        self._settings = settings
        self._skip = skip
        self._include = _globs(settings.include)
        self._exclude = _globs(settings.exclude)
        self._top = ""  # the root's path relative to the topmost folder with ignore rules
        self._open: list[_Folder] = []
        self._linked: set[tuple[int, int]] = set()

    def files(self) -> Iterator[Found]:
        """Walk. A folder that can't be read is a skip, also the root ("./"); `SourceError` when the root is gone."""
        self._open.clear()
        self._linked.clear()
        try:
            root = self._root.stat()
        except OSError as error:
            raise SourceError(f"{self._root} is no longer there: {error.strerror}", path=str(self._root)) from error
        rules: IgnoreRules | None = None
        if self._settings.gitignore:
            try:
                rules, self._top = rules_above(self._root)
            except OSError as error:
                self._skip("./", "unreadable", str(error))
                return
        self._enter(str(self._root), "", root, rules)
        while self._open:
            folder = self._open[-1]
            name = next(folder.names, None)
            if name is None:
                self._open.pop()
                continue
            found = self._look(folder, name)
            if found is not None:
                yield found

    def _look(self, folder: _Folder, name: str) -> Found | None:
        """One entry: a file to read, or `None` when it was skipped or is a folder, which is entered."""
        relative = folder.relative + name
        path = os.path.join(folder.path, name)
        refused = self._refused_by_name(name)
        if refused is None:
            try:
                entry = os.lstat(path)
                refused = self._refused_as_entry(folder, relative, entry)
                status = os.stat(path) if stat.S_ISLNK(entry.st_mode) and refused is None else entry
            except OSError as error:
                refused = _why(error, path)
            else:
                if refused is None and stat.S_ISDIR(status.st_mode):
                    self._look_into(folder, path, relative + "/", status, is_link=entry is not status)
                    return None
                if refused is None:
                    refused = self._refused_as_file(relative, status)
                if refused is None:
                    return Found(path, relative, status.st_size)
        self._skip(printable(relative), *refused)
        return None

    def _refused_by_name(self, name: str) -> Refusal | None:
        if name in VCS_FOLDERS:
            return "ignored", "version control"
        if name.startswith(".") and not self._settings.hidden:
            return "hidden", ""
        if printable(name) != name:
            return "name not UTF-8", ""
        return None

    def _refused_as_entry(self, folder: _Folder, relative: str, entry: os.stat_result) -> Refusal | None:
        # git takes a link for a file, whatever it leads to.
        is_folder = stat.S_ISDIR(entry.st_mode)
        if folder.rules is not None and folder.rules.ignored(self._top + relative, is_folder=is_folder):
            return "ignored", ".gitignore"
        if stat.S_ISLNK(entry.st_mode) and not self._settings.follow_symlinks:
            return "link", ""
        return None

    def _refused_as_file(self, relative: str, status: os.stat_result) -> Refusal | None:
        if not stat.S_ISREG(status.st_mode):
            return "not a regular file", stat.filemode(status.st_mode)
        excluded = self._exclude is not None and self._exclude.match_file(relative)
        if excluded or (self._include is not None and not self._include.match_file(relative)):
            return "ignored", "include or exclude"
        return None

    def _look_into(self, folder: _Folder, path: str, relative: str, status: os.stat_result, *, is_link: bool) -> None:
        identity = (status.st_dev, status.st_ino)
        if self._exclude is not None and self._exclude.match_file(relative):
            self._skip(relative, "ignored", "exclude")
        elif any(identity == outer.identity for outer in self._open):
            self._skip(relative, "symlink loop", "leads to a folder that it lies in")
        elif is_link and identity in self._linked:
            self._skip(relative, "duplicate link", "another link leads to the same folder")
        elif is_bank(path):
            self._skip(relative, "bank", "an Embank bank")
        else:
            if is_link:
                self._linked.add(identity)
            self._enter(path, relative, status, folder.rules)

    def _enter(self, path: str, relative: str, status: os.stat_result, rules: IgnoreRules | None) -> None:
        try:
            with os.scandir(path) as entries:
                names = sorted(entry.name for entry in entries)
            if rules is not None:
                rules = rules.below(path, self._top + relative)
        except OSError as error:
            self._skip(relative or "./", *_why(error, path))
            return
        self._open.append(_Folder(path, relative, (status.st_dev, status.st_ino), iter(names), rules))


def is_bank(path: str) -> bool:
    """Whether a folder is a bank: what Embank itself writes is no document."""
    return os.path.exists(os.path.join(path, "FORMAT")) and os.path.exists(os.path.join(path, "bank.db"))


def _why(error: OSError, path: str) -> Refusal:
    detail = error.strerror or str(error)
    if error.errno == errno.ELOOP:
        return "symlink loop", detail
    if error.errno == errno.ENOENT:
        return ("broken link" if os.path.islink(path) else "vanished"), detail
    return "unreadable", detail


def printable(name: str) -> str:
    r"""A file's name as UTF-8 can show it: bytes that are none become escapes, `\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _globs(patterns: tuple[str, ...]) -> GitIgnoreSpec | None:
    if not patterns:
        return None
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(patterns)
