"""What is said while a model is being loaded."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator

import pytest

from embank.cli.loading import telling_loads
from embank.cli.progress import Progress
from embank.events.kinds import ModelLoaded, ModelLoadFailed, ModelLoadProgressed, ModelLoadStarted
from embank.events.stream import Stream
from embank.memory.governor import Governor

AT_ONCE_S = 0.0
NEVER_S = 3600.0


class Screen(io.StringIO):
    """A standard error that says when something was written to it."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal
        self.written = threading.Event()

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        count = super().write(text)
        if "loading" in self.getvalue():
            self.written.set()
        return count


@pytest.fixture
def stream() -> Iterator[Stream]:
    with Stream() as made:
        yield made


def screen(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> Screen:
    made = Screen(terminal=terminal)
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setenv("TERM", "xterm")
    return made


def test_a_slow_load_is_one_plain_line_where_no_terminal_is(monkeypatch: pytest.MonkeyPatch, stream: Stream) -> None:
    seen = screen(monkeypatch, terminal=False)
    with telling_loads(stream, slow_s=AT_ONCE_S):
        stream.publish(ModelLoadStarted("minilm"))
        assert seen.written.wait(10)
        stream.publish(ModelLoadProgressed("minilm", 0.42, "converting layers"))
        stream.publish(ModelLoadProgressed("minilm", 0.85, "opening"))
        stream.publish(ModelLoaded("minilm", "f", 0.7, 1))
        assert stream.flush(10)
    lines = seen.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("loading minilm: ")


def test_a_terminal_sees_a_line_that_goes_away(monkeypatch: pytest.MonkeyPatch, stream: Stream) -> None:
    seen = screen(monkeypatch, terminal=True)
    with telling_loads(stream, slow_s=AT_ONCE_S):
        stream.publish(ModelLoadStarted("minilm"))
        assert seen.written.wait(10)
        stream.publish(ModelLoadFailed("minilm", "weights are damaged"))
        assert stream.flush(10)
    assert "loading minilm" in seen.getvalue()
    assert seen.getvalue().endswith("\x1b[2K") or "\x1b[?25h" in seen.getvalue(), "wiped, and the cursor is back"


def test_a_quick_load_is_not_worth_a_word(monkeypatch: pytest.MonkeyPatch, stream: Stream) -> None:
    seen = screen(monkeypatch, terminal=False)
    before = threading.active_count()
    with telling_loads(stream, slow_s=NEVER_S):
        stream.publish(ModelLoadStarted("minilm"))
        stream.publish(ModelLoaded("minilm", "f", 0.1, 1))
        assert stream.flush(10)
    with telling_loads(stream, slow_s=NEVER_S):
        stream.publish(ModelLoadStarted("minilm"))  # and the command ends before it does
        assert stream.flush(10)
    assert seen.getvalue() == ""
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(10)
    assert threading.active_count() <= before + 1, "the stream's own"


def test_quiet_says_nothing(monkeypatch: pytest.MonkeyPatch, stream: Stream) -> None:
    seen = screen(monkeypatch, terminal=False)
    with telling_loads(stream, quiet=True, slow_s=AT_ONCE_S):
        stream.publish(ModelLoadStarted("minilm"))
        assert stream.flush(10)
    assert seen.getvalue() == ""


def test_an_ingest_tells_of_its_models_load_in_its_own_line() -> None:
    progress = Progress("notes", Governor(1 << 40).snapshot)
    progress.hear(ModelLoadStarted("minilm"))
    progress.hear(ModelLoadProgressed("minilm", 0.42, "converting layers"))
    assert "loading minilm 42%, converting layers" in progress.line()
    progress.hear(ModelLoaded("minilm", "f", 0.7, 1))
    assert "loading" not in progress.line()
