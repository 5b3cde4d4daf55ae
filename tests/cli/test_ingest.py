from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.source import pdfs
from typer.testing import Result

Run = Callable[..., Result]


def report(result: Result) -> dict[str, object]:
    """The totals of an `index --json`."""
    assert result.exit_code == 0, result.output
    total: dict[str, object] = json.loads(result.stdout)["total"]
    return total


def test_index_tells_what_it_did(run: Run, notes: Path) -> None:
    result = run("index", notes)
    assert result.exit_code == 0
    assert "embedded 3 documents as 3 passages" in result.stdout
    assert "skipped: binary" in result.stdout
    assert "picture.dat" in result.stdout


def test_a_second_index_embeds_nothing_and_says_so(run: Run, notes: Path) -> None:
    run("index", notes)
    result = run("index", notes)
    assert result.exit_code == 0
    assert "nothing to embed: 3 documents unchanged" in result.stdout


def test_a_changed_file_alone_is_embedded_again(run: Run, notes: Path) -> None:
    run("index", notes)
    (notes / "rivers.md").write_text("# Rivers\n\nRivers also carry gravel.\n", encoding="utf-8")
    total = report(run("index", notes, "--json"))
    assert (total["updated"], total["unchanged"], total["chunks"]) == (1, 2, 1)


def test_a_vanished_file_is_kept_until_pruned(run: Run, notes: Path) -> None:
    run("index", notes)
    (notes / "backup.md").unlink()
    kept = run("index", notes)
    assert "no longer in the source, kept; --prune deletes them" in kept.stdout
    assert run("count").stdout == "3\n"
    total = report(run("index", notes, "--prune", "--json"))
    assert (total["vanished"], total["pruned"]) == (1, 1)
    assert run("count").stdout == "2\n"


def test_html_and_pdf_lie_among_the_others(run: Run, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (notes / "lakes.html").write_text("<title>Lakes</title><nav>Home</nav><p>Lakes lie still.</p>", encoding="utf-8")
    (notes / "ice.pdf").write_bytes(pdfs.pdf("Glaciers grind rock."))
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    result = run("index", notes)
    assert "skipped: missing extra" in result.stdout
    assert "ice.pdf" in result.stdout
    [hit] = json.loads(run("search", "Lakes lie still", "-k", 1, "--json").stdout)["hits"]
    assert (hit["id"], hit["text"]) == ("lakes.html", "Lakes lie still.")
    alone = run("index", notes / "ice.pdf")
    assert alone.exit_code == 2
    assert "embank[docs]" in alone.stderr


def test_rows_of_parquet(run: Run, workplace: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"id": ["r1"], "body": ["Volcanoes throw ash."]}), "rows.parquet")
    wrong = run("index", "rows.parquet")
    assert wrong.exit_code == 2
    assert "source.text_key" in wrong.stderr
    said = json.loads(run("index", "rows.parquet", "--set", "source.text_key=body", "--json").stdout)
    assert [(each["kind"], each["added"]) for each in said["sources"]] == [("parquet", 1)]
    assert "Volcanoes throw ash." in run("get", "r1").stdout


def test_several_sources_are_added_up(run: Run, notes: Path, workplace: Path) -> None:
    (workplace / "rows.jsonl").write_text('{"id": "r1", "text": "Volcanoes throw ash."}\n', encoding="utf-8")
    result = run("index", notes, "rows.jsonl", "--json")
    said = json.loads(result.stdout)
    assert [(each["kind"], each["added"]) for each in said["sources"]] == [("text", 3), ("jsonl", 1)]
    assert said["total"]["added"] == 4
    assert said["total"]["skipped"] == {"binary": 1}


def test_globs_and_hidden_files(run: Run, notes: Path) -> None:
    (notes / ".secret.md").write_text("A hidden text.\n", encoding="utf-8")
    total = report(run("index", notes, "--include", "*.md", "--exclude", "rivers*", "--hidden", "--json"))
    assert total["added"] == 2
    assert [each["id"] for each in json.loads(run("list", "--json").stdout)["documents"]] == [".secret.md", "backup.md"]


def test_gitignored_files_only_when_asked(run: Run, notes: Path) -> None:
    (notes / ".gitignore").write_text("backup.md\n", encoding="utf-8")
    assert report(run("index", notes, "--json"))["added"] == 2
    assert report(run("index", notes, "--no-gitignore", "--json"))["added"] == 1


