"""Settings: where they come from, which one wins, and what is said when one is wrong.

Covers the layers (default < TOML file < environment < flags), their provenance and their errors. Knows no room: what
settings there are is told by the sections handed to `load`, each a pydantic model that its room owns.

    [memory]                    EMBANK_MEMORY__BUDGET=60%             --memory 512MB
    budget = "60%"

The file is the one given, else `$EMBANK_CONFIG`, else `./embank.toml` if it exists, else `embank/config.toml` in the
user's configuration folder if it exists. Variables that start with `EMBANK_` but hold no double underscore
(`EMBANK_BANK`, `EMBANK_CONFIG`) are not settings and are not looked at.
"""

from __future__ import annotations

import collections.abc
import json
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import BaseModel, ConfigDict, SecretBytes, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from embank.errors import ConfigError
from embank.registry import SECTIONS, import_path, nearest
from embank.system.size import Size

__all__ = ["Config", "Given", "Section", "Setting", "Size", "load", "load_config"]

_PREFIX = "EMBANK_"
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Set, collections.abc.Collection)


class Section(BaseModel):
    """Base of a room's settings: frozen, no unknown keys, defaults validated, docstrings of fields as descriptions.

    Fields are plain values, `Size`s, or lists of plain values (declare those as tuples, so that they are frozen, too).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)


@dataclass(frozen=True, slots=True)
class Given:
    """A value among `flags` that says how it was given, such as `Given("512MB", "flag --memory")`."""

    value: object
    provenance: str


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as it stands. `key` is `section.name`; `provenance` says which layer the value came from."""

    key: str
    value: object
    default: object
    provenance: str
    description: str


class Config:
    """The settings of every section, validated. Immutable and thread-safe; made by `load`.

    `file` is the TOML file that was read, or None.
    """

    def __init__(
        self, sections: Mapping[str, BaseModel], provenance: Mapping[str, str], *, file: Path | None = None
    ) -> None:
        self.file = file
        self._sections = dict(sections)
        self._provenance = dict(provenance)

    def section(self, name: str) -> Any:
        """The settings of the room `name`: an instance of the class that the section table names."""
        try:
            return self._sections[name]
        except KeyError:
            raise ConfigError(
                f"there is no settings section {name!r}: there are {', '.join(self._sections)}", key=name
            ) from None

    def provenance(self, key: str) -> str:
        """Which layer the value of `section.name` came from: "default", "file …", "environment …" or "flag …"."""
        return self._provenance.get(key, "default")

    def rows(self) -> list[Setting]:
        """Every setting, in the order of sections and fields."""
        return list(self._rows())

    def _rows(self) -> Iterator[Setting]:
        for name, section in self._sections.items():
            for field_name, field in type(section).model_fields.items():
                key = f"{name}.{field_name}"
                value = getattr(section, field_name)
                provenance = self.provenance(key)
                # Defaults are validated: where the default stands, the value is the default in its final form.
                default = value if provenance == "default" else _default(field, section)
                yield Setting(key, value, default, provenance, field.description or "")


def load_config(
    flags: Mapping[str, object], *, file: Path | None = None, environ: Mapping[str, str] | None = None
) -> Config:
    """The settings of every room, from defaults, file, environment and flags."""
    return load(SECTIONS, file=file, environ=os.environ if environ is None else environ, flags=flags)


