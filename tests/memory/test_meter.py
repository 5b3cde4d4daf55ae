"""The process tree: on made-up /proc trees, and on real children that hold real memory."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from embank.memory.meter import Reading, SystemMeter, machine_limit

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")


class Proc:
    """A /proc on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        (root / "self").mkdir()

    def add(
        self,
        pid: int,
        status: str,
        *,
        children: dict[int, list[int]] | None = None,
        parent: int = 1,
        lists_children: bool = True,
    ) -> None:
        """`children` by thread id."""
        folder = self.root / str(pid)
        for thread, ids in (children or {pid: []}).items():
            (folder / "task" / str(thread)).mkdir(parents=True)
            if lists_children:
                (folder / "task" / str(thread) / "children").write_text("".join(f"{one} " for one in ids))
        (folder / "status").write_text(f"Name:\tpython\n{status}Threads:\t1\n")
        (folder / "stat").write_text(f"{pid} (a (b) c) S {parent} 0 0\n")

    def read(self, pid: int) -> Reading:
        return SystemMeter(pid=pid, proc=self.root, cgroup=self.root / "no-cgroups").read()


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path / "proc")


def status(*, anonymous: int, shared: int = 0, file: int = 0) -> str:
    return (
        f"VmPeak:\t  999999 kB\nVmRSS:\t{anonymous + shared + file} kB\n"
        f"RssAnon:\t{anonymous:8} kB\nRssFile:\t{file:8} kB\nRssShmem:\t{shared:8} kB\n"
    )


def test_a_tree_is_anonymous_and_shared_of_every_descendant_and_never_files(proc: Proc) -> None:
    proc.add(10, status(anonymous=100, shared=10, file=5000), children={10: [20], 11: [30, 40]})
    proc.add(20, status(anonymous=200))
    proc.add(30, status(anonymous=300), children={30: [50]})
    proc.add(40, status(anonymous=400, shared=4))
    proc.add(50, status(anonymous=500))
    proc.add(60, status(anonymous=60_000))
    assert proc.read(10) == Reading(
        tree_bytes=1514 * 1024,
        cgroup_bytes=None,
        cgroup_limit_bytes=None,
        processes=5,
        source="status",
        by_process=tuple((pid, kb * 1024) for pid, kb in ((10, 110), (20, 200), (40, 404), (30, 300), (50, 500))),
    )
    assert proc.read(30).tree_bytes == 800 * 1024


def test_a_child_still_in_its_parents_pages_counts_nothing(proc: Proc) -> None:
    """Between vfork and exec a child shows its parent's memory as its own, to the last page."""
    proc.add(10, f"VmSize:\t90000 kB\n{status(anonymous=1000, shared=7, file=50)}", children={10: [20, 30]})
    proc.add(20, f"VmSize:\t90000 kB\n{status(anonymous=1000, shared=7, file=50)}")
    proc.add(30, f"VmSize:\t90004 kB\n{status(anonymous=1000, shared=7, file=50)}")
    reading = proc.read(10)
    assert (reading.tree_bytes, reading.processes) == (2 * 1007 * 1024, 3)


def test_a_child_that_has_ended_meanwhile_is_passed_over(proc: Proc) -> None:
    proc.add(10, status(anonymous=100), children={10: [20, 30]})
    proc.add(30, status(anonymous=1))
    reading = proc.read(10)
    assert (reading.tree_bytes, reading.processes) == (101 * 1024, 2)


def test_a_zombie_holds_nothing(proc: Proc) -> None:
    proc.add(10, status(anonymous=100), children={10: [20]})
    proc.add(20, "State:\tZ (zombie)\n")
    assert proc.read(10).tree_bytes == 100 * 1024


def test_without_lists_of_children_parents_are_looked_up(proc: Proc) -> None:
    proc.add(10, status(anonymous=1), lists_children=False)
    proc.add(20, status(anonymous=2), parent=10, lists_children=False)
    proc.add(30, status(anonymous=4), parent=20, lists_children=False)
    proc.add(40, status(anonymous=8), parent=1, lists_children=False)
    reading = proc.read(10)
    assert (reading.tree_bytes, reading.processes) == (7 * 1024, 3)


def test_a_kernel_that_does_not_split_rss_says_so(proc: Proc) -> None:
    proc.add(10, "VmRSS:\t  70 kB\n")
    reading = proc.read(10)
    assert (reading.tree_bytes, reading.source) == (70 * 1024, "rss")


def test_without_proc_the_reading_is_a_peak_and_says_so(tmp_path: Path) -> None:
    reading = SystemMeter(proc=tmp_path / "absent", cgroup=tmp_path / "absent").read()
    assert reading.source == "peak"
    assert reading.tree_bytes > 1_000_000
    assert (reading.processes, reading.cgroup_bytes, reading.cgroup_limit_bytes) == (1, None, None)


