"""`embank config show`: every setting as it stands, and where it came from."""

from __future__ import annotations

from typing import Annotated

import typer

from embank.cli import output
from embank.cli.options import Invocation, configured
from embank.errors import ConfigError
from embank.registry import nearest


@configured
def show(
    invocation: Invocation,
    *,
    section: Annotated[
        str | None, typer.Argument(metavar="[SECTION]", help="Only this section: memory, source, embed, …")
    ] = None,
) -> None:
    """Show each setting with its value, where it came from, and what it means.

    Settings come from defaults, a TOML file, the environment and flags; the later wins.

    [bold]EMBANK_MEMORY__BUDGET=1GB embank config show memory[/bold]
    """
    config = invocation.config()
    rows = config.rows()
    sections = list(dict.fromkeys(row.key.partition(".")[0] for row in rows))
    if section is not None and section not in sections:
        guess = nearest(section, sections)
        hint = f"; did you mean {guess}?" if guess else ""
        raise ConfigError(f"there is no section {section}: there are {', '.join(sections)}{hint}", key=section)
    rows = [row for row in rows if section in (None, row.key.partition(".")[0])]
    if invocation.as_json:
        settings = [
            {
                "key": row.key,
                "value": _plain(row.value),
                "default": _plain(row.default),
                "provenance": row.provenance,
                "description": row.description,
            }
            for row in rows
        ]
        output.write_json({"file": None if config.file is None else str(config.file), "settings": settings})
        return
    made = output.table("setting", "value", "from", "what it is")
    for row in rows:
        given = row.provenance != "default"
        output.add_row(
            made,
            row.key,
            _words(row.value),
            row.provenance,
            " ".join(row.description.split()),
            style="bold" if given else None,
        )
    output.show(made)
    output.say(f"file: {config.file or 'none'}")


def _plain(value: object) -> object:
    """As JSON knows it; sizes, paths and secrets as they print (a secret prints hidden)."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return str(value)


def _words(value: object) -> str | None:
    plain = _plain(value)
    if isinstance(plain, bool):
        return str(plain).lower()
    if isinstance(plain, list):
        return ", ".join(map(str, plain)) or None
    return None if plain is None else str(plain)