def load(
    sections: Mapping[str, str | type[BaseModel]],
    *,
    file: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
) -> Config:
    """Lay the layers over each other and validate every section.

    `sections` maps a section's name to its class or the class's import path. `flags` maps a key (`"memory.budget"`) to
    a value, or to a `Given`; None means that the flag was not given. Text in the environment and in flags is read as
    the field wants it: `true`, `8`, `0.5`; for a list `a,b` or `["a", "b"]`; an empty text is None where the field may
    be None and an empty list where it is a list.

    Raises `ConfigError` whose message has a line for each thing wrong: an unknown key (with the nearest right one), a
    value that does not fit (with where it came from and what is expected), a file that is not there or not TOML.
    """
    classes = {name: _section_class(name, given) for name, given in sections.items()}
    fields = {f"{name}.{key}": field for name, cls in classes.items() for key, field in cls.model_fields.items()}
    problems: list[str] = []
    values: dict[str, Given] = {}
    path = _find_file(file, environ)
    if path is not None:
        values |= _from_file(path, _read_toml(path), fields, problems)
    values |= _from_environment(environ, fields, problems)
    values |= _from_flags(flags, fields, problems)
    built = {name: _build(name, cls, values, problems) for name, cls in classes.items()}
    if problems:
        raise ConfigError("\n".join(problems), problems=tuple(problems))
    complete = {name: section for name, section in built.items() if section is not None}
    return Config(complete, {key: given.provenance for key, given in values.items()}, file=path)


def _section_class(name: str, given: str | type[BaseModel]) -> type[BaseModel]:
    cls = import_path(given) if isinstance(given, str) else given
    if not (isinstance(cls, type) and issubclass(cls, BaseModel)):
        raise ConfigError(f"section {name!r}: {given!r} is no pydantic model", key=name)
    return cls


# --- layers ---------------------------------------------------------------------------------------------------------


def _find_file(file: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The first file in the order of the module's docstring; one that was asked for by name need not exist here."""
    if file is not None:
        return file
    if environ.get("EMBANK_CONFIG"):
        return Path(environ["EMBANK_CONFIG"])
    usual = [Path("embank.toml")]
    with suppress(RuntimeError):  # whoever runs in a container may have no home
        usual.append(platformdirs.user_config_path("embank") / "config.toml")
    return next((path for path in usual if path.exists()), None)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {str(path)!r}", file=str(path)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text, at byte {error.start}", file=str(path)) from error
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror or error}", file=str(path)) from error
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, and Python's own refusal of a number of many thousand digits
        what, _, where = str(error).partition(" (at ")
        found = re.match(r"line (\d+)", where)
        line = int(found[1]) if found else max(len(text.splitlines()), 1)
        raise ConfigError(f"{path}, line {line}: {what}", file=str(path), line=line) from error


def _from_file(
    path: Path, content: Mapping[str, Any], fields: Mapping[str, FieldInfo], problems: list[str]
) -> dict[str, Given]:
    provenance = f"file {path}"
    sections = {key.partition(".")[0] for key in fields}
    values: dict[str, Given] = {}
    for name, table in content.items():
        if not isinstance(table, dict):
            text = f"{name} is a section: write [{name}] and its settings below" if name in sections else None
            problems.append(f"{provenance}: {text or _unknown(name, fields)}")
            continue
        if name not in sections and not table:
            problems.append(f"{provenance}: {_unknown(name, sections, what='section')}")
        for field_name, value in table.items():
            key = f"{name}.{field_name}"
            if key not in fields:
                problems.append(f"{provenance}: {_unknown(key, fields)}")
            elif isinstance(value, dict):
                problems.append(f"{provenance}: {key} takes a value, not a table; tables are one level deep")
            else:
                values[key] = Given(value, provenance)
    return values


def _from_environment(
    environ: Mapping[str, str], fields: Mapping[str, FieldInfo], problems: list[str]
) -> dict[str, Given]:
    names = {_variable(key): key for key in fields}
    values: dict[str, Given] = {}
    for name, text in sorted(environ.items()):
        if not name.startswith(_PREFIX) or "__" not in name[len(_PREFIX) :]:
            continue
        provenance = f"environment {name}"
        key = names.get(name)
        if key is None:
            meant = name[len(_PREFIX) :].lower().replace("__", ".", 1)
            guess = nearest(meant, fields)
            hint = f"; did you mean {_variable(guess)}?" if guess else ""
            problems.append(f"{provenance}: there is no setting {meant}{hint}")
        else:
            values[key] = Given(_from_text(text, fields[key].annotation), provenance)
    return values