def test_a_process_that_is_gone_holds_nothing(proc: Proc) -> None:
    assert proc.read(10).tree_bytes == 0
    assert proc.read(10).source == "status"


def test_a_memfd_counts_once_however_many_map_it(proc: Proc) -> None:
    memfd = os.memfd_create("vectors")
    try:
        os.posix_fallocate(memfd, 0, 400 * 1024)
        proc.add(10, status(anonymous=1000, shared=400), children={10: [20, 30]})
        proc.add(20, status(anonymous=2000, shared=450))
        proc.add(30, status(anonymous=0, shared=7))
        meter = SystemMeter(pid=10, proc=proc.root, cgroup=proc.root)
        assert meter.read().tree_bytes == (1000 + 400 + 2000 + 450 + 7) * 1024
        meter.count_once(memfd, pids=[20])
        assert meter.read().tree_bytes == (1000 + 400 + 2000 + 50 + 7) * 1024
        meter.forget(memfd)
        assert meter.read().tree_bytes == (1000 + 400 + 2000 + 450 + 7) * 1024
    finally:
        os.close(memfd)


def test_a_memfd_counts_in_full_though_nobody_touched_it_through_a_mapping(proc: Proc) -> None:
    memfd = os.memfd_create("vectors")
    try:
        os.posix_fallocate(memfd, 0, 400 * 1024)
        proc.add(10, status(anonymous=1000))
        meter = SystemMeter(pid=10, proc=proc.root, cgroup=proc.root)
        meter.count_once(memfd)
        assert meter.read().tree_bytes == 1400 * 1024
    finally:
        os.close(memfd)


def test_a_closed_descriptor_is_refused_when_it_is_offered() -> None:
    memfd = os.memfd_create("vectors")
    os.close(memfd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        SystemMeter().count_once(memfd)


@contextmanager
def child(code: str) -> Iterator[subprocess.Popen[str]]:
    """A child that runs `code`, has printed a line, and waits for a line."""
    script = f"import sys, mmap, os\n{code}\nprint('ready', flush=True)\nsys.stdin.readline()"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=()
    )
    assert process.stdout is not None
    assert process.stdin is not None
    with process, process.stdout, process.stdin:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@needs_proc
def test_a_real_child_that_allocates_is_seen_and_gone_when_it_ends() -> None:
    meter = SystemMeter()
    before = meter.read()
    with child("held = bytearray(50_000_000)"):
        during = meter.read()
    after = meter.read()
    grown = during.tree_bytes - before.tree_bytes
    assert 50_000_000 <= grown <= 80_000_000, "50 MB and an interpreter"
    assert during.processes == before.processes + 1
    assert after.processes == before.processes
    assert abs(after.tree_bytes - before.tree_bytes) < 5_000_000


@needs_proc
def test_a_real_child_of_another_thread_is_seen() -> None:
    before = SystemMeter().read().processes
    seen: list[int] = []

    def look() -> None:
        with child(""):
            seen.append(SystemMeter().read().processes)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before + 1]


@needs_proc
def test_a_real_mapped_file_does_not_count_but_a_memfd_does(tmp_path: Path) -> None:
    size = 30_000_000
    path = tmp_path / "mapped"
    path.write_bytes(b"x" * size)
    meter = SystemMeter()
    before = meter.read().tree_bytes
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as view:
        assert sum(view[:: mmap.PAGESIZE]) > 0
        assert meter.read().tree_bytes - before < 5_000_000
    memfd = os.memfd_create("shared")
    try:
        os.truncate(memfd, size)
        with mmap.mmap(memfd, size) as view:
            view[:] = b"y" * size
            assert meter.read().tree_bytes - before > size * 0.9
    finally:
        os.close(memfd)


def test_the_machine_is_the_limit_where_no_group_has_one(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    (proc / str(os.getpid())).mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:       1000 kB\nMemFree:         900 kB\n")
    assert machine_limit(proc=proc, cgroup=tmp_path) == 1000 * 1024
    (proc / str(os.getpid()) / "cgroup").write_text("0::/\n")
    (tmp_path / "memory.stat").write_text("anon 1\n")
    (tmp_path / "memory.max").write_text("512000\n")
    assert machine_limit(proc=proc, cgroup=tmp_path) == 512_000
    (tmp_path / "memory.max").write_text("999999999\n")
    assert machine_limit(proc=proc, cgroup=tmp_path) == 1000 * 1024


def test_the_machine_is_known_without_proc(tmp_path: Path) -> None:
    assert machine_limit(proc=tmp_path, cgroup=tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
