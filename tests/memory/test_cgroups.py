"""Control groups: made-up trees of both versions, and a real limit where one can be set."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from embank.memory.cgroups import ControlGroups, Held

PID = 7
NO_LIMIT_V1 = 9223372036854771712


class Groups:
    """A /proc and a /sys/fs/cgroup on disk."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.cgroup = root / "cgroup"
        (self.proc / str(PID)).mkdir(parents=True)
        self.cgroup.mkdir()
        self.kernel = ControlGroups(proc=self.proc, cgroup=self.cgroup)

    def member(self, lines: str) -> None:
        (self.proc / str(PID) / "cgroup").write_text(lines)

    def v1(self, path: str, *, limit: int = NO_LIMIT_V1, hierarchical: int = NO_LIMIT_V1, **totals: int) -> None:
        folder = self.cgroup / "memory" / path
        folder.mkdir(parents=True, exist_ok=True)
        own = "cache 1\nrss 2\nshmem 3\ndirty 4\nwriteback 5\n"
        stat = "".join(f"total_{name} {value}\n" for name, value in totals.items())
        (folder / "memory.stat").write_text(f"{own}hierarchical_memory_limit {hierarchical}\n{stat}")
        (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")

    def v2(self, path: str, *, limit: int | str | None = "max", root: str = "", **stat: int) -> None:
        folder = self.cgroup / root / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in stat.items()))
        if limit is not None:
            (folder / "memory.max").write_text(f"{limit}\n")

    def read(self) -> Held | None:
        return self.kernel.read(PID)

    def tightest(self) -> int | None:
        return self.kernel.tightest_limit(PID)


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    return Groups(tmp_path)


def test_v1_adds_shared_memory_and_pages_on_their_way_to_disk(groups: Groups) -> None:
    groups.member("9:name=systemd:/\n4:cpu,memory:/jobs/one\n0::/\n")
    groups.v1(".")
    groups.v1("jobs")
    groups.v1(
        "jobs/one",
        limit=50_000,
        cache=900_000,
        rss=10_000,
        shmem=2_000,
        dirty=300,
        writeback=40,
        active_file=800_000,
        mapped_file=700_000,
    )
    assert groups.read() == Held(used_bytes=12_340, limit_bytes=50_000)
    assert groups.tightest() == 50_000


def test_v1_without_a_limit_is_the_own_group(groups: Groups) -> None:
    groups.member("4:memory:/jobs\n")
    groups.v1(".", rss=99_999)
    groups.v1("jobs", rss=5)
    assert groups.read() == Held(used_bytes=5, limit_bytes=None)
    assert groups.tightest() is None


def test_v1_an_outer_group_with_less_room_counts(groups: Groups) -> None:
    groups.member("4:memory:/jobs/one\n")
    groups.v1(".", rss=1_000_000)
    groups.v1("jobs", limit=60_000, rss=55_000)
    groups.v1("jobs/one", limit=50_000, hierarchical=50_000, rss=10_000)
    assert groups.read() == Held(used_bytes=55_000, limit_bytes=60_000)
    assert groups.tightest() == 50_000


def test_v1_a_limit_above_what_is_mounted_counts(groups: Groups) -> None:
    groups.member("4:memory:/docker/abc\n")
    groups.v1(".", hierarchical=70_000, rss=10_000)
    assert groups.read() == Held(used_bytes=10_000, limit_bytes=70_000)


def test_v2_counts_unreclaimable_kernel_memory_and_no_file_pages(groups: Groups) -> None:
    groups.member("0::/\n")
    groups.v2(
        ".",
        limit=100_000,
        anon=10_000,
        shmem=2_000,
        file=60_000,
        active_file=50_000,
        file_dirty=300,
        file_writeback=40,
        kernel=9_000,
        slab_reclaimable=4_000,
        kernel_stack=100,
        sock=5,
    )
    assert groups.read() == Held(used_bytes=17_345, limit_bytes=100_000)


def test_v2_of_an_older_kernel_sums_the_parts(groups: Groups) -> None:
    groups.member("0::/\n")
    groups.v2(".", limit=1000, anon=1, kernel_stack=2, pagetables=4, percpu=8, slab_unreclaimable=16, slab=99, sock=32)
    assert groups.read() == Held(used_bytes=63, limit_bytes=1000)


def test_v2_walks_up_to_the_tightest(groups: Groups) -> None:
    groups.member("0::/user.slice/app/worker\n")
    groups.v2(".", limit=None, anon=900_000)
    groups.v2("user.slice", limit=80_000, anon=70_000)
    groups.v2("user.slice/app", limit=40_000, anon=20_000)
    groups.v2("user.slice/app/worker", anon=15_000)
    assert groups.read() == Held(used_bytes=70_000, limit_bytes=80_000)
    assert groups.tightest() == 40_000


