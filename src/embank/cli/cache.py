"""`embank cache`: what every cache holds and how often it was right; `embank cache clear` empties them.

In memory, those of this command's own process; on disk, what all processes share. A server has its own figures.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embank.cli import output
from embank.cli.opening import open_bank
from embank.cli.options import Invocation, on_bank

if TYPE_CHECKING:
    from embank.cache.stats import CacheStats
    from embank.cache.weighed import WeighedStats
    from embank.caches import CachesSnapshot


class Action(StrEnum):
    """What to do with the caches."""

    SHOW = "show"
    CLEAR = "clear"


@on_bank
def cache(
    invocation: Invocation,
    *,
    action: Annotated[Action, typer.Argument(help="What to do.", show_default=True)] = Action.SHOW,
) -> None:
    """Show what the caches hold and how often they were right, or empty them.

    Nothing is lost by emptying them: what they held is computed again when it is asked for.

    [bold]embank cache clear[/bold]
    """
    if action is Action.CLEAR:
        _clear(invocation)
        return
    with open_bank(invocation, "read") as bank:
        state = bank.cache()
    if invocation.as_json:
        output.write_json({"bank": str(invocation.bank), **state.as_dict()})
        return
    output.show(_table(state))
    output.say(*_notes(state))


def _clear(invocation: Invocation) -> None:
    with open_bank(invocation, "change") as bank:
        before = bank.cache()
        freed_bytes = bank.clear_cache()
        disk_bytes = max(before.disk_bytes - bank.cache().disk_bytes, 0)
    if invocation.as_json:
        output.write_json({"bank": str(invocation.bank), "freed_bytes": freed_bytes, "disk_freed_bytes": disk_bytes})
    else:
        output.say(
            f"the caches are empty; {output.size(disk_bytes)} of disk and {output.size(freed_bytes)} of memory freed"
        )


def _table(state: CachesSnapshot) -> Any:
    numbers = ("entries", "holds", "limit", "hits", "misses", "hit rate", "LRU", "evicted", "oldest", "saved")
    made = output.table("cache", *numbers, numbers=numbers)
    embeddings, results = state.embeddings, state.results
    if embeddings is not None:
        lru = _rate(embeddings.lru_hit_rate, embeddings)
        output.add_row(made, "embeddings", *_figures(embeddings, lru=lru))
        disk = embeddings.second
        if disk is not None:
            limit = None if state.disk_limit_bytes is None else output.size(state.disk_limit_bytes)
            rate = _rate(disk.hits / max(disk.hits + disk.misses, 1), disk)
            output.add_row(
                made, f"  {disk.name}", disk.entries, output.size(disk.bytes), limit, disk.hits, disk.misses, rate
            )
    if results is not None:
        output.add_row(made, "search results", *_figures(results, lru=_rate(results.hit_rate, results)))
    return made


def _figures(stats: CacheStats | WeighedStats, *, lru: str | None) -> tuple[object, ...]:
    return (
        stats.entries,
        output.size(stats.used_bytes),
        output.size(stats.limit_bytes),
        stats.hits,
        stats.misses,
        _rate(stats.hit_rate, stats),
        lru,
        stats.evictions,
        output.duration(stats.oldest_age_s) if stats.entries else None,
        output.duration(stats.seconds_saved) if stats.seconds_saved else None,
    )


def _rate(rate: float, asked: Any) -> str | None:
    """A part of what was asked for; nothing where nothing was."""
    return f"{rate:.1%}" if asked.hits + asked.misses else None


def _notes(state: CachesSnapshot) -> list[str]:
    notes = ["in memory: those of whoever answered, a server or this command itself; LRU: what that would have hit"]
    if state.embeddings is None:
        notes.append("embeddings: off (cache.enabled)")
    elif state.embeddings.second is None:
        notes.append("embeddings on disk: off (cache.disk), or not to be had: see the log")
    elif state.embeddings.second_errors:
        notes.append(f"embeddings on disk: {output.counted(state.embeddings.second_errors, 'call')} failed")
    if state.results is None:
        notes.append("search results: off (cache.results)")
    return notes
