"""Acts over HTTP are on record with the key that they were done for; and a backup holds no keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.http.serving import serving

from embank.bank import open_bank
from embank.http.keys import KeyBook
from embank.testing.fakes import HashModel

if TYPE_CHECKING:
    from tests.http.serving import Served

DOCUMENTS = [{"id": f"d{number}", "text": f"document {number}", "metadata": {"n": number}} for number in range(4)]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    """A server with one key, named "ops", that its client shows; and the key's id."""
    path = tmp_path_factory.mktemp("audited") / "a.bank"
    open_bank(path, model=HashModel()).close()
    key, token = KeyBook(path).add("ops", "admin", now=1.0)
    with serving(path) as served:
        served.http.headers["authorization"] = f"Bearer {token}"
        yield served, key.id


def on_record(served: Served, act: str) -> dict[str, Any]:
    """The details of the latest act of that kind."""
    acts = served.http.get("/audit").json()["acts"]
    found: dict[str, Any] = next(each["detail"] for each in acts if each["act"] == act)
    return found


def test_every_act_names_the_key_and_the_request(keyed: tuple[Served, str]) -> None:
    served, key = keyed
    notes = "/collections/notes"
    assert served.http.post(f"{notes}/documents", json={"documents": DOCUMENTS}).status_code == 200
    for act, method, path, body in [
        ("delete", "POST", f"{notes}/documents/delete", {"ids": ["d0"]}),
        ("purge", "POST", f"{notes}/purge", {"where": {"n": 1}}),
        ("compact", "POST", f"{notes}/compact", {}),
        ("protect", "PATCH", notes, {"protected": True}),
        ("unprotect", "PATCH", notes, {"protected": False}),
        ("drop", "DELETE", notes, None),
        ("admin", "POST", "/cache/clear", None),
    ]:
        answer = served.http.request(method, path, json=body)
        assert answer.status_code == 200, answer.text
        actor = {"key": key, "name": "ops", "request_id": answer.headers["x-request-id"]}
        assert on_record(served, act)["actor"] == actor, act
    assert on_record(served, "admin")["request"] == "POST /cache/clear"


def test_without_keys_it_was_this_machine(served: Served) -> None:
    answer = served.http.post("/cache/clear")
    assert on_record(served, "admin")["actor"] == {"key": "loopback", "request_id": answer.headers["x-request-id"]}
    served.bank.collection("own").protect()  # by the program itself
    assert "actor" not in served.bank.audit()[0].detail


def test_a_backup_holds_no_keys(keyed: tuple[Served, str], tmp_path: Path) -> None:
    served, _ = keyed
    assert (served.bank.path / "keys.json").exists()
    served.bank.backup(tmp_path / "copy")
    assert {each.name for each in (tmp_path / "copy").iterdir()} <= {"BACKUP", "FORMAT", "bank.db", "vectors"}
