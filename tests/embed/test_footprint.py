"""What a model takes of a process, and what it gives back: whole processes, with hygiene applied first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from embank.memory.trim import supported

needs_glibc = pytest.mark.skipif(not supported(), reason=supported().reason)
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc here")

HEAD = """
import json, random, sys
from pathlib import Path
from embank.memory import hygiene
directory, threads = Path(sys.argv[1]), int(sys.argv[2])
hygiene.apply(threads=threads)
import numpy, tokenizers, ctranslate2
from embank.embed.loader import Loader
from embank.embed.settings import Settings
from embank.memory.recovery import Recovery, own_bytes
rng = random.Random(1)
def text(words):
    return " ".join("".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 8))) for _ in range(words))
def loader(recovery=None):
    return Loader(Settings(directory=directory, threads=threads), recovery=recovery)
"""

CYCLES = """
texts = [text(rng.choice([5, 10, 20, 100])) for _ in range(60)]
recovery = Recovery()
own = loader(recovery)
floor = own_bytes()
cycles = []
for _ in range(3):
    own.get().embed(texts)
    held = own_bytes()
    own.unload_all()
    made = recovery.recover_now()
    cycles.append([held, own_bytes(), made.ok])
print(json.dumps({"floor": floor, "cycles": cycles}))
"""

THREADS = """
import threading
def count():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Threads"))
recovery = Recovery()
own = loader(recovery)
start = count()
model = own.get()
most, done = 0, False
def watch():
    global most
    while not done:
        most = max(most, count() - 1)  # less this one
watching = threading.Thread(target=watch)
watching.start()
for _ in range(4):
    model.embed([text(10) for _ in range(40)])
done = True
watching.join()
own.close()
recovery.close()
print(json.dumps({"start": start, "most": most, "closed": count()}))
"""

UNSEEN = """
model = loader().get()
def embed(count):
    for _ in range(count):
        model.embed(["".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789 ", k=12)) for _ in range(100)])
embed(10)
warm = own_bytes()
embed(20)
print(json.dumps({"growth_mb_per_1000": (own_bytes() - warm) / 1e6 / 2}))
"""


def run(code: str, directory: Path, *, threads: int) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code, str(directory), str(threads)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_glibc
@pytest.mark.parametrize("threads", [1, 2])
def test_what_embedding_took_is_back_with_the_system_after_a_release(
    minilm_files: Path, models_directory: Path, threads: int
) -> None:
    told = run(CYCLES, models_directory, threads=threads)
    (_, idle_floor, _), *further = told["cycles"]
    assert idle_floor - told["floor"] <= 8_000_000, "what a first cycle leaves behind for good"
    for held, left, ok in further:
        assert ok
        assert held - idle_floor >= 30_000_000, "else nothing was measured"
        assert (held - left) / (held - idle_floor) >= 0.95


@needs_proc
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_as_many_as_were_set(minilm_files: Path, models_directory: Path, threads: int) -> None:
    told = run(THREADS, models_directory, threads=threads)
    assert told["start"] <= threads, "the main one, and those of the matrix library"
    # Beside them: the runtime's, who hands them batches (the caller is one of these), the idle watch and recovery.
    assert told["most"] <= told["start"] + threads + (threads - 1) + 2
    assert told["closed"] <= told["start"] + 1


@needs_proc
def test_unseen_strings_leave_nothing_behind(minilm_files: Path, models_directory: Path) -> None:
    # 0.05 is what is promised over 100,000 texts; over 2,000 one megabyte of noise weighs more.
    assert run(UNSEEN, models_directory, threads=1)["growth_mb_per_1000"] <= 1.0
