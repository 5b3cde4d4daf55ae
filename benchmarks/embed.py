"""The figures of embedding: `python -m benchmarks.embed --json`. Parts can be named: `… speed recovery`.

speed      texts/s against sentence-transformers of the same weights (batch 32), calls of 512, median of 5 paired runs,
           both in turn: int8_ratio, fp32_ratio, bf16_ratio (where the processor has it); *_min_cos, the least cosine
           to its vectors; invariance_*, the least cosine of a text alone to itself in its batch; peak_growth_*_mb,
           anonymous memory over what a process with numpy holds, sampled at 100 Hz from outside
peers      the same against fastembed and Infinity, where they install: ratio_*, and peak_growth_*_mb of each
perlfaq    top10_overlap_int8: how many of an exact search's first ten answers int8 finds among its own
constant   peak_growth_ratio_100k_over_10k; growth_mb_per_1000, the slope over 100,000 texts of strongly varying length
           and of random characters
recovery   residue_mb, what the first cycle of load, embed and release leaves; recovered_pct, what a later cycle gives
           back of what it took; recycled_over_floor_mb, the tree against its floor after the worker was recycled;
           first_request_after_unload_ms
cleanup    cleanup_ms_p99, cleanup_felt_ms_p99 (by a concurrent request), recoveries_failed
static     static_texts_per_s
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import corpora
from benchmarks.peers import PACKAGES, python_of
from benchmarks.report import Mark, publish
from benchmarks.rivals import Rival, has_sentence_transformers, model_folder, onnx_folder
from benchmarks.sampling import held_bytes, tree

MARKS = {
    "int8_ratio": Mark(">=", 4.2),
    "fp32_ratio": Mark(">=", 2.7),
    "bf16_ratio": Mark(">=", 4.5),
    "int8_min_cos": Mark(">=", 0.99),
    "fp32_min_cos": Mark(">=", 0.9999),
    "bf16_min_cos": Mark(">=", 0.9999),
    "invariance_int8": Mark(">=", 0.998),
    "invariance_fp32": Mark(">=", 0.9999),
    "ratio_fastembed": Mark(">=", 1),
    "ratio_infinity": Mark(">=", 1),
    "peak_growth_int8_mb": Mark("<=", 90),
    "peak_growth_fp32_mb": Mark("<=", 160),
    "peak_growth_ratio_100k_over_10k": Mark("<=", 1.05),
    "growth_mb_per_1000": Mark("<", 0.05),
    "recovered_pct": Mark(">=", 95),
    "recycled_over_floor_mb": Mark("<=", 2),
    "cleanup_ms_p99": Mark("<", 100),
    "cleanup_felt_ms_p99": Mark("<", 20),
    "recoveries_failed": Mark("<=", 0),
    "static_texts_per_s": Mark(">=", 40_000),
}
MB = 1e6
PAIRS = 5
TEXTS = 2_000
PEER_TEXTS = 500
ALONE = 300

Figures = dict[str, float | None]
Part = Callable[[Path], tuple[Figures, dict[str, Any]]]


def speed(room: Path) -> tuple[Figures, dict[str, Any]]:
    """Our precisions against the reference."""
    name, texts = corpora.wordnet(TEXTS)
    if not has_sentence_transformers():
        print("speed: torch and sentence-transformers are not installed (make setup-full)", file=sys.stderr)
        return {"int8_ratio": None, "fp32_ratio": None}, {"corpus": name}
    file, few = _file(room, "texts", texts), _file(room, "few", texts[:ALONE])
    ours = {"int8": ("ct2", "int8"), "fp32": ("ct2", "float32")}
    if _has_bfloat16():
        ours["bf16"] = ("openvino", "bfloat16")
    figures: Figures = {}
    rates: dict[str, list[float]] = {}
    with Rival("sentence-transformers", file) as reference:
        reference.save(room / "reference.npy")
        truth = np.load(room / "reference.npy")
        for precision, options in ours.items():
            with Rival("embank", file, *options) as rival:
                pairs = [(rival.run()["seconds"], reference.run()["seconds"]) for _ in range(PAIRS)]
                rival.save(room / "ours.npy")
                figures[f"{precision}_ratio"] = statistics.median(theirs / own for own, theirs in pairs)
                figures[f"{precision}_min_cos"] = _least_cosine(truth, np.load(room / "ours.npy"))
                figures[f"peak_growth_{precision}_mb"] = rival.growth_bytes / MB
                rates[precision] = [TEXTS / own for own, _ in pairs]
                rates[f"sentence-transformers beside {precision}"] = [TEXTS / theirs for _, theirs in pairs]
            with Rival("embank", few, *options) as rival:
                rival.save(room / "batched.npy")
                rival.save(room / "alone.npy", alone=True)
            batched, alone = np.load(room / "batched.npy"), np.load(room / "alone.npy")
            figures[f"invariance_{precision}"] = _least_cosine(batched, alone)
        figures["peak_growth_sentence_transformers_mb"] = reference.growth_bytes / MB
    return figures, {"corpus": name, "texts_per_s": rates}


def peers(room: Path) -> tuple[Figures, dict[str, Any]]:
    """Our int8 against other engines for the same model."""
    _, texts = corpora.wordnet(PEER_TEXTS)
    file = _file(room, "texts", texts)
    figures: Figures = {}
    rates: dict[str, float] = {}
    with Rival("embank", file, "ct2", "int8") as rival:
        for peer in PACKAGES:
            python = python_of(peer)
            if python is None:
                figures[f"ratio_{peer}"] = None
                continue
            folder = onnx_folder(room) if peer == "fastembed" else model_folder()
            with Rival(peer, file, str(folder), python=python) as other:
                pairs = [(rival.run()["seconds"], other.run()["seconds"]) for _ in range(PAIRS)]
                figures[f"ratio_{peer}"] = statistics.median(theirs / own for own, theirs in pairs)
                figures[f"peak_growth_{peer}_mb"] = other.growth_bytes / MB
                rates[peer] = PEER_TEXTS / statistics.median(theirs for _, theirs in pairs)
    return figures, {"peers_texts_per_s": rates}


def perlfaq(room: Path) -> tuple[Figures, dict[str, Any]]:
    """Whether int8 finds the answers that full precision finds."""
    pairs = corpora.perlfaq()
    if not pairs or not has_sentence_transformers():
        return {"top10_overlap_int8": None}, {}
    file = _file(room, "perlfaq", [question for question, _ in pairs] + [answer for _, answer in pairs])
    for name, *options in (("sentence-transformers",), ("embank", "ct2", "int8")):
        with Rival(name, file, *options) as rival:
            rival.save(room / f"{name}.npy")
    firsts = []
    for name in ("sentence-transformers", "embank"):
        vectors = np.load(room / f"{name}.npy")
        questions, answers = vectors[: len(pairs)], vectors[len(pairs) :]
        firsts.append(np.argsort(-(questions @ answers.T), axis=1)[:, :10])
    shared = [len(set(one) & set(other)) / 10 for one, other in zip(*firsts, strict=True)]
    return {"top10_overlap_int8": statistics.mean(shared)}, {"questions": len(pairs)}


def constant(room: Path) -> tuple[Figures, dict[str, Any]]:
    """Memory over 100,000 texts of every length."""
    seen = _life("corpus", room, corpora.strange(100_000))
    start, rows = seen["start"], seen["rows"]
    peaks = {texts: peak - start for texts, _, peak in rows}
    at_10k = next(growth for texts, growth in peaks.items() if texts >= 10_000)
    # Theil-Sen, once warm: the median of the slopes between all pairs.
    warm = [(texts, held) for texts, held, _ in rows if texts >= 10_000]
    slopes = [(b - a) / (y - x) for number, (x, a) in enumerate(warm) for y, b in warm[number + 1 :]]
    figures: Figures = {
        "peak_growth_ratio_100k_over_10k": peaks[rows[-1][0]] / at_10k,
        "growth_mb_per_1000": statistics.median(slopes) * 1000 / MB,
    }
    return figures, {"constant": {"start": start, "rows": rows}}


def recovery(room: Path) -> tuple[Figures, dict[str, Any]]:
    """What comes back, with the model in this process and in a child."""
    _, texts = corpora.wordnet(TEXTS)
    seen = _life("cycles", room, texts)
    first, *later = seen["cycles"]
    given_back = [(cycle["peak"] - cycle["after"]) / (cycle["peak"] - first["after"]) for cycle in later]
    file = _file(room, "recycled", texts)
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.lifecycle", "recycled", str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        held, ended = {}, {}
        for line in process.stdout or ():
            said = json.loads(line)
            if "at" not in said:
                ended = said
                break
            time.sleep(0.5)  # what ended is gone from the tree
            held[said["at"]] = sum(held_bytes(pid) for pid in tree(process.pid))
            print(file=process.stdin, flush=True)
    figures: Figures = {
        "residue_mb": (first["after"] - seen["start"]) / MB,
        "recovered_pct": 100 * statistics.median(given_back),
        "release_ms": 1e3 * statistics.median(cycle["seconds"] for cycle in seen["cycles"]),
        "first_request_after_unload_ms": 1e3 * statistics.median(seen["first_s"]),
        "recycled_over_floor_mb": (held["recycled"] - held["floor"]) / MB,
        "recycle_ms": 1e3 * ended["recycle_s"],
        "first_request_after_recycling_ms": 1e3 * ended["first_s"],
    }
    return figures, {"cycles": seen, "tree": held}


def cleanup(room: Path) -> tuple[Figures, dict[str, Any]]:
    """Clean-ups, and what those who ask meanwhile notice of them."""
    _, texts = corpora.wordnet(TEXTS)
    seen = _life("cleanups", room, texts)
    usual = statistics.median(seen["beside_s"])
    figures: Figures = {
        "cleanup_ms_p99": 1e3 * _percentile(seen["cleanup_s"], 99),
        "cleanup_felt_ms_p99": 1e3 * (_percentile(seen["during_s"], 99) - usual),
        "recoveries_failed": seen["failed"],
    }
    detail = {
        "cleanups": len(seen["cleanup_s"]),
        "requests_during": len(seen["during_s"]),
        "request_ms_median": 1e3 * usual,
        "request_ms_p99_beside": 1e3 * _percentile(seen["beside_s"], 99),
    }
    return figures, {"cleanup": detail}


def static(room: Path) -> tuple[Figures, dict[str, Any]]:
    """The static model's speed."""
    _, texts = corpora.wordnet(10 * TEXTS)
    return {"static_texts_per_s": _life("static", room, texts)["texts_per_s"]}, {}


