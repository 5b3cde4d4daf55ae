"""Every example of docs/service.md, run as it stands, but for the address."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.http.serving import Served

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(
    r"^```(bash|python)\n(.*?)^```$", (ROOT / "docs" / "service.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
)


def test_the_page_has_examples() -> None:
    assert {language for language, _ in BLOCKS} == {"bash", "python"}
    assert len(BLOCKS) >= 6


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_examples_work(served: Served, tmp_path: Path, number: int) -> None:
    language, text = BLOCKS[number]
    if language == "bash" and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    if "import OpenAI" in text:
        pytest.importorskip("openai", reason="the client of OpenAI is not installed")
    served.bank.collection("notes").add([{"id": "a1", "text": "Rivers carry silt.", "metadata": {"year": 2024}}])
    text = text.replace("http://127.0.0.1:8080", served.url)
    command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
    environ = {**os.environ, "EMBANK_EMBED__MODEL": "wordllama"}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.strip()
