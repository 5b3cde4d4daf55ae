"""Memory over time, Embank and sentence-transformers on the same work: `python -m benchmarks.chart`.

Each loads the model, embeds 2,000 texts in calls of 512, lets the model go and waits two seconds, in a process of its
own that is sampled at 100 Hz from outside. Writes docs/figures/embed-memory.svg.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import corpora
from benchmarks.rivals import Rival, has_sentence_transformers

TARGET = Path(__file__).parents[1] / "docs" / "figures" / "embed-memory.svg"
TEXTS = 2_000
MB = 1e6


def main() -> None:
    """Run both, one after the other, and draw."""
    if not has_sentence_transformers():
        sys.exit("torch and sentence-transformers are not installed: make setup-full")
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "embank"
    from matplotlib import pyplot as plt

    name, texts = corpora.wordnet(TEXTS)
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    with tempfile.TemporaryDirectory() as folder:
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
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(TARGET, metadata={"Date": None, "Creator": None})
    print(TARGET)


if __name__ == "__main__":
    main()