def test_v2_in_a_container_that_is_told_the_hosts_path(groups: Groups) -> None:
    groups.member("0::/kubepods/pod1/container1\n")
    groups.v2(".", limit=5_000, anon=1_000)
    assert groups.read() == Held(used_bytes=1_000, limit_bytes=5_000)


def test_v2_outside_of_the_namespace(groups: Groups) -> None:
    groups.member("0::/../other\n")
    groups.v2(".", limit=5_000, anon=1_000)
    groups.v2("other", limit=4_000, anon=100)
    assert groups.tightest() == 4_000


def test_v2_beside_v1_has_its_own_mount(groups: Groups) -> None:
    groups.member("1:cpu:/\n0::/app\n")
    groups.v2(".", root="unified", limit=None)
    groups.v2("app", root="unified", limit=5_000, anon=1_000)
    (groups.cgroup / "unified" / "cgroup.procs").write_text("")
    assert groups.read() == Held(used_bytes=1_000, limit_bytes=5_000)


def test_a_process_that_moves_and_a_limit_that_changes_are_followed(groups: Groups) -> None:
    groups.member("0::/one\n")
    groups.v2(".", limit=None)
    groups.v2("one", limit=1_000, anon=1)
    groups.v2("two", limit=2_000, anon=2)
    assert groups.read() == Held(used_bytes=1, limit_bytes=1_000)
    groups.v2("one", limit=500, anon=3)
    assert groups.read() == Held(used_bytes=3, limit_bytes=500)
    groups.member("0::/two\n")
    assert groups.read() == Held(used_bytes=2, limit_bytes=2_000)


def test_no_groups_no_answer(groups: Groups) -> None:
    assert groups.read() is None
    groups.member("0::/\n")
    assert groups.read() is None
    assert groups.tightest() is None


@contextlib.contextmanager
def real_group(limit_bytes: int) -> Iterator[Path]:
    """A version 1 memory group with a limit."""
    group = Path("/sys/fs/cgroup/memory") / f"embank-test-{uuid.uuid4().hex}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
    except OSError as error:
        pytest.skip(f"no memory group can be made here (needs root and a writable version 1 hierarchy): {error}")
    try:
        yield group
    finally:
        group.rmdir()


def run_in(group: Path, code: str) -> subprocess.CompletedProcess[str]:
    enter = f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
    return subprocess.run(
        [sys.executable, "-c", enter + code], capture_output=True, text=True, check=False, env=os.environ
    )


def test_a_real_limit_is_seen_from_within_and_file_pages_do_not_count(tmp_path: Path) -> None:
    with real_group(150_000_000) as group:
        result = run_in(
            group,
            f"""
from embank.memory.meter import SystemMeter, machine_limit
meter = SystemMeter()
first = meter.read()
held = bytearray(50_000_000)
second = meter.read()
path = {str(tmp_path / "file")!r}
with open(path, "wb") as file:
    for _ in range(60):
        file.write(b"x" * 1_000_000)
    os.fsync(file.fileno())
open(path, "rb").read(1)
third = meter.read()
used = int(open({str(group / "memory.usage_in_bytes")!r}).read())
print(machine_limit(), second.cgroup_limit_bytes, second.cgroup_bytes - first.cgroup_bytes,
      third.cgroup_bytes - second.cgroup_bytes, used - third.cgroup_bytes)
""",
        )
        assert result.returncode == 0, result.stderr
        machine, limit, grown, with_file, reclaimable = map(int, result.stdout.split())
        assert machine == limit == 149_999_616, "the limit, rounded down to a page"
        # The kernel's counters of a group lag by up to a few megabytes.
        assert 45_000_000 <= grown <= 60_000_000
        assert with_file < 10_000_000
        assert reclaimable > 40_000_000, "the file is in the page cache all the same"


def test_a_real_limit_kills_who_exceeds_it_and_a_governor_in_it_refuses_first() -> None:
    with real_group(150_000_000) as group:
        killed = run_in(group, "held = bytearray(b'x') * 300_000_000\n")
        assert killed.returncode == -9
        result = run_in(
            group,
            """
from embank.errors import BudgetExceeded
from embank.memory.governor import Governor
governor = Governor(10_000_000_000)
held, chunks = [], 0
try:
    while True:
        with governor.reserve("a chunk", 10_000_000):
            held.append(bytearray(b"x") * 10_000_000)
            chunks += 1
except BudgetExceeded as error:
    state = governor.snapshot()
    print(chunks, governor.budget_bytes, error.fields["available_bytes"])
""",
        )
        assert result.returncode == 0, result.stderr
        chunks, budget, available = result.stdout.split()
        assert int(budget) == 148_999_616, "the budget was cut to the limit"
        assert 8 <= int(chunks) <= 14
        assert int(available) < 10_000_000
