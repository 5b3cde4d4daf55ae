"""One bank a server for a Streamlit app: shared by all sessions and reruns, and closed when it is over.

    import streamlit as st
    from embank.integrations.streamlit import shared_bank

    bank = shared_bank("my.bank", memory="512MB")
    question = st.text_input("Question")
    if question:
        for hit in bank.collection("notes").search(question, k=5):
            st.write(hit.score, hit.id, hit.text)

A bank is opened once, however many sessions ask at the same time, and known by its folder: other settings for the same
folder close it and open it with them, so that a server never holds two engines of one bank. At most `MOST_BANKS` are
open at once. A bank is closed when another takes its place, when the caches of resources are cleared, and when the
server ends.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embank.bank import Bank, open_bank
from embank.errors import MissingExtra

try:
    import streamlit
except ImportError as error:
    raise MissingExtra("streamlit", "streamlit") from error

MOST_BANKS = 4
"""Banks that a server holds open at once; the one that was opened first makes room for a further one."""


def shared_bank(
    path: str | Path,
    *,
    memory: str | int | None = None,
    model: str | None = None,
    read_only: bool = False,
    flags: Mapping[str, object] | None = None,
) -> Bank:
    """The bank at `path`, open and shared by all sessions of this server; what else it takes is told at `embank.open`.

    Call it in every run, and keep what it returns no longer than that: with other settings than before, the bank that
    was open is closed. Don't close it yourself. Raises what opening a bank raises.
    """
    settings = {"memory": memory, "model": model, "read_only": read_only, "flags": dict(flags or {})}
    held: SharedBank = _held(str(Path(path).resolve()))
    return held.opened(settings)


class SharedBank:
    """A folder's bank, open with the settings asked for last. Thread-safe. Closed at the end of the process, too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._settings: dict[str, Any] | None = None
        self._bank: Bank | None = None
        self._end: weakref.finalize[[], Any] | None = None

    def opened(self, settings: dict[str, Any]) -> Bank:
        """The bank with these settings; one that is open with others is closed first, since one process writes it."""
        with self._lock:
            if self._bank is None or settings != self._settings:
                self._close()
                bank = open_bank(self._path, **settings)
                # Streamlit says nothing when the server ends; this runs then, and when nobody has this object any more.
                self._end = weakref.finalize(self, bank.close)
                self._bank, self._settings = bank, settings
            return self._bank

    def close(self) -> None:
        """Close the bank that is open, if one is; asked for again, it is opened anew."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        end, self._bank, self._end = self._end, None, None
        if end is not None:
            end()


_held = streamlit.cache_resource(max_entries=MOST_BANKS, on_release=SharedBank.close, show_spinner=False)(
    lambda path: SharedBank(Path(path))
)