def test_a_broken_line_is_skipped_with_its_number(run: Run, workplace: Path) -> None:
    lines = [
        '{"id": "a", "text": "One."}',
        '{"id": "b", "text": "Two."}',
        '{"id": "c", "te',
        '{"id": "d", "text": "Four."}',
    ]
    (workplace / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    result = run("index", "rows.jsonl")
    assert result.exit_code == 0
    assert "skipped: broken line" in result.stdout
    assert "rows.jsonl:3" in result.stdout
    assert run("count").stdout == "3\n"


def test_rows_from_standard_input(run: Run) -> None:
    rows = "".join(json.dumps({"id": f"r{number}", "text": f"Row {number}."}) + "\n" for number in range(5))
    total = report(run("index", "-", "-c", "rows", "--json", input=rows))
    assert total["added"] == 5
    assert run("count", "-c", "rows").stdout == "5\n"


def test_docstrings_of_a_folder(run: Run, workplace: Path) -> None:
    (workplace / "tool.py").write_text('def greet():\n    """Say hello to somebody."""\n', encoding="utf-8")
    assert report(run("index", "tool.py", "--as", "docstrings", "--json"))["added"] == 1
    assert json.loads(run("list", "--json").stdout)["documents"][0]["id"] == "tool.greet"


def test_a_missing_folder_makes_no_bank(run: Run, workplace: Path) -> None:
    result = run("index", "nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.stderr
    assert result.stdout == ""
    assert not (workplace / "embank.bank").exists()


def test_an_empty_folder_is_no_error(run: Run, workplace: Path) -> None:
    (workplace / "empty").mkdir()
    result = run("index", "empty")
    assert result.exit_code == 0
    assert "nothing to index: no documents found" in result.stdout


def test_an_unknown_kind_of_source_lists_the_known(run: Run, notes: Path) -> None:
    result = run("index", notes, "--as", "docstring")
    assert result.exit_code == 2
    assert "did you mean 'docstrings'?" in result.stderr


def test_add_replaces_by_id(run: Run) -> None:
    first = run("add", "--id", "a1", "--text", "Rivers carry silt.", "--metadata", '{"year": 2024}')
    assert (first.exit_code, first.stdout) == (0, "a1: added (1 document in default)\n")
    assert (
        "unchanged" in run("add", "--id", "a1", "--text", "Rivers carry silt.", "--metadata", '{"year": 2024}').stdout
    )
    assert "metadata updated" in run("add", "--id", "a1", "--text", "Rivers carry silt.").stdout
    assert run("add", "--id", "a1", "--text", "Rivers carry sand.").stdout == "a1: updated (1 document in default)\n"


def test_add_without_an_id_is_known_by_its_text(run: Run) -> None:
    first = json.loads(run("add", "--text", "Yeast makes gas.", "--json").stdout)
    again = json.loads(run("add", "--json", input="Yeast makes gas.").stdout)
    assert first["id"] == again["id"]
    assert (first["report"]["added"], again["report"]["unchanged"], again["count"]) == (1, 1, 1)
    assert json.loads(run("get", first["id"], "--json").stdout)["documents"][0]["text"] == "Yeast makes gas."


def test_add_reads_a_file(run: Run, notes: Path) -> None:
    run("add", "--file", notes / "deep" / "bread.txt", "--id", "bread")
    assert "yeast" in run("get", "bread").stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--text", "x", "--file", "y"], "not both"),
        (["--file", "nowhere.txt"], "nowhere.txt can't be read"),
        (["--text", "x", "--metadata", "{year: 1}"], "--metadata: '{year: 1}' is not JSON"),
        (["--text", "x", "--metadata", "[1]"], "is not a JSON object"),
    ],
)
def test_add_refuses_what_it_cannot_use(run: Run, workplace: Path, words: list[str], told: str) -> None:
    result = run("add", *words)
    assert result.exit_code == 2
    assert told in result.stderr
    assert not (workplace / "embank.bank").exists()


def test_add_refuses_bytes_that_are_no_text(run: Run) -> None:
    result = run("add", input=b"caf\xe9")
    assert result.exit_code == 2
    assert "standard input is not UTF-8 text, at byte 3" in result.stderr


def test_the_language_of_words_is_chosen_with_the_first_document(run: Run, workplace: Path) -> None:
    assert workplace.exists()
    assert run("add", "--id", "a", "--text", "Die Häuser am Fluss.", "--language", "german").exit_code == 0
    found = json.loads(run("search", "Hauses", "--mode", "lexical", "--json").stdout)
    assert [hit["id"] for hit in found["hits"]] == ["a"]
    assert run("add", "--id", "b", "--text", "Brot.", "--language", "klingon").exit_code == 2
