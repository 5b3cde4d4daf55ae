"""`embank drop`: a collection goes as a whole."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from embank.cli import errors, output
from embank.cli.opening import open_bank
from embank.cli.options import Invocation, on_bank
from embank.cli.progress import Doing, showing
from embank.errors import InvalidInput

if TYPE_CHECKING:
    from embank.remote.surface import OpenBank
    from embank.store.reports import DropReport


@on_bank
def drop(
    invocation: Invocation,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The collection.")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a collection with all that is in it. On a terminal it asks first; elsewhere it wants --yes.

    Stopped at any moment, the collection is there as a whole or it is gone. A protected one refuses.

    [bold]embank drop notes --dry-run[/bold]

    [bold]embank drop notes --yes[/bold]
    """
    with open_bank(invocation, "read" if dry_run else "change") as bank:
        report = bank.drop(name, dry_run=True)
        if not dry_run:
            if not yes:
                _ask(report)
            report = _dropped(invocation, bank, name)
    if invocation.as_json:
        output.write_json(report.as_dict())
    else:
        _tell(report)


def _dropped(invocation: Invocation, bank: OpenBank, name: str) -> DropReport:
    doing = Doing(f"dropping {name}")
    try:
        with showing(doing, quiet=invocation.as_json):
            return bank.drop(name, on_progress=doing.update)
    except KeyboardInterrupt as error:
        if any(info.name == name for info in bank.collections()):
            raise
        errors.tell_failure(
            "KeyboardInterrupt",
            f"interrupted: {name} is gone; what of it is still on the disk goes when the bank is next opened for "
            f"writing at the latest",
            code=errors.INTERRUPTED,
            as_json=invocation.as_json,
            fields={"fraction": doing.fraction},
        )
        raise typer.Exit(errors.INTERRUPTED) from error


def _ask(report: DropReport) -> None:
    what = f"the collection {report.collection} with {_held(report)}"
    if not sys.stdin.isatty():
        raise InvalidInput(f"this deletes {what}: say --yes", documents=report.documents)
    if not typer.confirm(f"Delete {what}?", err=True):
        raise typer.Exit


def _held(report: DropReport) -> str:
    return f"{output.counted(report.documents, 'document')} and {output.counted(report.passages, 'passage')}"


def _tell(report: DropReport) -> None:
    what = f"{output.plain(report.collection)}: {_held(report)}, {output.size(report.file_bytes)} of vectors and views"
    if report.dry_run:
        output.say(f"would drop {what}, and {output.size(report.text_bytes)} of texts")
        return
    output.say(f"dropped {what}; bank.db is {output.size(report.database_bytes)} smaller")
    if report.reusable_bytes:
        output.say(f"{output.size(report.reusable_bytes)} of it are free and are used by what is written next")
    if report.left:
        output.say("some of it is still on the disk, and goes when the bank is next opened for writing")
