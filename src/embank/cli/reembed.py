"""`embank reembed`: every document of a collection gets vectors of another model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from embank.cli import errors, output
from embank.cli.opening import open_own_bank, open_own_collection
from embank.cli.options import Invocation, on_bank
from embank.cli.progress import Progress, print_line, showing
from embank.errors import EmbankError, InvalidInput

if TYPE_CHECKING:
    from embank.bank import Bank
    from embank.collection import Collection
    from embank.reembedding import ReembedReport
    from embank.store.protocol import Reembedding


@on_bank
def reembed(
    invocation: Invocation,
    *,
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection.")] = "default",
    precision: Annotated[
        str | None, typer.Option(metavar="NAME", help="The precision of its weights: int8, float32 …")
    ] = None,
    engine: Annotated[str | None, typer.Option(metavar="NAME", help="What computes it: ct2, onnx, static …")] = None,
    force: Annotated[bool, typer.Option("--force", help="Even if its vectors are of that model already.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only tell how far one is that was begun.")] = False,
    abandon: Annotated[bool, typer.Option("--abandon", help="Throw away one that was begun.")] = False,
) -> None:
    """Give every document of a collection vectors of another model.

    Searches and the collection's own vectors stay as they are until all is done; then the new ones take their place at
    once. Ctrl-C stops it safely; the same command goes on.

    [bold]embank reembed notes --model wordllama[/bold]

    [bold]embank reembed notes --status[/bold]
    """
    asks = [precision, engine, invocation.model]
    if ((status or abandon) and (force or any(asks))) or (status and abandon):
        raise InvalidInput("--status and --abandon stand alone: without a model, --force, or each other")
    if status:
        with open_own_collection(invocation, collection, "read") as opened:
            _tell_state(invocation, opened)
    elif abandon:
        with open_own_collection(invocation, collection, "change") as opened:
            _abandon(invocation, opened)
    else:
        given = {"precision": precision, "engine": engine, "force": force}
        with open_own_bank(invocation, "change") as bank:
            report = _run(invocation, bank, collection, given)
        _tell_report(invocation, report)


def _run(invocation: Invocation, bank: Bank, name: str, given: dict[str, Any]) -> ReembedReport:
    opened = bank.collection(name)
    progress = ReembedProgress(f"re-embedding {name}", bank.memory)
    try:
        with showing(progress):
            return opened.reembed(invocation.model, **given, on_progress=progress.update_reembedding)
    except KeyboardInterrupt as error:
        state = opened.reembedding()
        told = f"interrupted before anything was embedded; `embank reembed {opened.name} …` begins again"
        if state is not None:
            told = f"interrupted: {how_far(state)}; {_way_on(state)}"
        errors.tell_failure(
            "KeyboardInterrupt",
            told,
            code=errors.INTERRUPTED,
            as_json=invocation.as_json,
            fields={"reembedding": None if state is None else state.as_dict()},
        )
        raise typer.Exit(errors.INTERRUPTED) from error
    except EmbankError:
        state = opened.reembedding()
        if state is not None and not invocation.as_json:
            print_line(f"not finished: {how_far(state)}; searches use the old vectors; {_way_on(state)}")
        raise


class ReembedProgress(Progress):
    """Counts documents, of which those of earlier runs are done, too."""

    remaining = 0

    def update_reembedding(self, report: ReembedReport) -> None:
        """Take the figures of a live report."""
        self.seen, self.chunks, self.seconds = report.embedded, report.chunks, report.seconds
        self.bytes_done, self.bytes_total = report.documents - report.remaining, report.documents
        self.remaining = report.remaining

    @property
    def left_s(self) -> float | None:
        """Seconds to go at the rate of this run."""
        return self.seconds * self.remaining / self.seen if self.seen else None


def _tell_state(invocation: Invocation, opened: Collection) -> None:
    state = opened.reembedding()
    if invocation.as_json:
        output.write_json({"collection": opened.name, "reembedding": None if state is None else state.as_dict()})
    elif state is None:
        output.say(f"no re-embedding of {opened.name} is under way")
    else:
        output.say(f"{opened.name}: {how_far(state)}; {_way_on(state)}")


def _abandon(invocation: Invocation, opened: Collection) -> None:
    state = opened.abandon_reembedding()
    if invocation.as_json:
        output.write_json({"collection": opened.name, "abandoned": None if state is None else state.as_dict()})
    elif state is None:
        output.say(f"no re-embedding of {opened.name} was under way")
    else:
        output.say(f"thrown away: {how_far(state)}; {opened.name} keeps the vectors that it has")


def _tell_report(invocation: Invocation, report: ReembedReport) -> None:
    if invocation.as_json:
        output.write_json({"bank": str(invocation.bank), **report.as_dict()})
        return
    if report.outcome == "nothing to do":
        output.say(f"nothing to do: {report.collection} has vectors of {report.fingerprint} already (--force: anew)")
        return
    rate = report.chunks / report.seconds if report.seconds else 0
    earlier = f", {output.counted(report.resumed, 'document')} by an earlier run" if report.resumed else ""
    output.say(
        f"embedded {output.counted(report.embedded, 'document')} as {output.counted(report.chunks, 'passage')} in "
        f"{output.duration(report.seconds)} ({rate:,.0f} texts/s){earlier}",
        f"{report.collection} now has vectors of {report.fingerprint}"
        + (f" in place of {report.replaced}" if report.replaced else ""),
    )


def how_far(state: Reembedding) -> str:
    """One line on a re-embedding that is not finished."""
    done = state.documents - state.remaining
    return (
        f"{state.fraction:.0%} ({done:,} of {output.counted(state.documents, 'document')}) embedded with "
        f"{state.space.fingerprint}"
    )


def _way_on(state: Reembedding) -> str:
    command = f"embank reembed {state.collection}"
    return f"`{command}` goes on, `{command} --abandon` throws it away"
