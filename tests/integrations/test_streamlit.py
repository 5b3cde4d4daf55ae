"""The Streamlit helper, in scripts that Streamlit runs: sessions, reruns, other settings, and the end of a server."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("streamlit", reason="the extra streamlit is not installed")

import streamlit
from streamlit.testing.v1 import AppTest

from embank.bank import Bank, open_bank
from embank.errors import BankLocked
from embank.integrations import streamlit as helper

SCRIPT = """
import streamlit as st
from embank.integrations.streamlit import shared_bank

bank = shared_bank({path!r}, memory=st.text_input("memory", "512MB"))
st.write(f"{{id(bank)}} {{bank.memory().budget_bytes}}")
"""


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Bank]]:
    """The banks that were opened, in their order; what is cached is cleared at the end."""
    banks = []

    def opening(*args: Any, **options: Any) -> Bank:
        banks.append(open_bank(*args, **options))
        return banks[-1]

    monkeypatch.setattr(helper, "open_bank", opening)
    yield banks
    streamlit.cache_resource.clear()


def session(path: Path) -> AppTest:
    return AppTest.from_string(SCRIPT.format(path=str(path)), default_timeout=30)


def is_free(path: Path) -> bool:
    """Whether nobody writes the bank."""
    try:
        open_bank(path, memory="512MB").close()
    except BankLocked:
        return False
    return True


def test_sessions_and_reruns_share_one_bank(tmp_path: Path, opened: list[Bank]) -> None:
    first, second = session(tmp_path / "a.bank"), session(tmp_path / "." / "a.bank")
    shown = {run.markdown[0].value for run in (first.run(), first.run(), second.run())}
    assert len(shown) == len(opened) == 1
    assert not first.exception


def test_sessions_that_come_at_once_open_it_once(tmp_path: Path, opened: list[Bank]) -> None:
    start = threading.Barrier(8)
    got = []

    def come() -> None:
        start.wait()
        got.append(helper.shared_bank(tmp_path / "a.bank", memory="512MB"))

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, got))) == len(opened) == 1


def test_another_budget_closes_the_bank_and_opens_it_with_that(tmp_path: Path, opened: list[Bank]) -> None:
    app = session(tmp_path / "a.bank").run()
    assert app.markdown[0].value.endswith(" 512000000")
    app.text_input[0].set_value("300MB").run()
    assert not app.exception
    assert app.markdown[0].value.endswith(" 300000000")
    assert len(opened) == 2


def test_a_bank_that_can_not_be_opened_says_why_and_can_be_tried_again(tmp_path: Path, opened: list[Bank]) -> None:
    app = session(tmp_path / "a.bank")
    with open_bank(tmp_path / "a.bank", memory="512MB"):
        assert "open for writing" in app.run().exception[0].message
    assert not app.run().exception


def test_banks_are_bounded_and_those_that_give_way_are_closed(tmp_path: Path, opened: list[Bank]) -> None:
    paths = [tmp_path / f"{number}.bank" for number in range(helper.MOST_BANKS + 1)]
    for path in paths:
        helper.shared_bank(path, memory="512MB")
    assert [is_free(path) for path in paths] == [True] + [False] * helper.MOST_BANKS
    streamlit.cache_resource.clear()
    assert all(is_free(path) for path in paths)


def test_the_end_of_the_process_closes_it(tmp_path: Path) -> None:
    code = (
        "import sys, embank.bank\n"
        "from embank.integrations.streamlit import shared_bank\n"
        "close = embank.bank.Bank.close\n"
        "embank.bank.Bank.close = lambda bank: (close(bank), print('closed'))\n"
        "shared_bank(sys.argv[1], memory='512MB')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.bank")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == "closed\n", done.stderr
    assert (tmp_path / "a.bank" / "LOCK").read_text() == ""
