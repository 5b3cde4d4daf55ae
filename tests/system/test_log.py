"""The logging set-up: where lines go, what they look like, and whose handlers it leaves alone."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from embank.errors import ConfigError
from embank.system.log import configure, get_logger, unconfigure
from embank.system.log_settings import Settings


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    unconfigure()


def entries(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_loggers_live_under_embank() -> None:
    assert get_logger("embank.store.local").name == "embank.store.local"
    assert get_logger("app.jobs").name == "embank.app.jobs"
    assert get_logger("embankment").name == "embank.embankment"
    assert get_logger("embank") is get_logger("") is logging.getLogger("embank")


def test_a_text_line_has_the_documented_format() -> None:
    stream = io.StringIO()
    configure(Settings(level="info"), stream=stream)
    get_logger("embank.store").info("committed %d", 3)
    get_logger("embank.store").debug("not this")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - embank\.store - INFO - committed 3\n", stream.getvalue()
    )


def test_a_json_line_has_time_name_level_message_exception_and_extra() -> None:
    stream = io.StringIO()
    configure(Settings(format="json"), stream=stream)
    looped: list[object] = []
    looped.append(looped)
    try:
        raise KeyError("gone")  # noqa: TRY301 - an error to log
    except KeyError:
        get_logger("x").exception("lost\nit", extra={"rows": 3, "rate": float("nan"), "path": Path("a"), "me": looped})
    get_logger("x").warning("fine ü \udc80")
    first, second = entries(stream)
    assert list(first) == ["time", "name", "level", "message", "exception", "extra"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", str(first["time"]))
    assert (first["name"], first["level"], first["message"]) == ("embank.x", "ERROR", "lost\nit")
    assert str(first["exception"]).endswith("KeyError: 'gone'")
    extra = first["extra"]
    assert isinstance(extra, dict)
    assert (extra["rows"], extra["rate"], extra["path"]) == (3, "nan", repr(Path("a")))
    assert list(second) == ["time", "name", "level", "message"]
    assert second["message"] == "fine ü \udc80"


def test_a_second_call_replaces_the_first_and_leaves_a_users_handler() -> None:
    logger = logging.getLogger("embank")
    first, second, own = io.StringIO(), io.StringIO(), io.StringIO()
    users = logging.StreamHandler(own)
    logger.addHandler(users)
    try:
        configure(Settings(), stream=first)
        configure(Settings(), stream=second)
        logger.warning("once")
        unconfigure()
        logger.warning("twice")
    finally:
        logger.removeHandler(users)
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1
    assert own.getvalue() == "once\ntwice\n"


def test_a_file_gets_the_lines_too_and_its_folder_is_made(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "embank.log"
    stream = io.StringIO()
    configure(Settings(file=file), stream=stream)
    get_logger("x").warning("kept \udc80")
    unconfigure()
    assert file.read_text(encoding="utf-8").endswith(" - embank.x - WARNING - kept \\udc80\n")
    configure(Settings(file=file, console=False), stream=stream)
    get_logger("x").warning("alone")
    unconfigure()
    assert len(file.read_text(encoding="utf-8").splitlines()) == 2
    assert "alone" not in stream.getvalue()


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "embank.log"
    configure(Settings(file=file, console=False))
    get_logger("x").warning("one")
    file.rename(tmp_path / "embank.log.1")
    get_logger("x").warning("two")
    unconfigure()
    assert [line.split()[-1] for line in file.read_text().splitlines()] == ["two"]


def test_a_file_that_cannot_be_opened_changes_nothing(tmp_path: Path) -> None:
    stream = io.StringIO()
    configure(Settings(), stream=stream)
    with pytest.raises(ConfigError, match=r"log\.file: '.*' can't be written: Is a directory"):
        configure(Settings(file=tmp_path, level="error"))
    get_logger("x").warning("still")
    assert stream.getvalue().endswith("still\n")


def test_settings_take_any_case_and_refuse_the_rest() -> None:
    assert Settings.model_validate({"level": "DEBUG", "format": "JSON"}) == Settings(level="debug", format="json")
    for wrong in ({"level": "loud"}, {"level": 10}, {"format": "xml"}, {"colour": True}):
        with pytest.raises(ValidationError):
            Settings.model_validate(wrong)


def test_as_a_library_it_is_silent_and_leaves_the_root_logger_alone() -> None:
    code = (
        "import logging; from embank.system.log import get_logger; get_logger('x').error('no');"
        "print(logging.getLogger().handlers, logging.getLogger().level == logging.WARNING)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("[] True\n", "")
