"""`embank memory`: both ledgers, the ladder with where it stands, and what was done about memory lately.

Of this command's own process: what a bank takes here, under these settings. A server has its own figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from embank.cli import output
from embank.cli.opening import open_bank
from embank.cli.options import Invocation, on_bank

if TYPE_CHECKING:
    from embank.memory.snapshot import MemorySnapshot

_BAR_CELLS = 60


@on_bank
def memory(
    invocation: Invocation,
    *,
    warm: Annotated[bool, typer.Option("--warm", help="Load the model first, so that its bytes are counted.")] = False,
) -> None:
    """Show where memory stands against the budget: ledgers, the ladder, the latest actions.

    [bold]embank memory --warm --memory 256MB[/bold]
    """
    with open_bank(invocation, "read", tells_loads=True) as bank:
        if warm:
            bank.warm()
        state = bank.memory()
    if invocation.as_json:
        output.write_json({"bank": str(invocation.bank), **state.as_dict()})
        return
    _tell(state)


def _tell(state: MemorySnapshot) -> None:
    output.say(_headline(state))
    output.show(_bar(state))
    output.show(_ledger(state), _ladder(state))
    if state.last_actions:
        output.show(_actions(state))
    else:
        output.say("nothing had to be done about memory so far")
    output.say(*_notes(state))


def _headline(state: MemorySnapshot) -> str:
    budget = f"{output.size(state.real_bytes)} of the budget of {output.size(state.budget_bytes)}"
    if not state.limited:
        budget = f"{output.size(state.real_bytes)} held, no budget (memory.enabled is off)"
    tree = f"process tree {output.size(state.tree_bytes)} in {output.counted(state.processes, 'process', 'processes')}"
    group = "no control group"
    if state.cgroup_bytes is not None:
        limit = "no limit" if state.cgroup_limit_bytes is None else f"of {output.size(state.cgroup_limit_bytes)}"
        group = f"control group {output.size(state.cgroup_bytes)}, {limit}"
    return f"{budget}: {tree}; {group}; the tighter one is the {_CONSTRAINTS[state.constraint]}"


_CONSTRAINTS = {"budget": "budget", "cgroup": "control group", "managed": "sum of what consumers say"}


def _bar(state: MemorySnapshot) -> Any:
    """Floor, consumers and the rest in the colours of the table below it."""
    rest_bytes = max(state.real_bytes - _floor(state) - state.managed_bytes, 0)
    parts = [(_floor(state), "blue"), (state.managed_bytes, "green"), (rest_bytes, "yellow")]
    return output.bar(parts, whole=max(state.budget_bytes, state.real_bytes), width=_BAR_CELLS)


def _floor(state: MemorySnapshot) -> int:
    return min(state.floor_bytes, state.real_bytes)


def _ledger(state: MemorySnapshot) -> Any:
    made = output.table("ledger", "bytes", "", numbers=("bytes",))
    floor = "the interpreter, libraries and what else can't be released"
    if state.unmanaged_growth_bytes is None:
        floor = "not taken yet: that is when the first model is warm (--warm)"
    output.add_row(made, "floor", output.size(state.floor_bytes), floor)
    output.add_row(made, "managed", output.size(state.managed_bytes), "what consumers say they hold")
    for name, held in sorted(_summed(state.consumers).items(), key=lambda each: (-each[1], each[0])):
        output.add_row(made, f"  {name}", output.size(held), "")
    growth = state.unmanaged_growth_bytes
    output.add_row(
        made, "unmanaged", None if growth is None else output.size(growth), "growth that nobody accounts for"
    )
    output.add_row(made, "reserved", output.size(state.reserved_bytes), "promised to work under way")
    output.add_row(made, "available", output.size(state.available_bytes), "can be reserved now")
    output.add_row(made, "peak", output.size(state.peak_bytes), "the highest reading so far")
    return made


def _summed(consumers: tuple[tuple[str, int], ...]) -> dict[str, int]:
    summed: dict[str, int] = {}
    for name, held in consumers:
        summed[name] = summed.get(name, 0) + held
    return summed


def _ladder(state: MemorySnapshot) -> Any:
    """The rungs, highest first, and where pressure stands between them."""
    made = output.table("rung", "from", "until", "", numbers=("from", "until"))
    here = f"◀ {state.pressure:.0%} of the room above the floor"
    placed = False
    for rung in reversed(state.rungs):
        if not placed and state.pressure >= rung.enter:
            output.add_row(made, "", "", "", here)
            placed = True
        output.add_row(made, rung.name, f"{rung.enter:.0%}", f"{rung.leave:.0%}", "active" if rung.active else "")
    if not placed:
        output.add_row(made, "", "", "", here)
    return made


def _actions(state: MemorySnapshot) -> Any:
    made = output.table("when", "rung", "what", "why", "freed", "took", numbers=("freed", "took"))
    for action in state.last_actions:
        output.add_row(
            made,
            output.moment(action.at),
            action.rung or None,
            action.action,
            action.why,
            output.size(action.freed_bytes),
            output.duration(action.seconds) + ("" if action.done else ", goes on"),
        )
    return made


def _notes(state: MemorySnapshot) -> list[str]:
    stall = state.stall
    stalled = "kernel pressure: this kernel does not tell (no PSI)"
    if stall is not None:
        stalled = (
            f"kernel pressure of the {_SCOPES[stall.scope]}: tasks waited for memory {stall.some10_pct:.1f} % of the "
            f"last 10 s, {stall.some300_pct:.1f} % of the last 5 minutes"
        )
    trim = (
        f"allocator: can't be trimmed here, since {state.trim_support}" if state.trim_support else "allocator: trimmed"
    )
    notes = [stalled, f"{trim}, {output.counted(state.trims, 'time')}" if not state.trim_support else trim]
    monitor = state.monitor
    if monitor is None:
        notes.append("monitor: off")
    else:
        cost = "" if monitor.cpu_pct is None else f", at {monitor.cpu_pct:.2f} % of a processor"
        notes.append(f"monitor: {output.counted(monitor.samples, 'sample')}{cost}")
    if state.dry_run:
        notes.append(f"dry run: it would {', '.join(state.would)}" if state.would else "dry run: it would do nothing")
    return notes


_SCOPES = {"cgroup": "control group", "machine": "machine"}
