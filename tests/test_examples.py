"""Every file of examples/ is run as it stands, with a small real model."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from embank.embed.files.catalog import WORDLLAMA
from embank.embed.files.locate import find_files

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
FRAMES = {"langchain_search.py": "langchain_core", "llamaindex_search.py": "llama_index.core"}
RUN = {"quickstart.py", "openai_client.py", "streamlit_search.py", "mcp_client.py", *FRAMES}


def run(name: str, *words: str) -> list[str]:
    """The lines that an example prints."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EMBANK_")}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**environ, "EMBANK_EMBED__MODEL": "wordllama"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@dataclass(frozen=True)
class Made:
    """The bank that quickstart.py makes, and what it printed."""

    bank: str
    lines: list[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("examples")
    if find_files(WORDLLAMA, directory=folder) is None:
        pytest.skip("the package wordllama is not installed")
    return Made(str(folder / "notes.bank"), run("quickstart.py", str(folder / "notes.bank")))


def test_each_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == RUN
    told = (EXAMPLES / "README.md").read_text("utf-8")
    assert all(f"`{name}`" in told for name in RUN)


def test_the_quick_start_finds_what_it_wrote(made: Made) -> None:
    assert made.lines[0].split()[1] == "bread"
    assert made.lines[-1].endswith("of 512 MB are in use")


def test_an_assistants_client_searches_and_reads(made: Made) -> None:
    pytest.importorskip("mcp", reason="the extra mcp is not installed")
    assert run("mcp_client.py", made.bank)[-1] == "Bread rises because yeast makes gas from sugar."


@pytest.mark.parametrize("name", FRAMES)
def test_frameworks_search_what_a_server_holds(tmp_path: Path, name: str) -> None:
    pytest.importorskip(FRAMES[name], reason=f"{FRAMES[name]} is not installed")
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    from tests.http.serving import serving

    if find_files(WORDLLAMA, directory=tmp_path) is None:
        pytest.skip("the package wordllama is not installed")
    with serving(tmp_path / "a.bank", model="wordllama") as served:
        lines = run(name, served.url)
    assert lines == [
        "what do rivers carry?  silt: Rivers carry silt to the sea.",
        "how does dough get airy?  bread: Bread rises because yeast makes gas from sugar.",
    ]


def test_the_page_searches(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    testing = pytest.importorskip("streamlit.testing.v1", reason="the extra streamlit is not installed")
    import streamlit

    monkeypatch.setattr(sys, "argv", ["streamlit_search.py", made.bank])
    try:
        page = testing.AppTest.from_file(str(EXAMPLES / "streamlit_search.py"), default_timeout=60).run()
        page.text_input[0].set_value("how does dough get airy?").run()
        assert not page.exception
        assert page.markdown[0].value.startswith("**bread**")
    finally:
        streamlit.cache_resource.clear()


def test_the_client_of_openai_gets_vectors(tmp_path: Path) -> None:
    pytest.importorskip("openai", reason="the client of OpenAI is not installed")
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    from tests.http.serving import serving

    with serving(tmp_path / "a.bank") as served:
        assert run("openai_client.py", served.url)[0] == "Rivers carry silt.  64 dimensions"
