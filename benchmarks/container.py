"""A real container limit: `python -m benchmarks.container --json [PART …] [--chart FILE.svg]`.

Embank and three pipelines as people build them (`benchmarks.pipelines` says which, and what they do), each inside a
memory control group of its own (`benchmarks.confined`), which the kernel enforces by killing.

within: oom_kills         inside 256 MB, 20,000 passages of mixed length embedded and indexed by Embank, 2,000 searches
                          in between: processes that the kernel killed; `stored` and `found`, documents at the end;
                          `peak_mb` with page cache, `held_peak_mb` without, `seconds`
least: min_limit_mb_…     the least limit, in steps of 8 MB, inside which a pipeline does a fortieth of that work (500
                          passages, 50 searches) with everything stored and found and nobody killed, in at most three
                          times what it takes without a limit (and a minute): below, it would only read its own program
                          from the disk again and again
min_limit_ratio           ours over that of the best peer
whole: whole_limit_mb     only where asked for: the least limit, from ours on, inside which Embank does the whole work

The smaller work favours the peers, whose memory grows with what they store. Peers are installed into environments of
their own when first needed. Where no control group can be made (another system, not root), every figure is null, and
the reason is said.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import corpora
from benchmarks.confined import Ended, confined, why_not
from benchmarks.peers import PIPELINES, python_of
from benchmarks.report import Mark, publish
from benchmarks.rivals import model_folder, onnx_folder

MARKS = {
    "oom_kills": Mark("<=", 0),
    "stored": Mark(">=", 20_000),
    "found": Mark(">=", 20_000),
    "min_limit_ratio": Mark("<=", 0.5),
}
MB = 1_000_000
LIMIT_MB = 256
STEP_MB = 8
PASSAGES = 20_000
FEW = 500
QUERIES = 200
ROOT = Path(__file__).parents[1]
_FREE_MB = 8_192
_TIMEOUT_S = 1_200.0

Figures = dict[str, float | None]


class Work:
    """The corpora in a folder, and runs of pipelines over them inside limits; keeps what became of each run."""

    def __init__(self, room: Path) -> None:
        self._room = room
        self.corpus, texts = corpora.wordnet(PASSAGES)
        self._files = {count: self._write(texts[:count]) for count in (FEW, PASSAGES)}
        self._queries = room / "queries.txt"
        # The first words of passages: none is a passage itself.
        asked = [" ".join(text.split()[:6]) for text in texts[:: PASSAGES // QUERIES][:QUERIES]]
        self._queries.write_text("\n".join(asked))
        self._onnx = onnx_folder(room)
        self.log: list[dict[str, Any]] = []

    def run(self, name: str, python: Path, *, count: int, limit_mb: int, timeout_s: float = _TIMEOUT_S) -> Ended:
        """One run; whether it did all of its work is for `did_all` to say."""
        with tempfile.TemporaryDirectory(dir=self._room) as folder:
            model = model_folder() if name == "sentence-transformers-chroma" else self._onnx
            command = [str(python), "-m", "benchmarks.pipelines", name, str(self._files[count])]
            command += [str(self._queries), folder, str(model)]
            environ = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
            if name != "embank":
                environ.pop("PYTHONPATH", None)  # theirs is the environment that they were installed into
            ended = confined(command, limit_bytes=limit_mb * MB, timeout_s=timeout_s, environ=environ)
        told = {key: value for key, value in asdict(ended).items() if key not in ("output", "errors")}
        reason = "" if did_all(ended, count) else (ended.errors.strip().splitlines() or [""])[-1][-300:]
        said = answer(ended)
        self.log.append({"name": name, "passages": count, "limit_mb": limit_mb, **said, **told, "error": reason})
        outcome = "done" if did_all(ended, count) else f"code {ended.code}, {ended.oom_kills} killed {reason}"
        print(f"{name} in {limit_mb} MB: {outcome} ({ended.seconds:.0f} s)", file=sys.stderr, flush=True)
        return ended

    def _write(self, texts: list[str]) -> Path:
        file = self._room / f"{len(texts)}.jsonl"
        lines = (json.dumps({"id": f"p{number:06d}", "text": text}) for number, text in enumerate(texts))
        file.write_text("\n".join(lines) + "\n")
        return file


def answer(ended: Ended) -> dict[str, Any]:
    """What the pipeline said in the end; empty where it did not come so far."""
    lines = ended.output.splitlines()
    if ended.code or not lines:
        return {}
    said: dict[str, Any] = json.loads(lines[-1])
    return said


def did_all(ended: Ended, count: int) -> bool:
    """Whether everything was stored and found, and nobody killed."""
    said = answer(ended)
    return not ended.oom_kills and bool(said) and said["stored"] == said["found"] == count


def least(fits: Callable[[int], bool], *, guess: int, most: int) -> int | None:
    """The least whole number from 1 to `most` that fits, where all above one that fits do; `None` where none does.

    Gallops from the guess until one fits and one does not, then halves in between.
    """
    low, high = 0, most + 1  # `low` does not fit, `high` does or was not asked
    at, stride = min(max(guess, 1), most), 1
    while low + 1 < high:
        if fits(at):
            high = at
            at = max(high - stride, low + 1)
        else:
            low = at
            at = min(low + stride, high - 1)
        if low and high <= most:
            at = (low + high) // 2
        stride *= 2
    return high if high <= most else None


def within(work: Work) -> Figures:
    """The whole work by Embank inside 256 MB."""
    ended = work.run("embank", Path(sys.executable), count=PASSAGES, limit_mb=LIMIT_MB)
    said = answer(ended)
    return {
        "oom_kills": ended.oom_kills + (ended.code == 137 and not ended.oom_kills),
        "stored": said.get("stored", 0),
        "found": said.get("found", 0),
        "peak_mb": ended.peak_bytes / MB,
        "held_peak_mb": ended.held_peak_bytes / MB,
        "seconds": ended.seconds,
    }


def min_limit_mb(work: Work, name: str, python: Path) -> int | None:
    """By bisection; what it takes without a limit gives the guess and the time it may take."""
    free = work.run(name, python, count=FEW, limit_mb=_FREE_MB)
    if not did_all(free, FEW):
        raise RuntimeError(f"{name} does not do its work even without a limit: {free.errors[-1_000:]}")
    timeout_s = 3 * free.seconds + 60

    def fits(steps: int) -> bool:
        return did_all(work.run(name, python, count=FEW, limit_mb=steps * STEP_MB, timeout_s=timeout_s), FEW)

    steps = least(fits, guess=free.held_peak_bytes // (STEP_MB * MB), most=_FREE_MB // STEP_MB)
    return None if steps is None else steps * STEP_MB


def least_limits(work: Work) -> Figures:
    """Of each pipeline that can be installed here, and ours against the best."""
    figures: Figures = {}
    ours = min_limit_mb(work, "embank", Path(sys.executable))
    figures["min_limit_mb_embank"] = ours
    peers = []
    for name in PIPELINES:
        python = python_of(name)
        limit = None if python is None else min_limit_mb(work, name, python)
        figures[f"min_limit_mb_{name}"] = limit
        if limit is not None:
            peers.append(limit)
    figures["min_limit_ratio"] = None if ours is None or not peers else ours / min(peers)
    return figures


def whole(work: Work) -> Figures:
    """The least limit, from the one for the smaller work on, inside which Embank does the whole of it."""
    least_mb = min_limit_mb(work, "embank", Path(sys.executable))
    for limit_mb in range(least_mb or LIMIT_MB, LIMIT_MB + 1, STEP_MB):
        if did_all(work.run("embank", Path(sys.executable), count=PASSAGES, limit_mb=limit_mb), PASSAGES):
            return {"whole_limit_mb": limit_mb}
    return {"whole_limit_mb": None}


PARTS: dict[str, Callable[[Work], Figures]] = {"within": within, "least": least_limits, "whole": whole}
USUAL = ("within", "least")


def chart(figures: Figures, target: Path) -> None:
    """The least limits as bars."""
    from benchmarks.chart import drawing

    prefix = "min_limit_mb_"
    bars = {key.removeprefix(prefix): value for key, value in figures.items() if key.startswith(prefix) and value}
    with drawing(target, size=(8, 3)) as (axes,):
        drawn = axes.barh(list(bars), list(bars.values()))
        axes.bar_label(drawn, fmt="%d MB", padding=4)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set(xlabel="least limit of the control group, MB")
        axes.set_title(f"{FEW:,} passages and {FEW // 10} searches, nobody killed")


def main() -> None:
    """All of it, or why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a mark is missed")
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; {' and '.join(USUAL)} by default"
    )
    parser.add_argument("--chart", type=Path, help="an SVG file to draw the least limits into (needs matplotlib)")
    given = parser.parse_args()
    reason = why_not()
    if reason:
        print(f"skipped: {reason}", file=sys.stderr)
        publish("container", dict.fromkeys(MARKS), MARKS, {"skipped": reason}, as_json=given.json)
        return
    # Within the checkout: where temporary files are in memory, they would count.
    build = ROOT / ".build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build) as folder:
        work = Work(Path(folder))
        figures: Figures = {}
        for part in given.parts or USUAL:
            figures |= PARTS[part](work)
            print(json.dumps(figures), file=sys.stderr, flush=True)  # what follows may take long, or fail
        if given.chart is not None:
            chart(figures, given.chart)
    detail = {
        "corpus": work.corpus,
        "whole_work": {"passages": PASSAGES, "searches": PASSAGES // 10},
        "bisection_work": {"passages": FEW, "searches": FEW // 10, "step_mb": STEP_MB},
        "runs": work.log,
    }
    met = publish("container", figures, MARKS, detail, as_json=given.json)
    sys.exit(given.strict and not met)


if __name__ == "__main__":
    main()
