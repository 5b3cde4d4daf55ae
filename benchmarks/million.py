"""A million vectors through the product: `python -m benchmarks.million --json [PART …] [--rows N] [--again]`.

Real embeddings of 384 dimensions, extended by mixtures of neighbours (`benchmarks.embedded`), given as a user's own
vectors with texts and metadata to a bank that is opened within 256 MB; asked with words that are not among the texts.
Recall is that of the ten best of an exact scan. All in processes of their own, watched from outside but for searches;
memory is anonymous and shared, interpreter and libraries included, but for `index_anon_mb`.

ingest   ingest_overhead_pct   seconds to store a row (vector, text, words, index kept up to date) over seconds to embed
                               one of the texts; `ingest_rows_s`, `ingest_peak_anon_mb`
build    build_peak_anon_mb    of `embank index build` from nothing: planned, trained, filled, saved; `build_s`
search   open_s (Embank being imported), stats_ms, first_search_s, index_anon_mb (what a process holds more after 200
         searches than before the first, FAISS being imported), recall_at_10 with recall_at_10_low, its lower 95 %
         bound, qps and p99_ms of `collection.search`
cold     cold_qps, cold_p99_ms in a control group of 256 MB, nothing of the bank in the page cache; the first search,
         which loads the index, is `cold_first_s`
hnsw     qps_ratio_vs_hnsw_1m over FAISS's HNSW32, ef 128, bare, in the same process in turns; its recall and build time
changes  upsert_p99_ms, delete_p99_ms of single documents, and after_changes_qps of searches among what they left
compact  a tenth is deleted (delete_tenth_s), then compact_extra_mb is what `embank compact` holds at most beyond what
         `embank count` does, which imports next to nothing: its bound is twice what an index may hold, for the new
         index, made before the old vectors go, and for copying; compact_s

What a part found is kept under .build/million-N until `--again`, so that a run that broke off goes on; `changes` and
`compact` alter the bank, and come last. The first run embeds the texts (see `benchmarks.embedded`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.confined import confined, why_not
from benchmarks.embedded import embedded, extended, nearest, say
from benchmarks.millionwork import BUDGET, NAME, Told, Work
from benchmarks.report import Mark, publish
from benchmarks.sampling import watch
from embank.store.index.planner import lower_bound

MARKS = {
    "ingest_overhead_pct": Mark("<=", 10),
    "build_peak_anon_mb": Mark("<=", 160),
    "open_s": Mark("<", 1),
    "stats_ms": Mark("<", 5),
    "index_anon_mb": Mark("<=", 64),
    "recall_at_10_low": Mark(">=", 0.99),
    "qps": Mark(">=", 300),
    "p99_ms": Mark("<", 8),
    "cold_qps": Mark(">=", 100),
    "upsert_p99_ms": Mark("<", 20),
    "delete_p99_ms": Mark("<", 20),
    "compact_extra_mb": Mark("<=", 128),
}
ROOT = Path(__file__).parents[1]
QUESTIONS = 1_000
LIMIT_BYTES = 256_000_000
MB = 1e6


class Run:
    """One run of some parts over the bank in its room."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def act(self, name: str) -> tuple[Told, float]:
        """What an act answered, and its peak in MB."""
        watched = watch(self._command(name), hertz=50, errors_through=True)
        return _answer(name, watched.returncode, watched.stdout, watched.stderr), watched.peak / MB

    def command(self, *words: str) -> tuple[Told, float, float]:
        """What an `embank` command answered in JSON, its peak in MB, and its seconds."""
        shared = ["--bank", str(self.work.bank), "--memory", BUDGET, "--json"]
        watched = watch([sys.executable, "-m", "embank", *words, *shared], hertz=50)
        told = _answer(" ".join(words), watched.returncode, watched.stdout, watched.stderr, lines=False)
        return told, watched.peak / MB, watched.seconds

    def ingest(self) -> Told:
        """See the module."""
        stored, peak_mb = self.act("ingest")
        cost, _ = self.act("embed")
        if not stored["stored"]:
            raise SystemExit("everything is stored already: its time is not known any more; run with --again")
        row_s, text_s = stored["store_s"] / stored["stored"], cost["embed_s"] / cost["embedded"]
        return {
            "ingest_overhead_pct": 100 * row_s / text_s,
            "ingest_rows_s": 1 / row_s,
            "embed_texts_s": 1 / text_s,
            "ingest_peak_anon_mb": peak_mb,
        }

    def build(self) -> Told:
        """See the module."""
        for file in self.work.bank.glob("views/*/*"):
            if file.name in {"vectors.index", "plan.json"}:
                file.unlink()
        told, peak_mb, seconds = self.command("index", "build", "-c", NAME)
        plan, _, _ = self.command("index", "plan", "-c", NAME)
        return {"build_peak_anon_mb": peak_mb, "build_s": seconds, "detail": {"index": told, "plan": plan}}

    def search(self) -> Told:
        """See the module."""
        # Not watched: a look every 20 ms takes from the processor that a search shares out.
        ended = subprocess.run(self._command("search"), capture_output=True, text=True, check=False)
        told = _answer("search", ended.returncode, ended.stdout, ended.stderr)
        recalls = np.asarray(told.pop("recalls"))
        found = {"recall_at_10": float(recalls.mean()), "recall_at_10_low": lower_bound(recalls)}
        return {**found, **{key: value for key, value in told.items() if key != "index"}, "detail": told["index"]}

    def cold(self) -> Told:
        """See the module."""
        reason = why_not()
        if reason:
            say(f"not measured: {reason}")
            return {"cold_qps": None}
        os.sync()
        for file in self.work.bank.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        ended = confined(self._command("cold"), limit_bytes=LIMIT_BYTES, timeout_s=600)
        told = _answer("cold", ended.code, ended.output, ended.errors)
        recalls = np.asarray(told.pop("recalls"))
        figures = {f"cold_{key}": value for key, value in told.items()}
        return {**figures, "cold_recall_at_10": float(recalls.mean()), "cold_held_peak_mb": ended.held_peak_bytes / MB}

    def hnsw(self) -> Told:
        """See the module."""
        told, peak_mb = self.act("hnsw")
        return {
            "qps_ratio_vs_hnsw_1m": told["qps_embank"] / told["qps_hnsw"],
            "hnsw_qps": told["qps_hnsw"],
            "hnsw_recall_at_10": float(np.mean(told["recalls"])),
            "hnsw_build_s": told["build_s"],
            "hnsw_process_peak_mb": peak_mb,
        }

    def changes(self) -> Told:
        """See the module."""
        told, peak_mb = self.act("changes")
        return {**told, "changes_peak_anon_mb": peak_mb}

    def compact(self) -> Told:
        """See the module."""
        thinned, _ = self.act("thin")
        _, floor_mb, _ = self.command("count", "-c", NAME)
        told, peak_mb, seconds = self.command("compact", "-c", NAME)
        figures = {"compact_extra_mb": peak_mb - floor_mb, "compact_s": seconds, **thinned}
        return {**figures, "detail": told}

    def _command(self, act: str) -> list[str]:
        work = self.work
        return [sys.executable, "-m", "benchmarks.millionwork", act, str(work.room), str(work.rows), str(work.texts)]


