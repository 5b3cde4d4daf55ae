"""A source read here for a server to write: gone through once, kept as lines in a temporary file, sent from there.

So a source that is slow to read holds up no request, and a request can be sent again.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

    from embank.pipeline import OnSkip
    from embank.records import Document
    from embank.source.protocol import Source

_PIECE_BYTES = 1 << 20


class Sent:
    """The lines of `embank.client.calls.index_lines`, to be gone through any number of times until it is closed."""

    def __init__(self, make: Callable[[OnSkip], Source]) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 -- closed by `__exit__`
        try:
            source = make(self._skip)
            self.root = source.root
            self.bytes_total = source.bytes_total
            for document in source.documents():
                self._keep(document)
            self.bytes_done = source.report.bytes_done
        except BaseException:
            self._file.close()
            raise

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        while piece := self._file.read(_PIECE_BYTES):
            yield piece

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _keep(self, document: Document) -> None:
        sent: dict[str, Any] = {"id": document.id, "text": document.text, "metadata": dict(document.metadata)}
        if document.origin is not None:
            sent["origin"] = document.origin
        try:
            line = json.dumps(sent, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:  # a value of its metadata that JSON has no words for
            self._skip(document.origin or "", "bad value", str(error))
        else:
            self._file.write(line + b"\n")

    def _skip(self, origin: str, reason: str, detail: str) -> None:
        # As ASCII: the name of a file need not be text.
        told = [each.encode("utf-8", "replace").decode() for each in (origin, reason, detail)]
        self._file.write(json.dumps({"skip": told}).encode() + b"\n")
