"""One trial of an engine: `python -m embank.embed.trial --model NAME --engine ct2 --precision int8 …`.

Opens the model in this process alone, embeds sample texts in batches of several sizes, and prints JSON lines:
`{"fraction", "step"}` as it goes, at last `{"done", …}` with what was measured, or `{"error", "kind"}` (exit status 3).
A process of its own, so that what one engine leaves behind is not counted against the next, and nothing of it stays.

Does not judge or remember anything: `embank.embed.choice` does.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from embank.errors import EmbankError

if TYPE_CHECKING:
    from embank.embed.engine import Engine

FAILED_STATUS = 3

BATCH_TOKENS = (256, 384, 512, 1024, 2048)
"""Sizes of a batch that are tried, in padded tokens."""

_PASS_S = 0.4
_SHORT_TEXTS, _LONG_TEXTS = 80, 20
_SAMPLE_S = 0.005


def main(arguments: list[str] | None = None) -> int:
    """Run the trial; the exit status."""
    from embank.memory import hygiene

    hygiene.apply()
    parser = argparse.ArgumentParser(prog="python -m embank.embed.trial", description=__doc__)
    for name in ("model", "engine", "precision", "settings"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--vectors", type=Path, required=True, help="where to put the probe texts' vectors, .npy")
    given = parser.parse_args(arguments)
    try:
        _say(**_measure(given), done=True)
    except (EmbankError, MemoryError) as error:
        _say(error=str(error), kind=type(error).__name__)
        return FAILED_STATUS
    return 0


def probe_texts() -> list[str]:
    """The texts whose vectors are compared: those that reference vectors are stored for, whatever the model."""
    from embank.embed.formats.verify import read_reference

    reference = read_reference("minilm")
    return [] if reference is None else reference[0]


def sample_texts() -> list[str]:
    """100 texts to time: four fifths of a sentence's length, the rest of a paragraph's; always the same."""
    words = " ".join(probe_texts()).split()
    lengths = [8 + number % 17 for number in range(_SHORT_TEXTS)] + [60 + 5 * number for number in range(_LONG_TEXTS)]
    starts = range(0, 13 * len(lengths), 13)
    doubled = words * (2 + (starts[-1] + max(lengths)) // len(words))
    return [" ".join(doubled[start : start + length]) for start, length in zip(starts, lengths, strict=True)]


def _measure(given: argparse.Namespace) -> dict[str, object]:
    import numpy as np

    from embank.embed import batching
    from embank.embed.engine import Unbudgeted, Unheard

    texts = sample_texts()
    with _watching() as peak_bytes:
        before_bytes = peak_bytes()
        started_s = time.perf_counter()
        engine = _open(given)
        load_s = time.perf_counter() - started_s

        def embed(some: list[str], tokens: int) -> np.ndarray:
            return batching.embed(
                engine, some, "passage", budget=Unbudgeted(), publisher=Unheard(), batch_tokens=tokens
            )

        np.save(given.vectors, embed(probe_texts(), engine.batch_tokens))
        rates: dict[int, float] = {}
        growth_bytes: dict[int, int] = {}
        for tokens in BATCH_TOKENS:
            embed(texts, tokens)  # once unmeasured: kernels are chosen, pages faulted in
            passes = 0
            started_s = time.perf_counter()
            while passes == 0 or time.perf_counter() - started_s < _PASS_S:
                embed(texts, tokens)
                passes += 1
            rates[tokens] = passes * len(texts) / (time.perf_counter() - started_s)
            growth_bytes[tokens] = peak_bytes() - before_bytes
    return {
        "texts_per_s": rates,
        "growth_bytes": growth_bytes,
        "load_s": load_s,
        "device": engine.device,
        "dimension": engine.fingerprint.dimension,
    }


def _open(given: argparse.Namespace) -> Engine:
    from embank.embed.engine import LoadRequest, Unbudgeted, Unheard
    from embank.embed.files.locate import locate, models_directory
    from embank.embed.settings import Settings
    from embank.registry import ENGINES, resolve

    settings = Settings.model_validate_json(given.settings)
    directory = models_directory(settings.directory)
    located = locate(given.model, directory=directory)
    request = LoadRequest(
        name=located.name,
        folder=located.folder,
        known=located.known,
        precision=given.precision,
        device=settings.device,
        settings=settings,
        models_directory=directory,
        budget=Unbudgeted(),
        publisher=Unheard(),
        on_progress=lambda fraction, step: _say(fraction=fraction, step=step),
    )
    engine: Engine = resolve(ENGINES, given.engine)(request)
    return engine


@contextmanager
def _watching() -> Iterator[Callable[[], int]]:
    """The most anonymous memory that this process held so far, in bytes, sampled every 5 ms; 0 without /proc."""
    peak_bytes = 0
    ended = threading.Event()

    def look() -> int:
        nonlocal peak_bytes
        try:
            status = Path("/proc/self/status").read_text(encoding="ascii")
        except OSError:
            return 0
        held_kib = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)
        peak_bytes = max(peak_bytes, held_kib * 1024)
        return peak_bytes

    def watch() -> None:
        while not ended.wait(_SAMPLE_S):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield look
    finally:
        ended.set()
        watcher.join()


def _say(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
