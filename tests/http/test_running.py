"""Commands on a bank that a running server holds: the same answers, and what is told where it can't be asked."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from tests.http.serving import Served, serving
from typer.testing import CliRunner, Result

from embank.bank import open_bank
from embank.cli.program import app
from embank.cli.progress import Progress
from embank.client import local
from embank.embed.files.catalog import WORDLLAMA
from embank.embed.files.locate import find_files
from embank.errors import BankServed
from embank.http.keys import KeyBook
from embank.store.lock import SERVER, read_serving
from embank.testing.fakes import HashModel

NOTES = {
    "rivers.md": "# Rivers\n\nRivers carry silt and sand down to the sea.\n",
    "bread.txt": "Bread rises because yeast makes gas from sugar.\n",
}
_OWN = {"seconds", "added_at", "bank", "bytes_before", "bytes_after", "writers_waited_s", "reserved_bytes", "created"}
"""What no two runs have in common."""


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("EMBANK_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notes")
    for name, text in NOTES.items():
        (folder / name).write_text(text)
    (folder / "picture.dat").write_bytes(b"\0\1\2")
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of an empty bank with the small model that a package carries."""
    folder = tmp_path_factory.mktemp("running")
    if find_files(WORDLLAMA, directory=folder) is None:
        pytest.skip("the package wordllama is not installed")
    with serving(folder / "a.bank", model="wordllama") as running:
        yield running


def _run(bank: Path, *words: object, **options: Any) -> Result:
    return CliRunner().invoke(app, [*map(str, words), "--bank", str(bank)], **options)


def _told(found: Result) -> Any:
    return json.loads(found.stdout)


def _lasting(told: Any) -> Any:
    """An answer without what is of one run or one moment."""
    if isinstance(told, dict):
        return {
            key: _lasting(value)
            for key, value in told.items()
            if key not in _OWN and not (key in ("added", "changed") and isinstance(value, float))
        }
    return [_lasting(each) for each in told] if isinstance(told, list) else told


