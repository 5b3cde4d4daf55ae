"""From bytes to text: which encoding a file has, decoded strictly and in blocks.

Order of trust: a byte order mark, strict UTF-8 over the whole file, what the file says of itself, then a guess by
charset-normalizer from a bounded sample around the first byte that is not UTF-8; each must decode the whole file.
Memory is constant whatever the size; the file is read twice, so that nothing is yielded from a file that turns out not
to be text.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from embank.source.report import Reason

BLOCK_BYTES = 1 << 16
HEAD_BYTES = 8 << 10
"""Binary files are known by a NUL among their first bytes (as git does it)."""
SAMPLE_BYTES = 16 << 10

_MARKS = (
    # UTF-32-LE begins with UTF-16-LE's mark, so it comes first.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SIGNATURES = (b"%PDF-", b"\x1f\x8b", b"\xfd7zXZ", b"BZh9", b"\x28\xb5\x2f\xfd")
# Encodings that texts are really in. The first wins a tie, which short texts often are.
_CANDIDATES = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874"),
    *("koi8_r", "koi8_u", "cp866", "cp437", "cp850", "mac_roman", "cp932", "euc_jp", "gb18030", "big5", "cp949"),
)
_CONTROLS = bytes(code for code in range(32) if code not in b"\t\n\v\f\r\b\x1b")
_CONTROL_SHARE = 0.02
_LIKE_ASCII = frozenset({"iso2022_jp"})


@dataclass(frozen=True, slots=True)
class Encoding:
    """A codec's name that decodes the whole file; `guessed` when neither UTF-8 nor announced by a mark."""

    name: str
    guessed: bool = False

    @property
    def is_utf8(self) -> bool:
        """UTF-8 with or without a mark."""
        return self.name in {"utf-8", "utf-8-sig"}


@dataclass(frozen=True, slots=True)
class NotText:
    """Why a file gives no text."""

    reason: Reason
    detail: str


def examine(stream: BinaryIO, *, declared: str | None = None) -> Encoding | NotText:
    """Find the encoding of a seekable stream by reading all of it, from the start.

    `declared` is the codec that the file itself names, if any. It is believed where the file is not UTF-8, or where it
    is one that only looks like ASCII.
    """
    stream.seek(0)
    head = stream.read(HEAD_BYTES)
    for mark, name in _MARKS:
        if head.startswith(mark):
            bad = _first_bad_byte(stream, name)
            return Encoding(name) if bad is None else NotText("undecodable", f"not {name} at byte {bad:,}")
    if b"\0" in head:
        return NotText("binary", "NUL bytes")
    if head.startswith(_SIGNATURES):
        return NotText("binary", "a binary format's signature")
    bad = _first_bad_byte(stream, "utf-8")
    unlike_utf8 = bad is not None or declared in _LIKE_ASCII
    if declared is not None and unlike_utf8 and _first_bad_byte(stream, declared) is None:
        return Encoding(declared)
    return Encoding("utf-8") if bad is None else _guess(stream, bad)


def decoded(stream: BinaryIO, encoding: str) -> Iterator[str]:
    """The text of a seekable stream, from the start, in blocks. Raises UnicodeDecodeError."""
    stream.seek(0)
    decoder = codecs.getincrementaldecoder(encoding)(errors="strict")
    while block := stream.read(BLOCK_BYTES):
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def _first_bad_byte(stream: BinaryIO, encoding: str) -> int | None:
    """Where (to within a block) the stream stops decoding, `None` where it doesn't.

    Lone surrogates, which some codecs let through, count as bad.
    """
    stream.seek(0)
    decoder = codecs.getincrementaldecoder(encoding)(errors="strict")
    done = 0
    try:
        while block := stream.read(BLOCK_BYTES):
            decoder.decode(block).encode("utf-8")
            done += len(block)
        decoder.decode(b"", final=True).encode("utf-8")
    except UnicodeDecodeError as error:
        return done + error.start
    except UnicodeEncodeError:
        return done
    return None


def _guess(stream: BinaryIO, bad: int) -> Encoding | NotText:
    from charset_normalizer import from_bytes

    start = max(0, bad - SAMPLE_BYTES // 2)
    stream.seek(start)
    sample = stream.read(SAMPLE_BYTES)
    if start > 0:
        sample = sample[sample.find(b"\n") + 1 :]  # never begin inside a character of several bytes
    controls = len(sample) - len(sample.translate(None, delete=_CONTROLS))
    if controls > len(sample) * _CONTROL_SHARE:
        return NotText("binary", "control characters")
    # Only lines with something to go by: much plain text makes every guess look as good as any other.
    telling = b"\n".join(line for line in sample.split(b"\n") if not line.isascii())
    matches = from_bytes(telling, cp_isolation=list(_CANDIDATES))
    best = matches.best()
    if best is None:
        return NotText("undecodable", f"not UTF-8 at byte {bad:,}, and no other encoding fits")
    ties = (match for match in matches if (match.chaos, match.coherence) == (best.chaos, best.coherence))
    likeliest = any(_CANDIDATES[0] in match.could_be_from_charset for match in ties)
    name = _CANDIDATES[0] if likeliest else best.encoding
    wrong = _first_bad_byte(stream, name)
    if wrong is not None:
        return NotText("undecodable", f"not UTF-8 at byte {bad:,}, nor {name} at byte {wrong:,}")
    return Encoding(name, guessed=True)
