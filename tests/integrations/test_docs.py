"""The blocks of docs/integrations.md that open a bank, run as they stand but for a small model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from embank.embed.files.catalog import WORDLLAMA
from embank.embed.files.locate import find_files

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "integrations.md").read_text("utf-8")
NEEDED = {"LangChain": "langchain_core", "LlamaIndex": "llama_index.core"}


@pytest.mark.parametrize("section", NEEDED)
def test_what_the_page_shows_works(
    section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(NEEDED[section], reason=f"{NEEDED[section]} is not installed")
    if find_files(WORDLLAMA, directory=tmp_path) is None:
        pytest.skip("the package wordllama is not installed")
    part = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    [block] = re.findall(r"^```python\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBANK_EMBED__MODEL", "wordllama")
    exec(compile(block, f"docs/integrations.md: {section}", "exec"), {})  # noqa: S102 -- our own page
    assert "Rivers carry silt." in capsys.readouterr().out
    assert (tmp_path / "my.bank").is_dir()
