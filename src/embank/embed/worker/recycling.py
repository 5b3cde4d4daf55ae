"""When a worker is due to be replaced: it has grown, aged, answered often enough, or idled.

Growth is anonymous memory over what the worker held once it was warm, when it had every buffer that it needs; as it is
taken once a worker, what creeps up over days is seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embank.embed.worker.channel import Channel, Lost
    from embank.embed.worker.settings import Settings

WARM_CALLS = 16
"""So many answers belong to a worker's warming up; and so often it is measured when it is busy."""


def look_now(channel: Channel, settings: Settings) -> bool:
    """Whether an answer is one after which to ask `due`; it is also asked once a second."""
    limit = settings.recycle_calls
    return channel.calls % WARM_CALLS == 0 or (limit is not None and channel.calls >= limit)


def due(channel: Channel, settings: Settings, *, now_s: float, in_use: bool) -> str | None:
    """Why a ready worker is to be replaced: growth, calls, age or idle; None: it may stay.

    Takes its floor when it is warm.
    """
    held = channel.sample()
    floor = channel.floor_bytes
    if floor is None:
        if channel.calls >= WARM_CALLS:
            channel.floor_bytes = held
    elif held - floor >= settings.recycle_growth.resolve(floor):
        return "growth"
    if settings.recycle_calls is not None and channel.calls >= settings.recycle_calls:
        return "calls"
    born_s = channel.started_at_s if channel.ready_at_s is None else channel.ready_at_s
    if settings.recycle_age_s is not None and now_s - born_s >= settings.recycle_age_s:
        return "age"
    idle_s = 0.0 if in_use else now_s - channel.used_at_s
    if settings.recycle_idle_s is not None and idle_s >= settings.recycle_idle_s:
        return "idle"
    return None


def cause_of(lost: Lost | None, why: Exception | None, retiring: str | None) -> tuple[str, str]:
    """The cause and detail of `WorkerEnded`: it was lost, its load failed, it was retired, or closed."""
    if lost is not None:
        return lost.cause, lost.detail
    if why is not None:
        return "load failed", str(why)
    return (f"recycled: {retiring}", "") if retiring else ("closed", "")
