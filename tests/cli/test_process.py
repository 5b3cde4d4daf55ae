"""The program as a real process: starting, being interrupted, losing its reader."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from embank.bank import open_bank
from embank.errors import BankNotFound

Run = Callable[..., Result]

PATIENCE_S = 60.0


def start(*words: object, **options: Any) -> subprocess.Popen[str]:
    """The real program, with pipes for whatever is not given.

    As from a terminal: where the tests themselves run in the background of a shell, Ctrl-C is ignored, and children
    inherit that.
    """
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    inherited = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen([sys.executable, "-m", "embank", *map(str, words)], text=True, **{**pipes, **options})
    finally:
        signal.signal(signal.SIGINT, inherited)


def rows(count: int) -> Iterator[str]:
    for number in range(count):
        yield json.dumps({"id": f"r{number:04}", "text": f"Row number {number} tells of rivers."}) + "\n"


def documents_in(bank: Path) -> int:
    try:
        with open_bank(bank, read_only=True) as opened:
            return opened.collection().count()
    except BankNotFound:
        return 0


def told_by(*words: str, asked: str) -> list[str]:
    """What a fresh interpreter prints that runs this command line and then, as the last line, `asked`."""
    script = f"""
import os, sys
os.environ.pop("MALLOC_ARENA_MAX", None)
sys.argv = {["embank", *words]}
from embank.cli.app import main
assert not {{"numpy", "typer", "rich", "pydantic"}} & set(sys.modules)
try:
    main()
except SystemExit as end:
    print(end.code, {asked})
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return told.stdout.splitlines()


def test_the_version_costs_no_heavy_import() -> None:
    version, rest = told_by("--version", asked='"typer" in sys.modules or "numpy" in sys.modules')
    assert re.fullmatch(r"embank \d+\.\d+\.\d+\S*", version)
    assert rest == "0 False"


def test_help_names_every_command_and_needs_no_numpy() -> None:
    *lines, rest = told_by("--help", asked='"numpy" in sys.modules')
    assert rest == "0 False"
    for command in ("demo", "index", "add", "delete", "search", "get", "list", "count", "stats", "models", "config"):
        assert f" {command} " in "\n".join(lines)


def test_the_allocator_is_set_before_anything_heavy() -> None:
    assert told_by("config", "show", asked='os.environ["MALLOC_ARENA_MAX"]')[-1] == "0 1"


@pytest.mark.usefixtures("filled")
def test_a_search_as_a_process() -> None:
    with start("search", "restore a backup", "--json") as process:
        output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert json.loads(output)["hits"][0]["id"] == "backup.md"


def test_ctrl_c_leaves_what_was_written_and_the_same_command_goes_on(run: Run, workplace: Path) -> None:
    bank = workplace / "embank.bank"
    with start("index", "-", "--json") as process:
        assert process.stdin is not None
        # Two windows, and then the source makes the command wait.
        process.stdin.writelines(rows(600))
        process.stdin.flush()
        deadline_s = time.monotonic() + PATIENCE_S
        while documents_in(bank) < 512:
            assert time.monotonic() < deadline_s, "nothing was written"
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    assert process.returncode == 130, errors
    error = json.loads(output)["error"]
    assert "safe in" in error["message"]
    assert "run the same command again" in error["message"]
    assert error["safe_documents"] == documents_in(bank) == 512
    again = json.loads(run("index", "-", "--json", input="".join(rows(600))).stdout)["total"]
    assert (again["unchanged"], again["added"]) == (512, 88)
    assert run("count").stdout == "600\n"


@pytest.mark.usefixtures("filled")
def test_a_reader_that_goes_away_is_no_error() -> None:
    with start("list", "--json") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
    assert (process.returncode, errors) == (141, "")


def test_progress_goes_to_standard_error(workplace: Path) -> None:
    (workplace / "rows.jsonl").write_text("".join(rows(300)), encoding="utf-8")
    with start("index", "-") as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.writelines(rows(300))
        process.stdin.flush()
        line = process.stderr.readline()
        output, _ = process.communicate()
    # On a busy machine the model is still being loaded when the first line is due, which then says so.
    assert re.match(r"-: [\d,]+ documents?, [\d,]+ texts/s, (loading \w+ \d+%, \w+, )?memory .+ of .+", line)
    assert "embedded 300 documents" in output
