"""Telling processes apart, and children that end: with their parent, by themselves, or because they must."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import embank.errors
from embank.system.process import ChildResult, die_with_parent, is_running, run_child, start_time

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prctl")

Run = Callable[..., tuple[ChildResult, list[str]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run code as the child module `job`, found through PYTHONPATH; its result and its lines."""

    def run(
        code: str, *args: str, timeout_s: float | None = 60, environ: dict[str, str | None] | None = None
    ) -> tuple[ChildResult, list[str]]:
        (tmp_path / "job.py").write_text(textwrap.dedent(code))
        lines: list[str] = []
        changes = {"PYTHONPATH": str(tmp_path), **(environ or {})}
        result = run_child("job", args, on_line=lines.append, environ=changes, timeout_s=timeout_s)
        return result, lines

    return run


def is_gone(pid: int) -> bool:
    """Whether the process ended; an orphan may stay a zombie where nobody reaps."""
    return not is_running(pid, None)


# --- who runs ---------------------------------------------------------------------------------------------------------


@linux
def test_this_process_runs_and_a_later_one_with_its_id_would_not_be_it() -> None:
    started = start_time(os.getpid())
    assert started is not None
    assert started == start_time(os.getpid())
    assert is_running(os.getpid(), started)
    assert is_running(os.getpid(), None)
    assert not is_running(os.getpid(), started - 1)


@linux
def test_a_process_that_ended_does_not_run_even_before_it_is_reaped() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and a zombie until it is waited for
    started = start_time(child.pid)
    assert started is not None
    assert not is_running(child.pid, started)
    child.wait()
    assert start_time(child.pid) is None
    assert not is_running(child.pid, started)


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**70])
def test_an_impossible_id_does_not_run(pid: int) -> None:
    assert start_time(pid) is None
    assert not is_running(pid, 1.0)


