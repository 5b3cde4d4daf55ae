"""Collections, documents, search and long work over HTTP: what goes in comes out, and errors say what is wrong."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.http.serving import serving

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.serving import Served

DOCUMENTS = [
    {"id": "rivers", "text": "Rivers carry silt to the sea.", "metadata": {"year": 2020}},
    {"id": "bread", "text": "Bread rises because of yeast.", "metadata": {"year": 2022}},
    {"id": "a/b?c#d e", "text": "An id of any kind is taken.", "metadata": {"year": 2024}},
]

NUMBERS = itertools.count()


@pytest.fixture
def notes(served: Served) -> str:
    """A collection of this test, with three documents."""
    name = f"notes {next(NUMBERS)}"
    answer = served.http.post(f"/collections/{name}/documents", json={"documents": DOCUMENTS})
    assert answer.status_code == 200, answer.text
    assert answer.json()["ids"] == ["rivers", "bread", "a/b?c#d e"]
    return f"/collections/{name}"


def test_what_is_written_is_durable_found_and_read(served: Served, notes: str) -> None:
    assert served.http.get(f"{notes}/count").json() == {"count": 3}
    hits = served.http.post(f"{notes}/search", json={"query": "what carries silt?", "k": 2}).json()["hits"]
    assert hits[0]["id"] == "rivers"
    assert hits[0]["metadata"] == {"year": 2020}
    late = served.http.post(f"{notes}/search", json={"query": "silt", "where": {"year": {"$gte": 2021}}}).json()
    assert {hit["id"] for hit in late["hits"]} <= {"bread", "a/b?c#d e"}
    got = served.http.post(f"{notes}/documents/get", json={"ids": ["bread", "rivers"]}).json()["documents"]
    assert [each["text"] for each in got] == [DOCUMENTS[1]["text"], DOCUMENTS[0]["text"]]
    assert served.http.get(f"{notes}/documents/a%2Fb%3Fc%23d%20e").json()["text"] == DOCUMENTS[2]["text"]


def test_writing_again_embeds_nothing(served: Served, notes: str) -> None:
    again = served.http.post(f"{notes}/documents", json={"documents": DOCUMENTS}).json()
    assert (again["added"], again["updated"], again["unchanged"]) == (0, 0, 3)
    unnamed = {"documents": [{"text": "Known by its content."}]}
    first, second = (served.http.post(f"{notes}/documents", json=unnamed).json() for _ in range(2))
    assert first["ids"] == second["ids"]
    assert second["unchanged"] == 1


def test_pages_lead_through_all_documents(served: Served, notes: str) -> None:
    seen, after = [], None
    while True:
        page = served.http.post(f"{notes}/documents/list", json={"limit": 2, "after": after}).json()
        seen += [each["id"] for each in page["documents"]]
        after = page["next"]
        if after is None:
            break
    assert seen == sorted(str(each["id"]) for each in DOCUMENTS)


def test_documents_are_deleted_by_ids_and_by_filter(served: Served, notes: str) -> None:
    gone = served.http.post(f"{notes}/documents/delete", json={"ids": ["bread", "never there"]}).json()
    assert gone == {"deleted": 1}
    assert served.http.post(f"{notes}/documents/delete", json={"where": {"year": 2020}}).json() == {"deleted": 1}
    assert served.http.get(f"{notes}/count").json() == {"count": 1}
    assert served.http.post(f"{notes}/documents/delete", json={}).status_code == 400


def test_what_a_search_can_be_asked_for(served: Served) -> None:
    notes = "/collections/asked"
    documents = [{"id": f"d{n}", "text": f"River number {n} runs to the sea."} for n in range(5)]
    assert served.http.post(f"{notes}/documents", json={"documents": documents}).status_code == 200
    asked = {"query": "running rivers", "k": 2, "highlight": True, "explain": True}
    first = served.http.post(f"{notes}/search", json=asked).json()
    hit = first["hits"][0]
    assert {hit["text"][start:end] for start, end in hit["highlights"]} == {"River", "runs"}
    assert hit["explained"]["search"]["weights"]["method"] == "scores"
    shown = [each["id"] for each in first["hits"]]
    while first["after"] is not None:
        first = served.http.post(f"{notes}/search", json={**asked, "after": first["after"]}).json()
        shown += [each["id"] for each in first["hits"]]
    assert sorted(shown) == [f"d{n}" for n in range(5)]
    like = served.http.post(f"{notes}/search", json={"like": "d0", "k": 5}).json()["hits"]
    assert sorted(each["id"] for each in like) == ["d1", "d2", "d3", "d4"]
    assert served.http.post(f"{notes}/search", json={"query": "river", "min_score": 99}).json()["hits"] == []
    wrong = served.http.post(f"{notes}/search", json={"query": "river", "diversity": 7})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "invalid_input")


def test_own_vectors_go_in_and_are_searched(served: Served) -> None:
    asked = {"documents": [{"id": "x", "text": "x"}, {"id": "y", "text": "y"}], "vectors": [[1, 0], [0, 1.0]]}
    assert served.http.post("/collections/own/documents", json=asked).json()["added"] == 2
    hits = served.http.post("/collections/own/search", json={"vector": [0.1, 1], "k": 1}).json()["hits"]
    assert hits[0]["id"] == "y"
    bad = json.dumps({"vector": [float("nan"), 1]}).encode()
    answer = served.http.post("/collections/own/search", content=bad, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "finite" in answer.json()["error"]["message"]


def test_collections_are_made_listed_and_shown(served: Served) -> None:
    made = served.http.post("/collections", json={"name": "by hand", "metric": "l2"})
    assert made.status_code == 201
    assert made.json()["metric"] == "l2"
    assert served.http.get("/collections/by hand").json()["documents"] == 0
    assert "by hand" in [each["name"] for each in served.http.get("/collections").json()["collections"]]
    assert served.http.get("/stats").json()["disk_bytes"]["total"] > 0
    spoken = {"name": "german", "language": "german"}
    assert served.http.post("/collections", json=spoken).status_code == 201
    served.http.post("/collections/german/documents", json={"documents": [{"id": "h", "text": "Die Häuser am Fluss."}]})
    asked = {"query": "Hauses", "mode": "lexical"}
    assert served.http.post("/collections/german/search", json=asked).json()["hits"][0]["id"] == "h"
    unknown = served.http.post("/collections", json={"name": "x", "language": "klingon"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (400, "invalid_input")
    other = served.http.post("/collections", json={"name": "by hand", "metric": "dot"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "metric_mismatch")


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/collections/nowhere/search", {"query": "x"}, (404, "collection_not_found")),
        ("/collections/NAME/search", {"query": "x", "limit": 3}, (400, "invalid_request")),
        ("/collections/NAME/search", {"query": 5}, (400, "invalid_request")),
        ("/collections/NAME/search", {"query": ""}, (400, "invalid_input")),
        ("/collections/NAME/search", {"query": "x", "where": {"$no": 1}}, (400, "invalid_input")),
        ("/collections/NAME/documents", {"documents": [{"id": "", "text": "x"}]}, (400, "invalid_input")),
        ("/collections/NAME/documents", {"documents": []}, (400, "invalid_request")),
        ("/collections/NAME/documents/get", {"ids": ["missing"]}, (404, "document_not_found")),
        ("/collections/.hidden/documents", {"documents": [{"text": "x"}]}, (400, "invalid_input")),
        ("/backup", {"name": "../outside"}, (400, "invalid_request")),
        ("/jobs/none/cancel", {}, (404, "job_not_found")),
    ],
)
def test_errors_say_what_is_wrong(served: Served, notes: str, path: str, body: Any, expected: tuple[int, str]) -> None:
    answer = served.http.post(path.replace("/collections/NAME", notes), json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == expected
    assert error["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text


def test_a_protected_collection_refuses(served: Served, notes: str) -> None:
    assert served.http.patch(notes, json={"protected": True}).json()["protected"] is True
    refused = served.http.post(f"{notes}/documents/delete", json={"ids": ["bread"]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "protected_collection_error")
    assert served.http.get(f"{notes}/count").json() == {"count": 3}


def test_a_collection_is_dropped_whole(served: Served, notes: str) -> None:
    assert served.http.post(f"{notes}/search", json={"query": "silt"}).json()["hits"]
    told = served.http.delete(notes, params={"dry_run": True}).json()
    assert (told["kind"], told["state"], told["result"]["documents"]) == ("drop", "done", 3)
    served.http.patch(notes, json={"protected": True})
    assert served.http.delete(notes).json()["error"]["code"] == "protected_collection_error"
    served.http.patch(notes, json={"protected": False})
    done = served.http.delete(notes).json()
    assert (done["state"], done["result"]["documents"], done["result"]["left"]) == ("done", 3, False)
    assert served.http.delete(notes).status_code == 404
    assert served.http.post(f"{notes}/search", json={"query": "silt"}).status_code == 404
    one = {"documents": [{"id": "new", "text": "Glaciers grind stone."}]}
    assert served.http.post(f"{notes}/documents", json=one).status_code == 200
    hits = served.http.post(f"{notes}/search", json={"query": "silt"}).json()["hits"]
    assert {hit["id"] for hit in hits} == {"new"}
    assert "drop" in {act["act"] for act in served.http.get("/audit").json()["acts"]}


def test_purge_tells_first_and_then_does(served: Served, notes: str) -> None:
    asked = {"where": {"year": {"$lt": 2023}}}
    told = served.http.post(f"{notes}/purge", json={**asked, "dry_run": True}).json()
    assert (told["state"], told["result"]["documents"]) == ("done", 2)
    assert served.http.get(f"{notes}/count").json() == {"count": 3}
    assert served.http.post(f"{notes}/purge", json=asked).json()["result"]["documents"] == 2
    assert served.http.get(f"{notes}/count").json() == {"count": 1}
    compacted = served.http.post(f"{notes}/compact", json={})
    assert compacted.json()["result"]["outcome"] == "compacted"
    acts = served.http.get("/audit").json()["acts"]
    assert {"purge", "admin"} <= {each["act"] for each in acts}


def test_a_backup_is_a_bank(served: Served, notes: str) -> None:
    from embank.bank import open_bank

    job = served.http.post("/backup", json={"name": "monday", "wait_s": 60}).json()
    assert job["state"] == "done"
    with open_bank(job["result"]["target"], read_only=True) as copy:
        assert copy.collection(notes.rpartition("/")[2]).count() == 3
    again = served.http.post("/backup", json={"name": "monday"})
    assert again.status_code == 400


def test_an_import_is_a_job_with_progress(served: Served) -> None:
    lines = "\n".join(json.dumps({"id": str(n), "text": f"line {n}"}) for n in range(600))
    headers = {"content-type": "application/x-ndjson"}
    started = served.http.post("/collections/imported/imports", content=lines.encode(), headers=headers)
    assert started.status_code == 202
    job = _ended(served, started.json()["id"])
    assert (job["state"], job["result"]["added"]) == ("done", 600)
    assert job["progress"]["documents"] == 600
    assert served.http.get("/collections/imported/count").json() == {"count": 600}
    assert job["id"] in [each["id"] for each in served.http.get("/jobs").json()["jobs"]]


def test_a_line_that_is_no_document_is_named(served: Served) -> None:
    lines = b'{"text": "fine"}\n{"text": 5}\n'
    headers = {"content-type": "application/x-ndjson"}
    started = served.http.post("/collections/broken/imports", content=lines, headers=headers)
    job = _ended(served, started.json()["id"])
    assert job["state"] == "failed"
    assert "line 2" in job["error"]["message"]
    wrong = served.http.post("/collections/broken/imports", content=lines, headers={"content-type": "text/plain"})
    assert wrong.status_code == 415


def test_a_job_can_be_cancelled_and_keeps_what_it_committed(tmp_path: Path) -> None:
    with serving(tmp_path / "a.bank", jobs=1) as served:
        lines = "\n".join(json.dumps({"id": str(n), "text": f"line {n} " * 20}) for n in range(20_000)).encode()
        headers = {"content-type": "application/x-ndjson"}
        ids = [
            served.http.post(f"/collections/c{n}/imports", content=lines, headers=headers).json()["id"]
            for n in range(2)
        ]
        for id_ in ids:
            served.http.post(f"/jobs/{id_}/cancel")
        assert [_ended(served, id_)["state"] for id_ in ids] == ["cancelled", "cancelled"]
        assert served.http.get("/collections/c1").status_code == 404, "it had not begun"


def _ended(served: Served, id_: str) -> Any:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        job = served.http.get(f"/jobs/{id_}", params={"wait_s": 10}).json()
        if job["state"] not in ("waiting", "running"):
            return job
    raise AssertionError(f"the job {id_} did not end")
