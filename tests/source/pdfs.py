"""PDF files made by hand: as little of the format as shows what is to be shown."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence

FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"
_PADDING = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")


def escaped(text: str) -> bytes:
    """A string as it stands in a PDF, in its parentheses."""
    encoded = text.encode("cp1252")
    for sign in (b"\\", b"(", b")"):
        encoded = encoded.replace(sign, b"\\" + sign)
    return b"(" + encoded + b")"


def drawn(text: str) -> bytes:
    """A page's content that shows a text, each of its lines on a line."""
    lines = b" ".join(escaped(line) + b" Tj T*" for line in text.split("\n"))
    return b"BT /F1 8 Tf 9 TL 40 800 Td " + lines + b" ET"


def stream(data: bytes) -> bytes:
    """An object with a compressed stream."""
    packed = zlib.compress(data)
    return b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(packed), packed)


def file(objects: Sequence[bytes], *, trailer: bytes = b"") -> bytes:
    """A file of objects, numbered from 1, the first being the catalogue."""
    out = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    places = []
    for number, each in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer << /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, trailer, start)
    return bytes(out)


def objects(pages: Sequence[bytes]) -> list[bytes]:
    """Catalogue (1), page tree (2), font (3), and from 4 on each page and its content, by turns."""
    made = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>"
        % (b" ".join(b"%d 0 R" % (4 + 2 * number) for number in range(len(pages))), len(pages)),
        FONT,
    ]
    for number, content in enumerate(pages):
        made += [
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] "
            b"/Resources << /Font << /F1 3 0 R >> >> /Contents %d 0 R >>" % (5 + 2 * number),
            stream(content),
        ]
    return made


def pdf(*texts: str, title: str | None = None) -> bytes:
    """A file with a page for each text."""
    made = objects([drawn(text) for text in texts])
    if title is None:
        return file(made)
    return file([*made, b"<< /Title %s >>" % escaped(title)], trailer=b"/Info %d 0 R" % (len(made) + 1))


def encrypted(text: str, password: bytes) -> bytes:
    """A file with one page, encrypted with RC4 and a key of 40 bits (revision 2)."""
    identity = bytes(range(16))
    owner = _rc4(hashlib.md5(_PADDING, usedforsecurity=False).digest()[:5], (password + _PADDING)[:32])
    secret = (password + _PADDING)[:32] + owner + (-4 & 0xFFFFFFFF).to_bytes(4, "little") + identity
    key = hashlib.md5(secret, usedforsecurity=False).digest()[:5]
    made = objects([drawn(text)])
    own_key = hashlib.md5(key + (5).to_bytes(3, "little") + bytes(2), usedforsecurity=False).digest()[:10]
    data = _rc4(own_key, drawn(text))
    made[4] = b"<< /Length %d >>\nstream\n%s\nendstream" % (len(data), data)
    made.append(
        b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>"
        % (owner.hex().encode(), _rc4(key, _PADDING).hex().encode())
    )
    number = identity.hex().encode()
    return file(made, trailer=b"/Encrypt %d 0 R /ID [<%s> <%s>]" % (len(made), number, number))


def _rc4(key: bytes, data: bytes) -> bytes:
    state = list(range(256))
    j = 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out = bytearray()
    i = j = 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


def bomb(unpacked_bytes: int) -> bytes:
    """A page whose content is a thousandth of that until it is unpacked."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(b" " * (1 << 20)) for _ in range(unpacked_bytes >> 20)) + packer.flush()
    made = objects([b""])
    made[4] = b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(packed), packed)
    return file(made)


def endless() -> bytes:
    """A page that draws a form ten times, which draws another one ten times, and so on: ten thousand million times."""
    made = objects([b"/X0 Do"])
    made[3] = made[3].replace(b"/Resources <<", b"/Resources << /XObject << /X0 6 0 R >>")
    for depth in range(10):
        content = b"/X%d Do " % (depth + 1) * 10
        packed = zlib.compress(content)
        made.append(
            b"<< /Type /XObject /Subtype /Form /BBox [0 0 595 842] /Resources << /XObject << /X%d %d 0 R >> >> "
            b"/Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (depth + 1, 7 + depth, len(packed), packed)
        )
    return file(made)
