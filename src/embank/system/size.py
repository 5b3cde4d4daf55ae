"""Amounts of memory as people write them: `512MB`, `1.5GiB`, `60%`.

Covers reading, keeping and printing an amount. What a percentage is of (a budget, a machine, a cgroup's limit) is the
affair of whoever resolves it. Importing this costs no pydantic, though a `Size` can be the type of a pydantic field.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from embank.errors import InvalidInput

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

_UNIT_BYTES = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgtp", start=1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgtp", start=1)},
}
_PATTERN = re.compile(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*(%|[A-Za-z]{0,3})\s*", re.ASCII)
_LIMIT_BYTES = 2**63 - 1


@dataclass(frozen=True, slots=True, init=False)
class Size:
    """A number of bytes, or a part of something yet to be named: exactly one of `count_bytes` and `fraction` is set.

    Made from bytes (`536870912`), decimal (`"512MB"`, `"1.5 GB"`) or binary units (`"512MiB"`) in any case, or a
    percentage (`"60%"`). It prints as it was given; two sizes are equal where they mean the same. Anything else, zero,
    more than 100 % and more than 2^63-1 bytes is an `InvalidInput`. `"512M"` is refused too, since half the world
    means 512,000,000 by it and the other half 536,870,912.
    """

    count_bytes: int | None
    fraction: float | None
    text: str = field(compare=False)

    def __init__(self, value: int | str | Size) -> None:
        count_bytes, fraction, text = _read(value)
        object.__setattr__(self, "count_bytes", count_bytes)
        object.__setattr__(self, "fraction", fraction)
        object.__setattr__(self, "text", text)

    def resolve(self, whole_bytes: int) -> int:
        """The bytes meant, where 100 % is `whole_bytes`; never less than 1. Bytes stay as they are, even above it."""
        if self.count_bytes is not None:
            return self.count_bytes
        return max(round(whole_bytes * (self.fraction or 0.0)), 1)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Size({self.text!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """As a field's type: validated by the constructor, serialised as it prints."""
        from pydantic_core import core_schema  # see the module's docstring

        return core_schema.no_info_plain_validator_function(cls, serialization=core_schema.to_string_ser_schema())


def _read(value: object) -> tuple[int | None, float | None, str]:
    if isinstance(value, Size):
        return value.count_bytes, value.fraction, value.text
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 < value <= _LIMIT_BYTES:
            raise _refusal(value)
        return value, None, str(value)
    match = _PATTERN.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise _refusal(value)
    number, unit = Decimal(match[1]), match[2].lower()
    text = match[0].strip()
    if unit == "%":
        fraction = float(number) / 100
        if not 0 < fraction <= 1:
            raise _refusal(value)
        return None, fraction, text
    count_bytes = int(number * _UNIT_BYTES[unit]) if unit in _UNIT_BYTES else 0
    if not 0 < count_bytes <= _LIMIT_BYTES:
        raise _refusal(value)
    return count_bytes, None, text


def _refusal(value: object) -> InvalidInput:
    # Decimal digits of a very large number are refused by Python itself.
    shown = hex(value) if isinstance(value, int) and value.bit_length() > 1000 else repr(value)
    if len(shown) > 60:
        shown = f"{shown[:57]}..."
    return InvalidInput(f"{shown} is not a size: give bytes, 512MB, 1.5GiB or 60%", value=value)
