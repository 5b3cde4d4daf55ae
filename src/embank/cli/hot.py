"""`embank hot show` and `rebuild`: which documents are read most, and the small copy of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from embank.cli import output
from embank.cli.opening import open_own_collection
from embank.cli.options import CollectionName, Invocation, on_bank
from embank.cli.progress import Doing, showing

if TYPE_CHECKING:
    from embank.store.hot.counts import Counted
    from embank.store.hot.reports import HotReport, HotStatus


@on_bank
def show(
    invocation: Invocation,
    *,
    collection: CollectionName = "default",
    top: Annotated[int, typer.Option("--top", metavar="N", min=0, help="How many documents.")] = 10,
) -> None:
    """Show the documents that are read most, and what of them the hot tier holds.

    Counted is what searches find and `get` fetches, in the process that writes the bank.

    [bold]embank hot show -c notes --top 20[/bold]
    """
    with open_own_collection(invocation, collection, "read") as opened:
        status, counted = opened.hot.status(), opened.hot.top(top)
    if invocation.as_json:
        documents = [{"id": each.name, "accesses": each.count, "error": each.error} for each in counted]
        output.write_json({"hot": status.as_dict(), "top": documents})
        return
    _show_top(counted)
    _show_status(status)


@on_bank
def rebuild(
    invocation: Invocation,
    *,
    collection: CollectionName = "default",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would come in.")] = False,
) -> None:
    """Make the hot tier anew from what was counted: a small copy that answers while the index is missing.

    Whether it may answer is `hot.answers`, which is never unless you say when_degraded; such answers say that they are
    degraded.

    [bold]embank hot rebuild -c notes --dry-run[/bold]
    """
    doing = Doing(f"copying what is read most of {collection}")

    def tell(report: HotReport) -> None:
        doing.update(report.fraction, f"{report.copied:,} of {output.counted(report.rows, 'passage')} copied")

    with (
        open_own_collection(invocation, collection, "read" if dry_run else "change") as opened,
        showing(doing, quiet=invocation.as_json),
    ):
        report = opened.hot.rebuild(dry_run=dry_run, on_progress=tell)
    if invocation.as_json:
        output.write_json(report.as_dict())
    else:
        _tell(report)


def _show_top(counted: list[Counted]) -> None:
    if not counted:
        return
    made = output.table("document", "accesses", "for sure", numbers=["accesses", "for sure"])
    for each in counted:
        output.add_row(made, output.one_line(each.name, 80), f"{each.count:,}", f"{each.least:,}")
    output.show(made)


def _show_status(status: HotStatus) -> None:
    name = output.plain(status.collection)
    if not status.counters:
        output.say(f"{name}: nothing is counted (hot.counters = 0)")
    else:
        output.say(
            f"{name}: {status.accesses:,} accesses of {output.counted(status.counted, 'document')} counted; any other "
            f"had {status.uncounted_most:,} at most"
        )
    if status.at is None:
        output.say(f"there is no tier: embank hot rebuild -c {name}")
    else:
        output.say(
            f"the tier holds {output.counted(status.rows, 'passage')} of "
            f"{output.counted(status.documents, 'document')}, {output.size(status.bytes)}, "
            f"{'in a forest of Annoy' if status.searched == 'annoy' else 'scanned'}; made {output.moment(status.at)}, "
            f"{output.counted(status.behind, 'change')} ago"
        )
    output.say(f"answers from it: {status.answers} (hot.answers)")
    if status.reason is not None:
        output.say(f"why: {status.reason}")


def _tell(report: HotReport) -> None:
    name = output.plain(report.collection)
    if report.outcome == "nothing to do":
        output.say(f"{name}: nothing to do, no document that is there was counted")
        return
    what = (
        f"{output.counted(report.rows, 'passage')} of {output.counted(report.documents, 'document')}, "
        f"{output.size(report.bytes)}, {'in a forest of Annoy' if report.searched == 'annoy' else 'to be scanned'}"
    )
    if report.outcome == "would rebuild":
        output.say(f"{name}: would copy {what}")
    else:
        output.say(f"{name}: copied {what}, in {output.duration(report.seconds)}")
    if report.coolest is not None:
        coolest = report.coolest
        output.say(
            f"the least read of them, {output.one_line(coolest.name, 80)}: {coolest.least:,} to {coolest.count:,} times"
        )
    if report.too_large:
        output.say(
            f"{output.counted(report.too_large, 'document')} with more passages than there was room for stay out"
        )