def _life(mode: str, room: Path, texts: list[str]) -> dict[str, Any]:
    file = _file(room, mode, texts)
    command = [sys.executable, "-m", "benchmarks.lifecycle", mode, str(file)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def _percentile(values: list[float], percent: int) -> float:
    return float(np.percentile(values, percent))


def _file(room: Path, name: str, texts: list[str]) -> Path:
    path = room / f"{name}.json"
    path.write_text(json.dumps(texts))
    return path


def _least_cosine(one: Any, other: Any) -> float:
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float((np.einsum("ij,ij->i", one, other) / norms).min())


def _has_bfloat16() -> bool:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    return bool(flags & {"avx512_bf16", "amx_bf16"})


PARTS: dict[str, Part] = {
    "speed": speed,
    "peers": peers,
    "perlfaq": perlfaq,
    "constant": constant,
    "recovery": recovery,
    "cleanup": cleanup,
    "static": static,
}


def main() -> None:
    """Measure the parts asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    given = parser.parse_args()
    figures: Figures = {}
    detail: dict[str, Any] = {}
    for name in given.parts or PARTS:
        print(f"{name} …", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            measured, more = PARTS[name](Path(folder))
        print(json.dumps(measured), file=sys.stderr, flush=True)  # what follows may take long, or fail
        figures |= measured
        detail |= more
    publish("embed", figures, MARKS, detail, as_json=given.json)


if __name__ == "__main__":
    main()
