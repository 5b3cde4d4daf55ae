"""The figures of the main path: `python -m benchmarks.spine --json`.

demo_peak_mb         most that the demo's process tree held, anonymous + shared, sampled at 100 Hz from outside, on a
                     machine that has to convert the model first
convert_peak_mb      the same while the converting child ran; convert_child_mb is that child alone
docs                 documents that the demo indexed
ratio_st             texts/s against sentence-transformers (batch 32), calls of 512, median of 5 paired runs in turn
stats_ms, count_ms   inside a process, 100,000 chunks stored, page cache dropped; medians of 5 openings
core_install_mb      site-packages of the core install without pip, setuptools and the model package
import_ms            `import embank`; version_ms the whole of `embank --version`
commit_ms            a durable document added alone; commit_grouped_ms one of a group of 256
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

import numpy as np

import embank
from benchmarks.report import Mark, publish
from benchmarks.rivals import Rival, has_sentence_transformers
from benchmarks.sampling import watch
from embank.chunk.splitters import Splitter
from embank.source.docstrings import StandardLibrary
from embank.testing.fakes import HashModel

MARKS = {
    "demo_peak_mb": Mark("<=", 192),
    "convert_peak_mb": Mark("<=", 110),
    "docs": Mark(">=", 7_000),
    "ratio_st": Mark(">=", 3.5),
    "stats_ms": Mark("<", 5),
    "count_ms": Mark("<", 5),
    "core_install_mb": Mark("<", 420),
    "import_ms": Mark("<", 60),
    "version_ms": Mark("<", 150),
}
MB = 1e6
PAIRS = 5
TEXTS = 1_024
CHUNKS = 100_000
_COLD_ROUNDS = 5


def demo(room: Path) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Run the demo as a newcomer's machine would, with no converted model yet."""
    environ = {**os.environ, "EMBANK_EMBED__DIRECTORY": str(room / "models")}
    command = [sys.executable, "-m", "embank", "demo", "--json"]
    seen = watch(command, environ=environ, marker="embank.embed.formats.convert")
    if seen.returncode != 0:
        raise RuntimeError(f"the demo ended with {seen.returncode}:\n{seen.stderr[-2000:]}\n{seen.stdout[-2000:]}")
    summary = json.loads(seen.stdout)
    figures: dict[str, float | None] = {
        "demo_peak_mb": seen.peak / MB,
        "convert_peak_mb": seen.marked_peak / MB,
        "convert_child_mb": seen.marked_child_peak / MB,
        "docs": summary["documents"],
        "demo_s": seen.seconds,
    }
    return figures, {"demo": summary}


def passages() -> list[str]:
    """A fixed sample of the standard library's passages, about as the demo cuts them: 67 tokens on average."""
    model = HashModel()
    splitter = Splitter(model.count_tokens, max_tokens=180)
    every = [chunk.text for document in StandardLibrary().documents() for chunk in splitter.split(document.text)]
    return random.Random(7).sample(every, TEXTS)


