"""`embank serve` as a process of its own, and `embank keys`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from typer.testing import CliRunner

from embank.bank import open_bank
from embank.cli.program import app
from embank.embed.files.catalog import WORDLLAMA
from embank.embed.files.locate import find_files
from embank.errors import MissingExtra
from embank.testing.fakes import HashModel

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("fastapi", reason="the extra serve is not installed")


def _run(bank: Path, *words: str) -> Any:
    found = CliRunner().invoke(app, [*words, "--bank", str(bank), "--json"])
    return json.loads(found.stdout)


def test_it_serves_with_keys_takes_tokens_and_ends_on_sigterm(tmp_path: Path) -> None:
    if find_files(WORDLLAMA, directory=tmp_path) is None:
        pytest.skip("the package wordllama is not installed")
    bank = tmp_path / "a.bank"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EMBANK_")}
    command = [sys.executable, "-m", "embank", "serve", "--bank", str(bank), "--port", "0", "--model", "wordllama"]
    process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True, env=environ)
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["keys"] == 0
        assert json.loads((bank / "SERVER").read_text())["endpoint"] == told["endpoint"]
        assert (bank / "SERVER").stat().st_mode & 0o777 == 0o600
        made = _run(bank, "keys", "add", "laptop", "--scope", "write")
        with httpx2.Client(base_url=told["endpoint"], timeout=60) as http:
            assert http.get("/collections").status_code == 401, "from the first key on one is needed"
            http.headers["authorization"] = f"Bearer {made['key']}"
            written = http.post("/collections/c/documents", json={"documents": [{"id": "x", "text": "kept"}]})
            assert written.json()["added"] == 1
            tokens = http.post("/v1/embeddings", json={"model": "wordllama", "input": [[9906], [9906, 1917]]}).json()
            texts = http.post("/v1/embeddings", json={"model": "wordllama", "input": ["x"]}).json()
            assert [len(each["embedding"]) for each in tokens["data"]] == [len(texts["data"][0]["embedding"])] * 2
            beyond = http.post("/v1/embeddings", json={"model": "wordllama", "input": [2_000_000_000]})
            assert beyond.status_code == 400
        _run(bank, "keys", "revoke", made["id"])
        assert [each["revoked"] is not None for each in _run(bank, "keys", "list")["keys"]] == [True]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    assert (bank / "LOCK").read_text() == ""
    assert not (bank / "SERVER").exists()


def test_wrong_scopes_and_banks_are_told(tmp_path: Path) -> None:
    assert _run(tmp_path / "none", "keys", "add", "x")["error"]["kind"] == "BankNotFound"


def test_without_the_extra_it_says_which(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['fastapi'] = None\n"
        "from embank.cli.app import main; sys.argv = ['embank', 'serve', '--bank', sys.argv[1], '--json']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "b")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "embank[serve]" in json.loads(done.stdout)["error"]["message"]


def test_telemetry_without_its_extra_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from embank.http.server import BankServer

    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "embank.http.telemetry.sending", raising=False)
    flags = {"telemetry.traces": True, "http.port": 0}
    with (
        open_bank(tmp_path / "a.bank", model=HashModel(), flags=flags) as bank,
        pytest.raises(MissingExtra, match=r"embank\[otel\]"),
    ):
        BankServer(bank)