def test_without_proc_only_existence_is_known(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert start_time(child.pid, proc=tmp_path) is None
    assert is_running(child.pid, 1.0, proc=tmp_path)
    child.communicate(b"\n")
    assert not is_running(child.pid, 1.0, proc=tmp_path)


def test_a_command_named_like_the_file_format_is_read_rightly(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    fields = " ".join(str(number) for number in range(4, 53))
    (tmp_path / "7" / "stat").write_text(f"7 (a) R 1 (b) S {fields}\n")
    assert start_time(7, proc=tmp_path) == 22
    assert is_running(7, 22, proc=tmp_path)
    (tmp_path / "7" / "stat").write_text(f"7 (a) R 1 (b) Z {fields}\n")
    assert not is_running(7, 22, proc=tmp_path)


@linux
def test_a_child_dies_with_a_parent_that_is_killed() -> None:
    child = "import time; from embank.system.process import die_with_parent; print(die_with_parent()); time.sleep(600)"
    parent = (
        f"import subprocess, sys, time; c = subprocess.Popen([sys.executable, '-uc', {child!r}], stdout=-1);"
        "print(c.stdout.readline().strip().decode(), c.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said, pid = process.stdout.readline().split()
        assert said == "True"
        assert not is_gone(int(pid))
        process.kill()
    # The pipe to the child closes when it is dead; until then the kernel may still be at it.
    for _ in range(600):
        if is_gone(int(pid)):
            return
        time.sleep(0.05)
    os.kill(int(pid), signal.SIGKILL)
    pytest.fail("the child outlived its parent")


@linux
def test_a_parent_that_was_dead_before_is_noticed() -> None:
    code = "from embank.system.process import die_with_parent; die_with_parent(parent_pid=1 << 22); print('alive')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (-signal.SIGKILL, "")


@linux
def test_a_signal_that_is_none_is_refused_by_the_kernel() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        die_with_parent(with_signal=1000)  # type: ignore[arg-type]  # that is the point


# --- children ---------------------------------------------------------------------------------------------------------


def test_lines_arrive_and_the_end_is_told(run: Run) -> None:
    result, lines = run(
        """
        import sys
        print("one", *sys.argv[1:])
        sys.stdout.buffer.write(b"two\\r\\n\\xff\\n\\nlast")
        print("went wrong", file=sys.stderr)
        sys.exit(3)
        """,
        "a b",
        "ü",
    )
    assert lines == ["one a b ü", "two", "\ufffd", "", "last"]
    assert (result.returncode, result.stderr_tail, result.timed_out) == (3, "went wrong\n", False)
    assert result.seconds > 0


def test_lines_arrive_while_the_child_runs(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "import pathlib, sys, time\nprint('ready')\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)\n"
    )
    go_on = tmp_path / "go"

    def answer(line: str) -> None:  # the child would wait for ever if its line came only at its end
        go_on.write_text(line)

    result = run_child(
        "job",
        [str(go_on)],
        on_line=answer,
        environ={"PYTHONPATH": str(tmp_path)},
        timeout_s=60,
    )
    assert (result.returncode, go_on.read_text()) == (0, "ready")


def test_only_the_tail_of_stderr_is_kept_and_much_output_does_not_block(run: Run) -> None:
    result, lines = run(
        """
        import sys
        for number in range(20_000):
            print("o" * 50, number)
            print("e" * 50, number, file=sys.stderr)
        """
    )
    assert len(lines) == 20_000
    assert len(result.stderr_tail) == 16 * 1024
    assert result.stderr_tail.endswith(" 19999\n")


def test_a_line_without_an_end_comes_in_pieces(run: Run) -> None:
    result, lines = run("print('x' * 5_000_000, end='')")
    assert result.returncode == 0
    assert sum(map(len, lines)) == 5_000_000
    assert 2 <= len(lines) <= 5
    assert max(map(len, lines)) < 1024 * 1024 + 64 * 1024


def test_it_imports_the_same_embank_and_nothing_from_the_working_directory(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "cwd"
    (trap / "embank").mkdir(parents=True)
    (trap / "embank" / "__init__.py").write_text("raise SystemExit('the wrong embank')")
    (trap / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(trap)
    result, lines = run("import json, embank.errors; print(json.dumps(embank.errors.__file__))")
    assert result.stderr_tail == ""
    assert json.loads(lines[0]) == embank.errors.__file__


def test_the_environment_is_laid_over_the_parents(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.setenv("CHANGED", "1")
    monkeypatch.setenv("REMOVED", "1")
    _, lines = run(
        "import os; print([os.environ.get(name) for name in ('KEPT', 'CHANGED', 'REMOVED')])",
        environ={"CHANGED": "2", "REMOVED": None},
    )
    assert lines == ["['1', '2', None]"]


def test_a_child_that_takes_too_long_is_killed_with_what_it_started(run: Run) -> None:
    code = """
        import subprocess, sys, time
        print("busy", file=sys.stderr)
        print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid)
        time.sleep(600)
        """
    lines: list[str] = []
    for timeout_s in (1, 5, 25):  # a machine may be too busy for the child to come that far in a second
        result, lines = run(code, timeout_s=timeout_s)
        assert result.timed_out
        assert result.returncode == -signal.SIGKILL
        if lines:
            assert result.stderr_tail == "busy\n"
            break
    for _ in range(600):
        if is_gone(int(lines[0])):
            return
        time.sleep(0.05)
    pytest.fail("the grandchild lives")


def test_a_child_that_closed_its_pipes_is_waited_for_and_timed_out(run: Run) -> None:
    result, _ = run("import os, time; os.close(1); os.close(2); time.sleep(600)", timeout_s=1)
    assert (result.timed_out, result.returncode) == (True, -signal.SIGKILL)
    result, _ = run("import os, time; os.close(1); os.close(2); time.sleep(0.3); os._exit(5)")
    assert (result.timed_out, result.returncode) == (False, 5)


@pytest.mark.parametrize("meanwhile", ["time.sleep(600)", "while True: print('x' * 1000)"])
def test_what_a_child_left_behind_is_not_waited_for(run: Run, meanwhile: str) -> None:
    code = f"""
        import subprocess, sys
        code = "import time\\n" + {meanwhile!r}
        print(subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL).pid)
        print("done", file=sys.stderr)
        """
    result, lines = run(code, timeout_s=None)
    os.kill(int(lines[0]), signal.SIGKILL)
    assert (result.returncode, result.timed_out, result.stderr_tail) == (0, False, "done\n")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["line", "start"])
def test_an_exception_in_the_parent_kills_the_child_and_passes(
    tmp_path: Path, error: type[BaseException], where: str
) -> None:
    (tmp_path / "job.py").write_text("import time\nprint('x')\ntime.sleep(600)\n")
    pids: list[int] = []

    def on_start(pid: int) -> None:
        pids.append(pid)
        if where == "start":
            raise error

    def on_line(line: str) -> None:
        raise error(line)

    with pytest.raises(error):
        run_child("job", [], on_line=on_line, environ={"PYTHONPATH": str(tmp_path)}, timeout_s=None, on_start=on_start)
    assert start_time(pids[0]) is None  # reaped, too


def test_a_module_that_is_not_there_is_told_by_the_child() -> None:
    result = run_child("embank.no_such_job", [], on_line=print, environ={}, timeout_s=60)
    assert result.returncode == 1
    assert "No module named embank.no_such_job" in result.stderr_tail


def test_a_child_that_crashes_says_by_which_signal(run: Run) -> None:
    result, _ = run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert (result.returncode, result.timed_out) == (-signal.SIGSEGV, False)
