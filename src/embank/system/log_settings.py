"""The `log` section of the settings.

Apart from `embank.system.log` so that a logger costs no import of pydantic; a plain pydantic model because the
configuration's `Section` lies above this room. Holds values only; `embank.system.log.configure` acts on them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class Settings(BaseModel):
    """What is logged, how and where to."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)

    level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)] = "warning"
    """The least severe level that is logged: debug, info, warning, error or critical."""

    format: Annotated[Literal["text", "json"], BeforeValidator(_lower)] = "text"
    """Lines for people (text) or one JSON object a line (json)."""

    console: bool = True
    """Whether to log to standard error."""

    file: Path | None = None
    """A file to log to as well; its folder is made where it is missing."""
