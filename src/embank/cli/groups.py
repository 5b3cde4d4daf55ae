"""A command that has subcommands beside what it does by itself: `embank index ~/notes`, `embank index show`.

What is meant by itself and has the name of a subcommand follows `--`: `embank search -- tune` looks for the word.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

DEFAULT = "sources"
"""The command, hidden, to which everything goes that names no other."""


class DefaultGroup(TyperGroup):
    """A group of commands one of which is meant where none is named. A folder called `show` is `./show` here."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = bool(args) and args[0] in self.commands
        return super().parse_args(ctx, args if named else [DEFAULT, *args])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        # Usage and errors speak of `embank index`.
        return ("" if name == DEFAULT else name), command, rest