def against_sentence_transformers(room: Path) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Both engines in turn over the same texts."""
    if not has_sentence_transformers():
        print("ratio_st: torch and sentence-transformers are not installed (make setup-full)", file=sys.stderr)
        return {"ratio_st": None}, {}
    texts_file = room / "texts.json"
    texts_file.write_text(json.dumps(passages()))
    ratios, ours, theirs = [], [], []
    with (
        Rival("embank", texts_file, "ct2", "int8") as embank_int8,
        Rival("sentence-transformers", texts_file) as reference,
    ):
        for _ in range(PAIRS):
            ours.append(embank_int8.run()["seconds"])
            theirs.append(reference.run()["seconds"])
            ratios.append(theirs[-1] / ours[-1])
    rates = {"texts_per_s": TEXTS / statistics.median(ours), "st_texts_per_s": TEXTS / statistics.median(theirs)}
    return {"ratio_st": statistics.median(ratios), **rates}, {"ratios": ratios}


def cold_counts(room: Path) -> tuple[dict[str, float | None], dict[str, Any]]:
    """`stats` and `count` of a large collection, with nothing of it in the page cache."""
    path = room / "large.bank"
    random_rows = np.random.default_rng(1).standard_normal((CHUNKS, 64), dtype=np.float32)
    with embank.open(path, model=HashModel()) as bank:
        documents = [{"id": f"d{number}", "text": f"document number {number} " * 8} for number in range(CHUNKS)]
        bank.collection("large").add(documents, vectors=random_rows)
    del documents, random_rows
    taken: dict[str, list[float]] = {"stats_ms": [], "count_ms": []}
    dropped = False
    for _ in range(_COLD_ROUNDS):
        with embank.open(path, read_only=True) as bank:
            large = bank.collection("large")
            for name, ask in (("stats_ms", large.stats), ("count_ms", large.count)):
                dropped = drop_caches(path)
                started = time.perf_counter()
                ask()
                taken[name].append((time.perf_counter() - started) * 1e3)
    figures: dict[str, float | None] = {name: statistics.median(each) for name, each in taken.items()}
    return figures, {"caches_dropped": dropped, **taken}


def drop_caches(path: Path) -> bool:
    """Empty the page cache, of the machine where root may, else of the bank's files."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        for file in path.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return False
    return True


def core_install(room: Path) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Install the core as a user does, and weigh it."""
    home = room / "core"
    venv.create(home, with_pip=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    root = Path(__file__).parents[1]
    subprocess.run(
        [*pip, "--no-deps", "-r", str(root / "requirements" / "core.txt")], check=True, stderr=subprocess.DEVNULL
    )
    subprocess.run([*pip, "--no-deps", str(root)], check=True, stderr=subprocess.DEVNULL)
    (site,) = home.glob("lib/python*/site-packages")
    weights = {
        entry.name: disk_bytes(entry) / MB
        for entry in site.iterdir()
        if not entry.name.lower().startswith(("pip", "setuptools", "pkg_resources", "_distutils", "distutils"))
    }
    heaviest = dict(sorted(weights.items(), key=lambda item: -item[1])[:8])
    shutil.rmtree(home)
    return {"core_install_mb": sum(weights.values())}, {"heaviest_mb": heaviest}


def disk_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder, as `du` counts them."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_blocks * 512 for each in files)


def starting() -> tuple[dict[str, float | None], dict[str, Any]]:
    """Medians of 15."""
    probe = "import time; t = time.perf_counter(); import embank; print((time.perf_counter() - t) * 1e3)"
    imports, versions = [], []
    embank_command = str(Path(sys.executable).with_name("embank"))
    for _ in range(15):
        imports.append(float(subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True).stdout))
        started = time.perf_counter()
        subprocess.run([embank_command, "--version"], check=True, capture_output=True)
        versions.append((time.perf_counter() - started) * 1e3)
    return {"import_ms": statistics.median(imports), "version_ms": statistics.median(versions)}, {}


def commits(room: Path) -> tuple[dict[str, float | None], dict[str, Any]]:
    """The price of durability for one document, alone and in a group; embedding is nearly free with this model."""
    with embank.open(room / "commits.bank", model=HashModel()) as bank:
        notes = bank.collection("notes")
        notes.add(["warm up"])
        started = time.perf_counter()
        for number in range(300):
            notes.add([f"document {number} alone"])
        alone = (time.perf_counter() - started) / 300 * 1e3
        started = time.perf_counter()
        notes.add([f"document {number} in a group" for number in range(256 * 12)])
        grouped = (time.perf_counter() - started) / (256 * 12) * 1e3
    return {"commit_ms": alone, "commit_grouped_ms": grouped}, {}


def main() -> None:
    """Measure everything, the quiet things first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    given = parser.parse_args()
    figures: dict[str, float | None] = {}
    detail: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        for part in (demo, against_sentence_transformers, cold_counts, commits, core_install):
            print(f"{part.__name__} …", file=sys.stderr, flush=True)
            measured, more = part(room)
            figures |= measured
            detail |= more
    measured, _ = starting()
    publish("spine", figures | measured, MARKS, detail, as_json=given.json)


if __name__ == "__main__":
    main()
