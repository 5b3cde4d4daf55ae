"""The saved index of one collection: the file, and what its backend keeps beside it, replaced and found again."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from embank.errors import EmbankError, IndexUnavailable
from embank.memory.governor import Governor
from embank.store.index import saved
from embank.store.index.backend import backend
from embank.store.index.base import IndexPlace
from embank.store.index.protocol import Codes
from embank.store.index.saved import Head
from embank.system.files import Files
from embank.system.log import get_logger

_log = get_logger(__name__)


class Kept:
    """See the module. For one thread at a time, but for reading."""

    def __init__(self, place: IndexPlace, files: Files, governor: Governor | None) -> None:
        self._place = place
        self._files = files
        self._governor = governor

    def head(self) -> Head | None:
        """What the file says of itself, if there is one. Raises `ValueError` for a damaged one, and `OSError`."""
        return saved.head(self._place.path)

    def load(self) -> tuple[Codes, Head]:
        """As `saved.load`."""
        return saved.load(self._place.path, self._place.home)

    def signature(self) -> tuple[int, int] | None:
        """(inode, time of change) of the file, which every saving changes; `None` where there is none."""
        try:
            found = self._place.path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def keep(self, codes: Codes, head: Head) -> bool:
        """Save them in the place of what was there, and remove what that kept elsewhere. Whether that could be done.

        Raises `IndexUnavailable` where the codes themselves are lost: those of a backend that failed; and
        `BudgetExceeded`.
        """
        replaced = self._replaced()
        try:
            self._files.make_directory(self._place.path.parent)
            with self._reserved(codes.method.saving_bytes(head.rows)):
                saved.save(self._place.path, codes, head, files=self._files)
        except IndexUnavailable:
            raise
        except OSError as error:  # it works all the same, but can't be dropped, and must be built after a restart
            _log.warning("the vector index of %r is not saved: %s", self._place.collection_name, error)
            return False
        self._tidy(replaced, codes)
        return True

    def _reserved(self, wanted_bytes: int) -> AbstractContextManager[object]:
        if self._governor is None or not wanted_bytes:
            return nullcontext()
        return self._governor.reserve("saving a vector index", wanted_bytes)

    def _replaced(self) -> Head | None:
        try:
            return self.head()
        except (OSError, ValueError) as error:
            _log.info("the index of %r that is replaced can't be told: %s", self._place.collection_name, error)
            return None

    def _tidy(self, replaced: Head | None, codes: Codes) -> None:
        try:
            if replaced is not None and replaced.method.kind != codes.method.kind:
                backend(replaced.method.kind).remove(replaced.method, self._place.home)
            backend(codes.method.kind).tidy(codes, self._place.home)
        except (EmbankError, OSError) as error:  # it takes room, and is tried again after the next building
            _log.warning("what earlier indexes of %r keep is not removed: %s", self._place.collection_name, error)
