"""Every example of docs/service.md and of the README's part on the service, run as it stands, but for the address."""

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
PAGES = {
    "docs/service.md": (ROOT / "docs" / "service.md").read_text("utf-8"),
    "README.md": (ROOT / "README.md").read_text("utf-8").partition("\n## Serve it\n")[2].partition("\n## ")[0],
}
BLOCKS = [
    (page, number, language, text)
    for page, whole in PAGES.items()
    for number, (language, text) in enumerate(
        re.findall(r"^```(bash|python)\n(.*?)^```$", whole, re.MULTILINE | re.DOTALL)
    )
]


@pytest.mark.parametrize(("page", "least"), [("docs/service.md", 6), ("README.md", 2)])
def test_the_pages_have_examples(page: str, least: int) -> None:
    found = [language for name, _, language, _ in BLOCKS if name == page]
    assert set(found) == {"bash", "python"}
    assert len(found) >= least


@pytest.mark.parametrize(
    ("language", "text"),
    [pytest.param(language, text, id=f"{page}-{number}") for page, number, language, text in BLOCKS],
)
def test_the_examples_work(served: Served, tmp_path: Path, language: str, text: str) -> None:
    if language == "bash" and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    if "import OpenAI" in text:
        pytest.importorskip("openai", reason="the client of OpenAI is not installed")
    served.bank.collection("notes").add([{"id": "a1", "text": "Rivers carry silt.", "metadata": {"year": 2024}}])
    text = text.replace("http://127.0.0.1:8080", served.url)
    command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
    environ = {
        **os.environ,
        "EMBANK_EMBED__MODEL": "wordllama",
        "EMBANK_BANK": str(served.bank.path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.strip()
