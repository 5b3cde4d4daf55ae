"""The flags that commands share, in the same words everywhere, and what they amount to.

`@configured` and `@on_bank` give a command's function the shared flags: it takes them as one `Invocation`.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embank.errors import InvalidInput

if TYPE_CHECKING:
    from embank.config import Config

_SHARED = "Shared options"

BankPath = Annotated[
    Path,
    typer.Option(
        "--bank", "-b", envvar="EMBANK_BANK", metavar="DIR", help="The bank's directory.", rich_help_panel=_SHARED
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="A TOML file with settings.", rich_help_panel=_SHARED),
]
Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="SIZE", help="The memory budget: 512MB, 1GiB, 60%.", rich_help_panel=_SHARED),
]
ModelName = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="The embedding model: a name or a folder.", rich_help_panel=_SHARED),
]
SetSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting (embank config show lists them); may be repeated.",
        rich_help_panel=_SHARED,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.", rich_help_panel=_SHARED)]
MetricName = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="METRIC",
        help="What a new collection compares vectors by, for good: cosine (default), dot or l2.",
    ),
]
LanguageName = Annotated[
    str | None,
    typer.Option(
        "--language",
        metavar="LANGUAGE",
        help="How the collection's words are stemmed from now on: english (at first), german …, none, trigrams.",
    ),
]
CollectionName = Annotated[str, typer.Option("--collection", "-c", metavar="NAME", help="The collection.")]
WhereFilter = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="JSON",
        help='Only documents whose metadata match, such as {"year": {"$gte": 2020}}.',
    ),
]

DEFAULT_BANK = Path("embank.bank")
_AGES_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, slots=True)
class Invocation:
    """The shared flags as they were given. `extra` are settings that a command's own flags stand for."""

    bank: Path = DEFAULT_BANK
    config_file: Path | None = None
    memory: str | None = None
    model: str | None = None
    settings: tuple[str, ...] = ()
    as_json: bool = False
    extra: tuple[tuple[str, object, str], ...] = ()

    def having(self, key: str, value: object, *, flag: str) -> Invocation:
        """The same with one more setting that the flag `flag` gave."""
        return replace(self, extra=(*self.extra, (key, value, flag)))

    def config(self) -> Config:
        """The settings, with flags over the environment over the file; also sets up the process's logging."""
        from embank.config import Given
        from embank.engine import load_config
        from embank.system.log import configure

        flags: dict[str, object] = {}
        for text in self.settings:
            key, equals, value = text.partition("=")
            if not equals or not key.strip():
                raise InvalidInput(f"--set {text!r}: write it as section.key=value", value=text)
            flags[key.strip()] = Given(value, "flag --set")
        for key, given, flag in (
            ("memory.budget", self.memory, "--memory"),
            ("embed.model", self.model, "--model"),
            *self.extra,
        ):
            if given is not None:
                flags[key] = Given(given, f"flag {flag}")
        config = load_config(flags, file=self.config_file)
        configure(config.section("log"))
        return config


def configured(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that needs no bank the shared flags; it takes an `Invocation` first."""
    return _with_flags(command, bank=False)


def on_bank(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the shared flags and `--bank`; it takes an `Invocation` first."""
    return _with_flags(command, bank=True)


def _with_flags(command: Callable[..., None], *, bank: bool) -> Callable[..., None]:
    shared: dict[str, tuple[Any, object]] = {
        **({"bank": (BankPath, DEFAULT_BANK)} if bank else {}),
        "config_file": (ConfigFile, None),
        "memory": (Memory, None),
        "model": (ModelName, None),
        "settings": (SetSettings, None),
        "as_json": (AsJson, False),
    }

    @functools.wraps(command)
    def run(**values: Any) -> None:
        given = {name: values.pop(name) for name in shared}
        given["settings"] = tuple(given["settings"] or ())
        command(Invocation(**given), **values)

    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(name, keyword, default=default, annotation=annotation)
        for name, (annotation, default) in shared.items()
    ]
    parameters = [parameter.replace(kind=keyword) for parameter in own] + added
    # What typer reads: the signature, and the annotations that go with it.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__  # it would lead back to the narrower signature
    return run


def age_s(text: str) -> float:
    """The seconds of `--older-than`, such as 30d."""
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]+)?)\s*([smhdw])", text.strip())
    if found is None:
        raise InvalidInput(f"--older-than {text!r}: write a number with s, m, h, d or w, such as 30d", value=text)
    return float(found[1]) * _AGES_S[found[2]]


def parsed_where(text: str | None) -> dict[str, Any] | None:
    """The filter of `--where`."""
    return None if text is None else json_object(text, flag="--where", example='{"year": {"$gte": 2020}}')


def json_object(text: str, *, flag: str, example: str) -> dict[str, Any]:
    """A JSON object from a flag; `InvalidInput` says where it breaks and shows one."""
    import json

    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{flag}: {text[:200]!r} is not JSON: {error}; write for example {flag} '{example}'"
        ) from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{flag}: {text[:200]!r} is not a JSON object; write for example {flag} '{example}'")
    return value
