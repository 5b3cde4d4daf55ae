"""Hygiene, in processes of its own, since it changes the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from embank.memory import hygiene
from embank.memory.trim import supported

ALWAYS = (
    "MALLOC_ARENA_MAX",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY",
    "TOKENIZERS_PARALLELISM",
)
NAMES = (*ALWAYS, *(("CT2_FORCE_CPU_ISA",) if hygiene._has_avx512() else ()))
needs_glibc = pytest.mark.skipif(not supported(), reason=supported().reason or "supported")


def run(code: str, **environment: str) -> Any:
    """The JSON that a fresh process prints, in which none of our variables is set but those given."""
    clean = {name: value for name, value in os.environ.items() if name not in NAMES and not name.startswith("MALLOC")}
    result = subprocess.run(
        [sys.executable, "-c", f"import json, os\nfrom embank.memory import hygiene\n{code}"],
        capture_output=True,
        text=True,
        check=True,
        env={**clean, **environment},
    )
    return json.loads(result.stdout)


REPORT = f"print(json.dumps([dict(a.allocator), dict(a.environment), {{n: os.environ.get(n) for n in {NAMES}}}]))"


@needs_glibc
def test_it_caps_arenas_and_sets_the_environment() -> None:
    allocator, environment, present = run(f"a = hygiene.apply()\n{REPORT}")
    assert allocator == {"MALLOC_ARENA_MAX": 1}
    assert set(environment) == set(NAMES)
    assert present == environment
    assert 1 <= int(environment["OMP_NUM_THREADS"]) <= 8


@needs_glibc
def test_what_the_user_set_stays() -> None:
    allocator, environment, present = run(
        f"a = hygiene.apply()\n{REPORT}", OMP_NUM_THREADS="7", MALLOC_ARENA_MAX="4", TOKENIZERS_PARALLELISM="true"
    )
    assert allocator == {}
    assert set(environment) == set(NAMES) - {"OMP_NUM_THREADS", "MALLOC_ARENA_MAX", "TOKENIZERS_PARALLELISM"}
    assert (present["OMP_NUM_THREADS"], present["MALLOC_ARENA_MAX"]) == ("7", "4")
    assert present["TOKENIZERS_PARALLELISM"] == "true"


@needs_glibc
def test_a_second_time_changes_nothing() -> None:
    allocator, environment, _ = run(f"hygiene.apply()\na = hygiene.apply()\n{REPORT}")
    assert (allocator, environment) == ({}, {})


@needs_glibc
def test_a_lean_process_maps_blocks_one_by_one_and_does_not_hand_that_on() -> None:
    code = """
from embank.memory.meter import SystemMeter
a = hygiene.apply(mmap_threshold_bytes=hygiene.LEAN_THRESHOLD_BYTES)
meter = SystemMeter()
before = meter.read().tree_bytes
blocks = [bytearray(b"x") * 100_000 for _ in range(300)]
last, blocks = blocks[-1], None
print(json.dumps([dict(a.allocator), meter.read().tree_bytes - before, os.environ.get("MALLOC_MMAP_THRESHOLD_")]))
"""
    allocator, kept, inherited = run(code)
    assert allocator == {"MALLOC_ARENA_MAX": 1, "MALLOC_MMAP_THRESHOLD_": 65536}
    assert kept < 3_000_000, "the last block pins nothing but itself"
    assert inherited is None


@needs_glibc
def test_one_arena_is_what_threads_then_share() -> None:
    code = """
import ctypes, threading
apply and hygiene.apply()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
barrier = threading.Barrier(9)
def work():
    libc.malloc(ctypes.c_size_t(50_000))
    barrier.wait()
    barrier.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
barrier.wait()
read, write = os.pipe()
file = libc.fdopen
file.restype = ctypes.c_void_p
stream = file(write, b"w")
libc.malloc_info(0, ctypes.c_void_p(stream))
libc.fclose(ctypes.c_void_p(stream))
text = os.read(read, 1 << 20).decode()
barrier.wait()
print(json.dumps(text.count("<heap nr=")))
"""
    assert run(f"apply = True{code}") == 1
    assert run(f"apply = False{code}") > 1


def test_a_child_gets_defaults_and_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    before = dict(os.environ)
    environment = hygiene.child_environment()
    assert set(environment) == set(NAMES)
    assert environment["OMP_NUM_THREADS"] == "5"
    assert environment["MALLOC_ARENA_MAX"] == "1"
    assert hygiene.child_environment(mmap_threshold_bytes=65536)["MALLOC_MMAP_THRESHOLD_"] == "65536"
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["fpu avx2 avx512f avx512bw avx512dq avx512vl avx512_vnni"] * 2, True),
        (["fpu avx2 avx512f avx512bw avx512dq avx512vl avx512_vnni", "fpu avx2"], False),
        (["fpu avx2 avx512f avx512bw avx512dq avx512vl"], False),
        ([], False),
    ],
)
def test_avx512_only_where_every_processor_has_all_of_it(tmp_path: Path, flags: list[str], *, told: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("".join(f"processor\t: {number}\nflags\t\t: {line}\n\n" for number, line in enumerate(flags)))
    assert hygiene._has_avx512(cpuinfo=cpuinfo) is told
    assert not hygiene._has_avx512(cpuinfo=tmp_path / "missing")


def test_it_imports_nothing_heavy() -> None:
    loaded = run(
        "import sys\nhygiene.apply()\n"
        "print(json.dumps([n for n in ('numpy', 'ctranslate2', 'tokenizers', 'pydantic') if n in sys.modules]))"
    )
    assert loaded == []


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no processor affinity")
@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "20000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_usable_processors_are_bounded_by_the_quota(tmp_path: Path, files: dict[str, str], quota: int | None) -> None:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    affinity = len(os.sched_getaffinity(0))
    expected = affinity if quota is None else min(affinity, quota)
    assert hygiene.usable_cpus(cgroup=tmp_path) == expected
