"""`embank verify`, `backup`, `restore` and `migrate`: is a bank whole, copies that are, and its format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embank.cli import errors, output
from embank.cli.options import Invocation, configured, on_bank
from embank.cli.progress import Doing, showing

if TYPE_CHECKING:
    from embank.store.reports import BackupReport, Finding, VerifyReport

_IDS_SHOWN = 5


@on_bank
def verify(
    invocation: Invocation,
    *,
    full: Annotated[
        bool, typer.Option("--full", help="Check the database's indexes and every text, too; takes longer.")
    ] = False,
    seal: Annotated[
        bool,
        typer.Option("--seal", help="Give vectors of a former Embank checksums, if all is whole. Nobody may write."),
    ] = False,
) -> None:
    """Check a bank: the database, what is recorded against what is there, vectors, and the views derived from them.

    Without --seal nothing is written, and others may use the bank meanwhile. Damage to documents or vectors ends in
    exit code 6 and names the documents; views alone do not, for they can be made again.

    [bold]embank verify --full[/bold]
    """
    invocation.config()
    from embank.store.seal import seal as sealing
    from embank.store.verify import verify as check

    sealed = 0
    with _progress(f"checking {invocation.bank}", quiet=invocation.as_json) as tell:
        if seal:
            report, sealed = sealing(invocation.bank, full=full, on_progress=tell)
        else:
            report = check(invocation.bank, full=full, on_progress=tell)
    if invocation.as_json:
        output.write_json({**report.as_dict(), "sealed": sealed} if seal else report.as_dict())
    else:
        _show(report)
        if seal:
            output.say(f"{output.counted(sealed, 'vector')} got a checksum")
        elif report.unsealed:
            output.say(
                f"{output.counted(report.unsealed, 'vector')} of a former Embank without a checksum: "
                f"`embank verify --seal` gives them one"
            )
    if report.damaged:
        raise typer.Exit(errors.STORAGE)


@on_bank
def backup(
    invocation: Invocation, target: Annotated[Path, typer.Argument(metavar="TARGET", help="A place that is free.")]
) -> None:
    """Copy a bank, also while it is written, and verify the copy. Stopped, it leaves nothing behind.

    The copy is a bank itself, and has checksums of all its files for as long as nobody writes to it.

    [bold]embank backup /mnt/backups/notes-monday.bank[/bold]
    """
    invocation.config()
    from embank.store.backup import back_up

    with _progress(f"copying {invocation.bank}", quiet=invocation.as_json) as tell:
        report = back_up(invocation.bank, target, on_progress=tell)
    _tell_copied(report, "backed up", as_json=invocation.as_json)


@configured
def restore(
    invocation: Invocation,
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A backup.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A place that is free: no bank is overwritten.")],
) -> None:
    """Make a bank of a backup, which stays as it is. Both are verified.

    [bold]embank restore /mnt/backups/notes-monday.bank embank.bank[/bold]
    """
    invocation.config()
    from embank.store.backup import restore as put_back

    with _progress(f"restoring {source}", quiet=invocation.as_json) as tell:
        report = put_back(source, target, on_progress=tell)
    _tell_copied(report, "restored", as_json=invocation.as_json)


@on_bank
def migrate(
    invocation: Invocation,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Bring a bank to this Embank's format. Older ones can't open it then.

    What a bank must have, it is given when it is opened for writing; this takes the steps that could wait, too.
    Stopped, the same command goes on.

    [bold]embank migrate --dry-run[/bold]
    """
    invocation.config()
    from embank.store.migration import migrate as bring

    report = bring(invocation.bank, dry_run=dry_run)
    if invocation.as_json:
        output.write_json(report.as_dict())
        return
    name = output.plain(report.path)
    if not report.steps:
        output.say(f"{name} has format {report.after}, the newest: nothing to do")
        return
    done = "would be brought" if dry_run else "was brought"
    output.say(f"{name} {done} from format {report.before} to {report.after}: {'; '.join(report.steps)}")


@contextmanager
def _progress(label: str, *, quiet: bool) -> Iterator[Callable[[float, str], None]]:
    doing = Doing(label)
    with showing(doing, quiet=quiet):
        yield doing.update


def _tell_copied(report: BackupReport, act: str, *, as_json: bool) -> None:
    if as_json:
        output.write_json(report.as_dict())
        return
    output.say(
        f"{act} {output.plain(report.source)} to {output.plain(report.target)}: "
        f"{output.counted(report.documents, 'document')} in {output.counted(report.collections, 'collection')}, "
        f"{output.size(report.bytes)}, read again and whole, in {output.duration(report.seconds)}"
    )


def _show(report: VerifyReport) -> None:
    if report.findings:
        table = output.table("what", "where", "collection", "found", "documents")
        for finding in report.findings:
            style = "red" if finding.severity == "damaged" else "yellow"
            output.add_row(
                table, finding.severity, finding.part, finding.collection, finding.message, _few(finding), style=style
            )
        output.show(table)
    read = (
        f"{output.plain(report.path)}: {output.counted(report.documents, 'document')} in "
        f"{output.counted(report.collections, 'collection')}, {output.counted(report.vectors, 'vector')}, "
        f"{output.size(report.bytes)} read in {output.duration(report.seconds)}"
    )
    if report.damaged:
        output.say(f"{read}: damaged; restore a backup, or write the documents named here again")
    elif report.findings:
        output.say(
            f"{read}: nothing is lost; what is derived is built again when its folder is removed, and mostly by itself"
        )
    else:
        output.say(f"{read}: whole")


def _few(finding: Finding) -> str:
    shown = ", ".join(output.one_line(each, 40) for each in finding.ids[:_IDS_SHOWN])
    return f"{shown} and {finding.affected - _IDS_SHOWN:,} more" if finding.affected > _IDS_SHOWN else shown
