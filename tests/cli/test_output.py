from __future__ import annotations

import json

import pytest

from embank.cli.output import bar, duration, one_line, plain, size, write_json
from embank.cli.search import passage
from embank.cli.sources import guessed_kind


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert plain("a\x1b[2Jb\tc\nd") == "a\N{REPLACEMENT CHARACTER}[2Jb c d"
    assert plain("a\nb\rc", lines=True) == "a\nb c"
    assert plain("\u202egnp.exe") == "\N{REPLACEMENT CHARACTER}gnp.exe"
    assert plain("naïve 日本") == "naïve 日本"


def test_one_line_is_never_longer_than_asked() -> None:
    assert one_line("  a \n\n b  ", 10) == "a b"
    assert one_line("abcdefghij", 5) == "abcd…"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (123_456, "123 kB"),
        (192 * 10**6, "192 MB"),
        (5 * 10**12, "5000 GB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.0123, "12 ms"), (5, "5.0 s"), (125, "2:05"), (3725, "1:02:05")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_bar_is_as_wide_as_asked_whatever_it_holds() -> None:
    assert bar([(25, "red"), (25, "blue")], whole=100, width=8).plain == "████░░░░"
    assert bar([(300, "red")], whole=100, width=8).plain == "████████"
    assert bar([], whole=0, width=4).plain == "░░░░"


def test_json_is_one_document_in_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"name": "na\udcefve", "set": {2, 1}})
    written = capsys.readouterr().out
    assert written.isascii()
    assert written.count("\n") == 1
    assert json.loads(written) == {"name": "na\udcefve", "set": [1, 2]}


def test_a_passage_begins_near_the_question_and_marks_it() -> None:
    text = "filler " * 100 + "the backup is restored here " + "filler " * 100
    start = text.index("restored")
    shown = passage(text, [(start, start + 8)], limit=120)
    assert shown.plain.startswith("…")
    assert shown.plain.endswith("…")
    assert "restored here" in shown.plain
    assert len(shown.plain) <= 121
    assert [shown.plain[span.start : span.end] for span in shown.spans] == ["restored"]


def test_marks_stay_with_their_words_where_space_is_taken_out() -> None:
    text = "  A\n\n  backup\twas \x1b restored \n"
    spans = [(text.index(word), text.index(word) + len(word)) for word in ("A", "backup", "restored")]
    shown = passage(text, spans, limit=100)
    assert [shown.plain[span.start : span.end] for span in shown.spans] == ["A", "backup", "restored"]


def test_a_passage_without_the_questions_words_begins_at_the_start() -> None:
    assert passage("One two three.", [], limit=50).plain == "One two three."


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("stdlib", "stdlib"),
        ("./stdlib", "text"),
        ("-", "jsonl"),
        ("a.JSONL", "jsonl"),
        ("a.jsonl.gz", "jsonl"),
        ("notes", "text"),
    ],
)
def test_a_name_tells_how_a_source_is_read(name: str, kind: str) -> None:
    assert guessed_kind(name) == kind