def _from_flags(flags: Mapping[str, object], fields: Mapping[str, FieldInfo], problems: list[str]) -> dict[str, Given]:
    values: dict[str, Given] = {}
    for key, flag in flags.items():
        given = flag if isinstance(flag, Given) else Given(flag, f"flag {key}")
        if given.value is None:
            continue
        if key not in fields:
            problems.append(f"{given.provenance}: {_unknown(key, fields)}")
            continue
        value = given.value
        if isinstance(value, str):
            value = _from_text(value, fields[key].annotation)
        values[key] = Given(value, given.provenance)
    return values


def _from_text(text: str, annotation: Any) -> object:
    """`text` as the validator of a field of type `annotation` wants it; see `load`."""
    kinds = list(_kinds(annotation))
    stripped = text.strip()
    if any(kind in _LISTS for kind in kinds):
        if stripped.startswith("[") and stripped.endswith("]"):
            try:
                return json.loads(stripped)
            except ValueError:
                pass  # not JSON, so a pattern such as [a-z]*.[ch], which a comma-separated list may well hold
        return [part.strip() for part in stripped.split(",") if part.strip()]
    if not stripped and type(None) in kinds:
        return None
    return text


def _kinds(annotation: Any) -> Iterator[Any]:
    """The classes that an annotation stands for, seen through unions and `Annotated`; of a generic, its origin."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation):
            yield from _kinds(member)
    elif origin is typing.Annotated:
        yield from _kinds(typing.get_args(annotation)[0])
    else:
        yield origin or annotation


# --- validation -----------------------------------------------------------------------------------------------------


def _build(name: str, cls: type[BaseModel], values: Mapping[str, Given], problems: list[str]) -> BaseModel | None:
    """An instance of the section, or None with the reasons added to `problems`."""
    prefix = f"{name}."
    given = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
    try:
        return cls.model_validate({field_name: value.value for field_name, value in given.items()})
    except ValidationError as error:
        seen: set[str] = set()
        for detail in error.errors(include_url=False):
            place = detail["loc"]
            field_name = str(place[0]) if place else ""
            # A union reports each of its members; the first is enough. What concerns the section has no field.
            if field_name not in seen or not field_name:
                seen.add(field_name)
                problems.append(_complaint(name, cls, field_name, given.get(field_name), detail))
        return None


def _complaint(name: str, cls: type[BaseModel], field_name: str, given: Given | None, detail: Mapping[str, Any]) -> str:
    """One line: the key, the value, what is expected, where the value came from."""
    raised = detail.get("ctx", {}).get("error")
    expected = str(raised) if isinstance(raised, Exception) else str(detail["msg"])
    if field_name not in cls.model_fields:
        return f"{name}: {expected}"
    key = f"{name}.{field_name}"
    if given is None:
        return f"{key}: {expected}"
    if _is_secret(cls.model_fields[field_name]):
        return f"{key}: {detail['msg'] if raised is None else 'refused'} (value hidden; {given.provenance})"
    shown = _short(given.value)
    if shown in expected:
        return f"{key}: {expected} ({given.provenance})"
    return f"{key}: {shown} does not fit: {expected[:1].lower()}{expected[1:]} ({given.provenance})"


def _unknown(key: str, known: Iterable[str], *, what: str = "setting") -> str:
    guess = nearest(key, known)
    hint = f"; did you mean {guess}?" if guess else ""
    return f"there is no {what} {key}{hint}"


def _variable(key: str) -> str:
    return f"{_PREFIX}{key.replace('.', '__', 1).upper()}"


def _default(field: FieldInfo, section: BaseModel) -> object:
    if field.is_required():
        return None
    return field.get_default(call_default_factory=True, validated_data=dict(section))


def _is_secret(field: FieldInfo) -> bool:
    return any(kind in (SecretStr, SecretBytes) for kind in _kinds(field.annotation))


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
