"""`embank models bench`: which engine computes a model fastest here, and what `embed.engine = auto` takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embank.cli import output
from embank.cli.options import Invocation, configured

if TYPE_CHECKING:
    from embank.embed.choice import Choice

_NAME = typer.Argument(metavar="[NAME]", help="A known model or a folder; by default the one in use.")
_AGAIN = typer.Option("--again", help="Measure anew, whatever is remembered.")


@configured
def bench(
    invocation: Invocation,
    *,
    name: Annotated[str | None, _NAME] = None,
    again: Annotated[bool, _AGAIN] = False,
) -> None:
    """Measure every engine that is installed here on a model: speed, memory, and how near its vectors are.

    What is measured is remembered, and is what `--set embed.engine=auto` chooses from: the fastest whose cosine to the
    original is at least embed.quality and which fits into the memory budget.

    [bold]embank models bench minilm[/bold]
    """
    config = invocation.config()
    embed, memory = config.section("embed"), config.section("memory")
    from embank.embed.choice import choose
    from embank.embed.files.locate import locate, models_directory
    from embank.memory.meter import machine_limit

    directory = models_directory(embed.directory)
    budget_bytes = memory.budget.resolve(machine_limit())
    located = locate(name or embed.model, directory=directory)
    with _telling(quiet=invocation.as_json) as on_step:
        choice = choose(located, embed, directory, memory_bytes=budget_bytes, again=again, on_step=on_step)
    facts = _facts(choice, quality=embed.quality, memory_bytes=budget_bytes)
    if invocation.as_json:
        output.write_json({"model": located.name, "remembered": choice.remembered, "engines": facts})
        return
    made = output.table(
        *("engine", "precision", "texts/s", "cosine", "memory", "load", "batch", "verdict"),
        numbers=["texts/s", "cosine", "memory", "load", "batch"],
    )
    for fact in facts:
        cells = ["–"] * 5
        if not fact["problem"]:
            cells = [
                f"{fact['texts_per_s']:,.0f}",
                "–" if fact["cosine"] is None else f"{fact['cosine']:.4f}",
                output.size(fact["growth_bytes"]),
                output.duration(fact["load_s"]),
                f"{fact['batch_tokens']:,}",
            ]
        output.add_row(made, fact["engine"], fact["precision"], *cells, fact["verdict"])
    output.show(made)
    output.say(
        f"{located.name}: least cosine {embed.quality}, at most {output.size(budget_bytes)}"
        f"{'; remembered, --again measures anew' if choice.remembered else ''}"
    )


def _facts(choice: Choice, *, quality: float, memory_bytes: int) -> list[dict[str, Any]]:
    verdict = choice.verdict
    return [
        {**asdict(trial), "verdict": verdict(trial, quality=quality, memory_bytes=memory_bytes)}
        for trial in choice.trials
    ]


@contextmanager
def _telling(*, quiet: bool) -> Iterator[Callable[[float, str], None]]:
    """A bar on a terminal, a line an engine elsewhere, on standard error."""
    if quiet:
        yield lambda _fraction, _step: None
    elif sys.stderr.isatty():
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (BarColumn(), TextColumn("{task.percentage:>3.0f} %  {task.description}"))
        with Progress(*columns, console=output.console(sys.stderr), transient=True) as progress:
            task = progress.add_task("", total=1.0)
            yield lambda fraction, step: progress.update(task, completed=fraction, description=output.plain(step))
    else:
        yield _line_an_engine


def _line_an_engine(fraction: float, step: str) -> None:
    if ":" not in step:
        sys.stderr.write(f"{fraction:4.0%}  {step}\n")
        sys.stderr.flush()
