"""What a model accepts as text. Covers types and encodability; length is the model's own affair (it truncates)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import cast, get_args

from embank.embed.model import Kind
from embank.errors import InvalidInput


def checked_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list, each a `str` that UTF-8 can encode.

    Empty and blank texts are allowed: a model answers with the vector of its special tokens alone. A bare string is
    refused, since iterating it would embed its characters, and so is what has no order, or is a mapping. Raises
    `InvalidInput` with the index of the first bad one.
    """
    given: object = texts  # the type is promised, not kept
    kind = type(given).__name__
    if isinstance(given, (str, bytes)):
        raise InvalidInput(f"texts must be a sequence of strings, not one {kind}: wrap it in a list", value=kind)
    # What has no order can't be answered in it, and the keys of a mapping are not what was meant.
    if isinstance(given, (Mapping, AbstractSet)) or not isinstance(given, Iterable):
        raise InvalidInput(f"texts must be a sequence of strings, not {kind}", value=kind)
    listed: list[object] = list(given)
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise InvalidInput(f"texts[{index}] is {kind}, not str", index=index, value=kind)
    strings = cast("list[str]", listed)  # just checked
    try:
        "".join(strings).encode()  # one pass at C speed; the slow search below runs only when it failed
    except UnicodeEncodeError:
        # Joining can only create an error (never hide one): every lone surrogate is still alone among its neighbours.
        _raise_first_surrogate(strings)
    return strings


def checked_kind(kind: Kind) -> Kind:
    """Raises `InvalidInput` for anything but a query and a passage, which models with prefixes treat differently."""
    if kind not in get_args(Kind):
        raise InvalidInput(f"kind must be one of {', '.join(get_args(Kind))}, not {kind!r}", value=kind)
    return kind


def _raise_first_surrogate(texts: list[str]) -> None:
    for index, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"texts[{index}] has a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}, "
                "which no encoding can carry: clean it with text.encode('utf-8', 'replace').decode()",
                index=index,
                position=error.start,
            ) from error
