"""`embank models warm` and `convert`: a model made ready before it is needed, each step with its time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from embank.cli import output
from embank.cli.options import Invocation, configured
from embank.errors import InvalidInput

if TYPE_CHECKING:
    from embank.cli.progress import Doing
    from embank.config import Config
    from embank.embed.model import Precision
    from embank.events.stream import Stream
    from embank.memory.governor import Governor

PrecisionName = Annotated[
    str | None, typer.Option("--precision", metavar="NAME", help="int8, float32, float16, bfloat16; else as set.")
]
EngineName = Annotated[
    str | None, typer.Option("--engine", metavar="NAME", help="ct2, onnx, static, …; else the model's own.")
]


@configured
def warm(
    invocation: Invocation,
    *,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A model's name or folder; else the one that is set.")
    ] = None,
    precision: PrecisionName = None,
    engine: EngineName = None,
) -> None:
    """Find a model, convert it where needed, open it, embed a text, and compare it with the original.

    [bold]embank models warm minilm --precision float32[/bold]
    """
    config = invocation.config()
    from embank.embed.files.prepare import warm as make_ready
    from embank.embed.loader import Loader

    embed = config.section("embed")
    with _governed(config) as (governor, stream), _steps(name or embed.model, invocation) as steps:
        loader = Loader(
            embed,
            governor=governor,
            stream=stream,
            on_progress=lambda _name, fraction, step: steps.told(fraction, step),
            remote=config.section("remote"),
        )
        try:
            warmed = make_ready(loader, name, precision=_precision(precision), engine=engine)
        finally:
            loader.close()
    if invocation.as_json:
        output.write_json({**asdict(warmed), "steps": steps.seconds()})
        return
    agreement = "no reference to compare with" if warmed.least_cosine is None else f"{warmed.least_cosine:.4f} at least"
    output.say(
        *steps.lines(),
        f"  first text: {output.duration(warmed.first_text_s)}",
        f"{warmed.name} is ready in {output.duration(warmed.load_s)}: {warmed.engine}, {warmed.precision}, "
        f"{warmed.dimension} dimensions, {output.size(warmed.used_bytes)} of memory",
        f"cosine to the original: {agreement}",
    )


@configured
def convert(
    invocation: Invocation,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME_OR_FOLDER", help="A model's name, OWNER/NAME, or a folder.")],
    precision: PrecisionName = None,
    engine: EngineName = None,
    force: Annotated[bool, typer.Option("--force", help="Anew, even if it is there.")] = False,
) -> None:
    """Convert a model into the form that its engine opens, and compare it with the original.

    [bold]embank models convert minilm --precision int8[/bold]
    """
    config = invocation.config()
    from embank.embed.files.prepare import convert as make

    with _governed(config) as (governor, stream), _steps(name, invocation) as steps:
        made = make(
            name,
            settings=config.section("embed"),
            precision=_precision(precision),
            engine=engine,
            anew=force,
            budget=governor,
            publisher=stream,
            on_progress=steps.told,
        )
    files = made.files
    if invocation.as_json:
        output.write_json(
            {
                "name": files.name,
                "engine": files.engine,
                "precision": files.precision,
                "folder": str(files.folder),
                "bytes": files.bytes,
                "made": made.made,
                "seconds": made.seconds,
                "steps": steps.seconds(),
            }
        )
        return
    was = f"converted in {output.duration(made.seconds)}" if made.made else "is there, whole"
    output.say(
        *steps.lines(),
        f"{output.plain(files.name)} in {files.precision} for {files.engine} {was}: {output.size(files.bytes)} in "
        f"{files.folder}",
    )


class Steps:
    """The steps of a load as they come, with their times."""

    def __init__(self, show: Doing) -> None:
        self._show = show
        self._begun: list[tuple[str, float]] = []
        self._ended_s = 0.0
        self._over = False

    def told(self, fraction: float, step: str) -> None:
        """Take a step that has come, or the same one further on."""
        name = step.split(" ", 1)[0] if step.startswith("converting") else step
        now_s = time.monotonic()
        self._ended_s = now_s
        if fraction >= 1:  # it is ready: no step of its own
            self._show.update(fraction, step)
            self._over = True
            return
        if name and (not self._begun or self._begun[-1][0] != name):
            self._begun.append((name, now_s))
        self._show.update(fraction, step)

    def end(self) -> None:
        """The last step is over."""
        if not self._over:
            self._ended_s = time.monotonic()

    def seconds(self) -> dict[str, float]:
        """Each step's time, in their order."""
        ends = [*(begun_s for _, begun_s in self._begun[1:]), self._ended_s]
        took: dict[str, float] = {}
        for (name, begun_s), end_s in zip(self._begun, ends, strict=False):
            took[name] = took.get(name, 0.0) + max(end_s - begun_s, 0.0)
        return took

    def lines(self) -> list[str]:
        """For people."""
        return [f"  {name}: {output.duration(seconds)}" for name, seconds in self.seconds().items()]


@contextmanager
def _steps(name: str, invocation: Invocation) -> Iterator[Steps]:
    from embank.cli.progress import Doing, showing

    doing = Doing(name)
    steps = Steps(doing)
    with showing(doing, quiet=invocation.as_json):
        yield steps
        steps.end()


@contextmanager
def _governed(config: Config) -> Iterator[tuple[Governor, Stream]]:
    """Memory and events as an open bank has them."""
    from embank.events.stream import Stream
    from embank.memory.governor import Governor
    from embank.memory.meter import SystemMeter, machine_limit
    from embank.system.clock import SystemClock

    stream = Stream()
    memory = config.section("memory")
    governor = Governor(
        memory.budget.resolve(machine_limit()),
        meter=SystemMeter(),
        clock=SystemClock(),
        stream=stream,
        baseline_bytes=0,
        settings=memory,
    )
    try:
        yield governor, stream
    finally:
        stream.close()


def _precision(text: str | None) -> Precision | None:
    from embank.embed.model import Precision

    known = get_args(Precision)
    if text is not None and text not in known:
        raise InvalidInput(f"unknown precision {text!r}: there are {', '.join(known)}", value=text)
    return text  # type: ignore[return-value]
