"""Memory over time, Embank and sentence-transformers on the same work: `python -m benchmarks.chart`.

Each loads the model, embeds 2,000 texts in calls of 512, lets the model go and waits two seconds, in a process of its
own that is sampled at 100 Hz from outside. Writes docs/figures/embed-memory.svg.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import corpora
from benchmarks.rivals import Rival, has_sentence_transformers

TARGET = Path(__file__).parents[1] / "docs" / "figures" / "embed-memory.svg"
TEXTS = 2_000
MB = 1e6


@contextmanager
def drawing(target: Path, *, rows: int = 1, size: tuple[float, float] = (8, 4)) -> Iterator[list[Any]]:
    """Panels below each other, written to an SVG file at the end: the same bytes whenever the same is drawn."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "embank"
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(rows, 1, figsize=size, layout="constrained", squeeze=False)
    yield [row[0] for row in panels]
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def main() -> None:
    """Run both, one after the other, and draw."""
    if not has_sentence_transformers():
        sys.exit("torch and sentence-transformers are not installed: make setup-full")
    name, texts = corpora.wordnet(TEXTS)
    with tempfile.TemporaryDirectory() as folder, drawing(TARGET) as (axes,):
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps(texts))
        for label, *options in (("sentence-transformers",), ("embank", "ct2", "float32"), ("embank", "ct2", "int8")):
            with Rival(label, file, *options) as rival:
                rival.release()
                time.sleep(2)
            seconds, held = zip(*rival.samples, strict=True)
            axes.plot(seconds, [each / MB for each in held], label=" ".join((label, *options)))
        axes.set(xlabel="seconds", ylabel="anonymous + shared memory, MB", ylim=(0, None), xlim=(0, None))
        axes.set_title(f"{TEXTS:,} texts of {name}: load, embed, let go")
        axes.legend()
    print(TARGET)


if __name__ == "__main__":
    main()
