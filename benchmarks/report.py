"""What every benchmark prints: its figures beside their marks, and one JSON object."""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Mark:
    """What a figure is held against: at most or at least `value`."""

    sense: Literal["<=", "<", ">="]
    value: float

    def met(self, figure: float) -> bool:
        """Whether the figure keeps to it."""
        if self.sense == ">=":
            return figure >= self.value
        return figure <= self.value if self.sense == "<=" else figure < self.value


def interval(values: Sequence[float], *, draws: int = 10_000, seed: int = 7) -> tuple[float, float]:
    """The 95 % interval of the median (bootstrap): one value that a neighbour disturbed must not decide."""
    chosen = random.Random(seed)
    medians = sorted(statistics.median(chosen.choices(values, k=len(values))) for _ in range(draws))
    return medians[draws // 40], medians[-draws // 40]


def publish(
    name: str,
    figures: Mapping[str, float | None],
    marks: Mapping[str, Mark],
    detail: Mapping[str, Any],
    *,
    as_json: bool,
) -> bool:
    """Print a table of all figures (`None`: not measured here), then the JSON object if it was asked for.

    Returns whether every figure that was measured keeps to its mark.
    """
    table = Table(title=name)
    all_met = True
    for column in ("figure", "measured", "mark", ""):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for key, figure in figures.items():
        mark = marks.get(key)
        wanted = "" if mark is None else f"{mark.sense} {mark.value:g}"
        met = None if mark is None or figure is None else mark.met(figure)
        verdict = {None: "", True: "met", False: "MISSED"}[met]
        all_met &= met is not False
        table.add_row(key, "not measured" if figure is None else f"{figure:,.4g}", wanted, verdict)
    Console().print(table)
    if as_json:
        machine = {"python": platform.python_version(), "system": platform.platform(), "cpus": os.cpu_count()}
        print(json.dumps({"benchmark": name, "figures": dict(figures), "detail": dict(detail), "machine": machine}))
    return all_met