def test_every_command_answers_as_it_does_without_a_server(
    served: Served, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.bank"
    open_bank(own, model=HashModel()).close()
    monkeypatch.setenv("EMBANK_EMBED__MODEL", "wordllama")
    questions = tmp_path / "questions.txt"
    questions.write_text("what do rivers carry?\nwhat makes bread rise?\n")
    filter_ = '{"year": {"$gte": 2020}}'
    commands: list[tuple[object, ...]] = [
        ("count",),
        ("index", notes),
        ("index", notes),
        ("add", "--id", "a1", "--text", "Deltas grow from silt.", "--metadata", '{"year": 2024}'),
        ("add", "--text", "Yeast makes gas.", "-c", "dots", "--metric", "dot"),
        ("add", "--id", "g", "--text", "Die Häuser stehen.", "-c", "german", "--language", "german"),
        ("add", "--text", "x", "-c", "german", "--language", "klingon"),
        ("count",),
        ("count", "--where", filter_),
        ("count", "-c", "defualt"),
        ("get", "a1", "bread.txt"),
        ("get", "none"),
        ("list", "--limit", 2),
        ("list", "--where", filter_),
        ("list", "--limit", 0),
        ("list", "--limit", 100_001),
        ("add", "--text", "no number", "--metadata", '{"year": NaN}'),
        ("add", "--text", "x", "-c", "a/b"),
        ("count", "-c", ""),
        ("drop", "..", "--yes"),
        ("search", "what do rivers carry?", "-k", 2, "--neighbors", 1),
        ("search", "what do rivers carry?", "-k", 3, "--per-document", 2, "--mode", "dense"),
        ("search", "many", questions, "-k", 2),
        ("search", "many", questions, "-c", "none"),
        ("search", "silt", "--where", "{"),
        ("like", "a1", "-k", 2),
        ("search", "--like", "a1", "-k", 1001),
        ("add", "--id", "a1", "--text", "Deltas grow from silt.", "--metadata", '{"year": 2025}'),
        ("delete", "a1", "--dry-run"),
        ("delete", "--where", filter_, "--yes"),
        ("purge", "--keep", 1, "--dry-run"),
        ("purge", "--keep", 1, "--yes"),
        ("purge", "--keep", 1),
        ("compact", "--dry-run"),
        ("compact",),
        ("index", notes.with_name("nowhere")),
        ("drop", "dots", "--dry-run"),
        ("drop", "dots"),
        ("drop", "dots", "--yes"),
        ("drop", "dots", "--yes"),
        ("count", "-c", "dots"),
    ]
    for words in commands:
        there = _run(served.bank.path, *words, "--json")
        if words[0] in ("search", "like"):  # scores of words depend on how their index came about: ask the same one
            here = _run(served.bank.path, *words, "--json", "--set", "client.use_server=false")
        else:
            here = _run(own, *words, "--json")
        expected = json.loads(json.dumps(_lasting(_told(here))).replace(str(own), str(served.bank.path)))
        assert _lasting(_told(there)) == expected, words
        assert there.exit_code == here.exit_code, words
        if there.exit_code == 0:
            assert f"through the server at {served.url}" in there.stderr
            assert "through the server" not in here.stderr
    loud = _told(_run(served.bank.path, "search", "silt", "--mode", "loud", "--json"))["error"]
    assert (loud["kind"], loud["exit_code"]) == ("InvalidInput", 2)
    _run(served.bank.path, "add", "--text", "Yeast.", "-c", "dots", "--metric", "dot")
    other = _run(served.bank.path, "add", "--text", "Yeast.", "-c", "dots", "--metric", "l2", "--json")
    assert (_told(other)["error"]["kind"], other.exit_code) == ("MetricMismatch", 2)


def test_what_vanished_from_a_source_is_kept_until_it_is_pruned(served: Served, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "kept.txt").write_text("This one stays.")
    (folder / "gone.txt").write_text("This one goes.")
    index = ("index", folder, "-c", "some", "--json")
    first = _told(_run(served.bank.path, *index))["total"]
    assert (first["added"], first["chunks"]) == (2, 2)
    (folder / "gone.txt").unlink()
    assert _told(_run(served.bank.path, *index))["total"]["vanished"] == 1
    assert served.bank.collection("some").count() == 2
    assert _told(_run(served.bank.path, *index, "--prune"))["total"]["pruned"] == 1
    assert [each.id for each in served.bank.collection("some").list()] == ["kept.txt"]


def test_a_command_that_asks_a_server_starts_without_what_opens_a_bank(served: Served) -> None:
    _run(served.bank.path, "add", "-c", "kept", "--id", "x", "--text", "kept")
    command = [sys.executable, "-X", "importtime", "-m", "embank", "search", "kept", "-c", "kept", "--json"]
    found = subprocess.run([*command, "--bank", served.bank.path], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout)["hits"][0]["id"] == "x"
    imported = {line.rpartition("|")[2].strip() for line in found.stderr.splitlines()}
    assert "embank.remote.bank" in imported
    assert not imported & {"numpy", "tantivy", "onnxruntime", "tokenizers", "embank.engine", "embank.bank"}


def test_words_are_cut_by_the_language_that_was_said(served: Served, tmp_path: Path) -> None:
    (tmp_path / "haus.txt").write_text("Die Häuser stehen.")

    def found() -> list[str]:
        hits = _told(_run(served.bank.path, "search", "Haus", "-c", "worte", "--mode", "lexical", "--json"))["hits"]
        return [hit["id"] for hit in hits]

    _run(served.bank.path, "index", tmp_path / "haus.txt", "-c", "worte", "--language", "german")
    assert found() == ["haus.txt"]
    _run(served.bank.path, "index", tmp_path / "haus.txt", "-c", "worte", "--language", "none")
    assert found() == []


def test_ctrl_c_ends_the_job_and_tells_what_is_safe(served: Served, tmp_path: Path) -> None:
    lines = tmp_path / "many.jsonl"
    many = ({"id": str(each), "text": f"text {each} " * 40} for each in range(20_000))
    lines.write_text("".join(f"{json.dumps(each)}\n" for each in many))
    with patch.object(Progress, "update", side_effect=KeyboardInterrupt):
        found = _run(served.bank.path, "index", lines, "-c", "many", "--json")
    assert found.exit_code == 130
    safe = _told(found)["error"]["safe_documents"]
    for _ in range(200):  # the job ends at its next word
        if _states(served)["index"] == "cancelled":
            break
        time.sleep(0.05)
    assert _states(served)["index"] == "cancelled"
    assert 0 < safe <= served.bank.collection("many").count() < 20_000


def _states(served: Served) -> dict[str, str]:
    """The state of the latest job of each kind."""
    return {job["kind"]: job["state"] for job in reversed(served.http.get("/jobs").json()["jobs"])}


def test_memory_and_caches_are_the_servers(served: Served) -> None:
    memory = _told(_run(served.bank.path, "memory", "--warm", "--json"))
    assert memory["budget_bytes"] == served.bank.memory().budget_bytes
    assert memory.keys() == {"bank", *served.bank.memory().as_dict()}
    assert _run(served.bank.path, "memory").exit_code == 0
    _run(served.bank.path, "add", "-c", "cached", "--text", "kept")
    shown = _told(_run(served.bank.path, "cache", "--json"))
    assert shown["embeddings"]["entries"] > 0
    assert shown.keys() == {"bank", *served.bank.cache().as_dict()}
    assert "those of whoever answered, a server" in _run(served.bank.path, "cache").stdout
    assert _run(served.bank.path, "cache", "clear").exit_code == 0
    assert _told(_run(served.bank.path, "cache", "--json"))["embeddings"]["entries"] == 0


def test_what_only_reads_files_works_beside_it(served: Served, tmp_path: Path) -> None:
    _run(served.bank.path, "add", "-c", "kept", "--id", "x", "--text", "kept")
    for words in (
        ("stats",),
        ("verify",),
        ("backup", tmp_path / "copy"),
        ("export", tmp_path / "e.jsonl", "-c", "kept"),
    ):
        found = _run(served.bank.path, *words, "--json")
        assert found.exit_code == 0, found.output
    assert not (tmp_path / "copy" / SERVER).exists(), "the secret stays where it is"


@pytest.mark.parametrize("words", [("reembed", "kept", "--force"), ("migrate",), ("index", "build", "-c", "kept")])
def test_what_the_server_cannot_be_asked_for_says_to_stop_it(served: Served, words: tuple[str, ...]) -> None:
    _run(served.bank.path, "add", "-c", "kept", "--id", "x", "--text", "kept")
    error = _told(_run(served.bank.path, *words, "--json"))["error"]
    assert (error["kind"], error["exit_code"], error["endpoint"]) == ("BankServed", 4, served.url)
    assert "stop it" in error["message"]


def test_flags_for_opening_a_bank_are_not_passed_over(served: Served) -> None:
    _run(served.bank.path, "add", "-c", "kept", "--id", "x", "--text", "kept")
    told = _run(served.bank.path, "add", "--text", "x", "--model", "minilm", "--json")
    assert _told(told)["error"]["kind"] == "BankServed"
    assert "--model" in _told(told)["error"]["message"]
    read = _run(served.bank.path, "count", "-c", "kept", "--set", "search.mode=dense")
    assert (read.stdout, read.exit_code) == ("1\n", 0)
    assert "through" not in read.stderr
    beside = _run(served.bank.path, "count", "-c", "kept", "--set", "client.use_server=false")
    assert (beside.stdout, "through" in beside.stderr) == ("1\n", False)


def test_where_keys_are_asked_for_the_banks_own_secret_opens_it_here_alone(tmp_path: Path) -> None:
    bank = tmp_path / "a.bank"
    open_bank(bank, model=HashModel()).close()
    KeyBook(bank).add("somebody", "read", now=1.0)
    with serving(bank) as running:
        assert _run(bank, "add", "--id", "x", "--text", "kept").exit_code == 0
        assert running.http.get("/collections").status_code == 401
        serving_ = read_serving(bank)
        assert serving_ is not None
        for shown in (serving_.secret, local.token("0" * 64), local.token("")):
            headers = {"authorization": f"Bearer {shown}"}
            assert running.http.get("/collections", headers=headers).status_code == 401
        headers = {"authorization": f"Bearer {local.token(serving_.secret)}"}
        assert running.http.get("/audit", headers=headers).status_code == 200
        assert serving_.secret not in repr(serving_)
        # Nobody but its user may read it; from elsewhere it opens nothing.
        assert (bank / SERVER).stat().st_mode & 0o077 == 0
    assert not (bank / SERVER).exists()
    assert _run(bank, "count", "-c", "default").stdout == "1\n"


class _Other(BaseHTTPRequestHandler):
    """Another program, which writes down what it is told."""

    heard: list[str]

    def do_GET(self) -> None:
        self.heard.append(str(self.headers) + self.path)
        body = b'{"proof": "' + b"0" * 64 + b'"}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- its own form
        pass


def test_another_program_on_the_port_is_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = _left_behind(tmp_path)
    monkeypatch.setenv("EMBANK_CLIENT__KEY", "emb_secret")
    heard: list[str] = []
    with HTTPServer(("127.0.0.1", 0), type("Other", (_Other,), {"heard": heard})) as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            _announce(bank, f"http://127.0.0.1:{other.server_address[1]}", pid=os.getpid())
            found = _run(bank, "count")
        finally:
            other.shutdown()
            thread.join()
    assert (found.stdout, found.exit_code) == ("1\n", 0), "the bank is read as without a server"
    assert "does not answer as it should" in found.stderr
    assert len(heard) == 1
    assert "/proof?nonce=" in heard[0]
    assert "emb_" not in heard[0]


def test_a_server_that_was_killed_misleads_nobody(tmp_path: Path) -> None:
    bank = _left_behind(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.0)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        _announce(bank, url, pid=os.getpid(), started=1.0)  # the number of the process is another's now
        found = _run(bank, "count")
        assert (found.stdout, found.stderr) == ("1\n", "")
        with pytest.raises(BlockingIOError):
            listening.accept()
    with open_bank(bank, model=HashModel()):  # whoever writes the bank next takes it away
        assert not (bank / SERVER).exists()


def test_the_lock_names_the_server(served: Served) -> None:
    with pytest.raises(BankServed, match=served.url):
        open_bank(served.bank.path)


def _left_behind(tmp_path: Path) -> Path:
    bank = tmp_path / "a.bank"
    with open_bank(bank, model=HashModel()) as opened:
        opened.collection().add([{"id": "x", "text": "kept"}])
    return bank


def _announce(bank: Path, url: str, *, pid: int, started: float | None = None) -> None:
    fields = {"pid": pid, "started": started, "endpoint": url, "secret": "0" * 64}
    (bank / SERVER).write_text(json.dumps(fields))