PARTS: dict[str, Callable[[Run], Told]] = {
    each.__name__: each for each in (Run.ingest, Run.build, Run.search, Run.cold, Run.hnsw, Run.changes, Run.compact)
}


def prepare(work: Work) -> None:
    """The vectors, and the right answers."""
    work.room.mkdir(parents=True, exist_ok=True)
    truth = work.room / "truth.npz"
    if not truth.exists():
        given = work.corpus()
        vectors, _ = extended(given, work.rows)
        asked = embedded(given)[1][:QUESTIONS]
        say(f"the nearest of {len(vectors):,} for {len(asked):,} questions …")
        np.savez(truth.with_suffix(".part.npz"), asked=asked, scores=nearest(vectors, asked)[1])
        truth.with_suffix(".part.npz").rename(truth)


def _answer(name: str, code: int, output: str, errors: str, *, lines: bool = True) -> Told:
    if code:
        raise SystemExit(f"{name} ended with {code}: {errors.strip()[-2_000:]}")
    told: Told = json.loads(output.strip().splitlines()[-1] if lines else output)
    return told


def main() -> None:
    """Run the parts that are not done, and print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a mark is missed")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--texts", type=int, default=49_152, help="texts that are really embedded")
    parser.add_argument(
        "--again", action="store_true", help="forget what the parts found, and begin with an empty bank"
    )
    given = parser.parse_args()
    work = Work(ROOT / ".build" / f"million-{given.rows}", given.rows, given.texts)
    kept = work.room / "figures.json"
    parts = given.parts or list(PARTS)
    if given.again and not given.parts:
        shutil.rmtree(work.bank, ignore_errors=True)
        kept.unlink(missing_ok=True)
    prepare(work)
    done: dict[str, Told] = json.loads(kept.read_text()) if kept.exists() else {}
    run = Run(work)
    for part in parts:
        if part in done and not given.again:
            continue
        started = time.perf_counter()
        done[part] = PARTS[part](run)
        kept.write_text(json.dumps(done))
        say(f"{part} took {time.perf_counter() - started:,.0f} s: {json.dumps(_figures(done[part]))}")
    figures: dict[str, float | None] = {}
    for part in PARTS:
        figures |= _figures(done.get(part, {}))
    detail: dict[str, Any] = {
        "corpus": work.corpus().name,
        "rows": work.rows,
        "texts": work.texts,
        **{part: told["detail"] for part, told in done.items() if "detail" in told},
    }
    met = publish("million", figures, MARKS, detail, as_json=given.json)
    sys.exit(given.strict and not met)


def _figures(told: Told) -> dict[str, float | None]:
    return {key: value for key, value in told.items() if key != "detail"}


if __name__ == "__main__":
    main()
