"""A collection as frameworks use it, by an open bank and by a running server: the same answers, the same errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from embank.errors import CollectionNotFound, DocumentNotFound, InvalidInput
from embank.integrations.shelf import shelf
from embank.records import Document
from embank.remote.bank import ServedBank

if TYPE_CHECKING:
    from tests.http.serving import Served

    from embank.client.client import Client
    from embank.integrations.shelf import Place


def test_what_is_much_goes_in_several_requests(place: Place, name: str, served: Served) -> None:
    many = [Document(f"{number:03}", f"text {number}", {"number": number}) for number in range(300)]
    rows = [[1.0, float(number)] for number in range(299)] + [[-1.0, 0.0]]
    held = shelf(place, name)
    held.add(many, vectors=rows, space="mine")
    assert held.count() == 300
    assert [each.text for each in held.everything()] == [each.text for each in many]
    assert served.bank.collection(name).search(vector=rows[299], k=1)[0].id == "299"
    with pytest.raises(InvalidInput, match="one row for each"):
        held.add(many[:1], vectors=rows[:2], space="mine")


def test_a_report_tells_of_all_requests(served: Served, client: Client, name: str) -> None:
    own, other = served.bank.collection(name), ServedBank(client).collection(f"{name}b")
    many = [{"id": f"{number % 299}", "text": f"{number}"} for number in range(600)]
    here, there = own.add(many[:250]), other.add(many[:250])
    assert {**there.as_dict(), "collection": name, "seconds": 0} == {**here.as_dict(), "seconds": 0}
    assert other.add([]).seen == 0
    told = other.add(many)
    assert (told.seen, told.commits) == (600, 2), "the first 250 are there already"
    assert other.count() == own.count() + 49 == 299


def test_a_collection_that_is_not_there_has_nothing(place: Place, name: str) -> None:
    held = shelf(place, name)
    held.delete(["a"])
    assert (held.get(["a"]), list(held.everything())) == ([], [])
    assert held.search("a", vector=None, k=1, where=None) == []
    assert (held.count(), held.metric()) == (0, "cosine")


def test_a_server_raises_what_an_open_bank_raises(served: Served, client: Client, name: str) -> None:
    served.bank.collection(name).add(["Rivers carry silt."])
    for bank in (served.bank, ServedBank(client)):
        with pytest.raises(CollectionNotFound, match="nowhere"):
            bank.collection("nowhere").search("a")
        with pytest.raises(DocumentNotFound, match="'a'") as raised:
            bank.collection(name).get("a")
        assert raised.value.fields["ids"] == ["a"]
