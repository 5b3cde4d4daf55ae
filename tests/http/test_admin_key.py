"""A key that comes with the settings: what sets servers up can call them, and others need not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.http.serving import serving

from embank.config import load_config
from embank.errors import ConfigError
from embank.http.keys import KeyBook

if TYPE_CHECKING:
    from pathlib import Path

KEY = "k" * 40


def test_it_opens_everything_beside_the_banks_own_keys(tmp_path: Path) -> None:
    with serving(tmp_path / "a.bank", host="0.0.0.0", admin_key=f"{KEY}\n") as served:  # noqa: S104 -- with a key
        port = served.address[1]

        def status(token: str) -> int:
            headers = {"authorization": f"Bearer {token}"} if token else {}
            return served.http.get(f"http://127.0.0.1:{port}/audit", headers=headers).status_code

        assert [status(""), status("k" * 39), status(KEY)] == [401, 401, 200]
        _, token = KeyBook(served.bank.path).add("own", "admin", now=1.0)
        assert [status(token), status(KEY)] == [200, 200]
        assert KEY not in (served.bank.path / "keys.json").read_text()


@pytest.mark.parametrize("given", ["k" * 31, f"{'k' * 32} k"])
def test_one_that_could_be_guessed_is_refused_and_not_shown(given: str) -> None:
    with pytest.raises(ConfigError, match=r"http\.admin_key.*hidden") as told:
        load_config({}, environ={"EMBANK_HTTP__ADMIN_KEY": given})
    assert given not in str(told.value)
