"""What attackers send, to a real server: it refuses in words, keeps answering, and keeps nothing of it."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from tests.http.serving import raw, serving
from tests.waiting import until

from embank.events.kinds import RequestAnswered
from embank.http.protocol import BoundedProtocol

if TYPE_CHECKING:
    from tests.http.serving import Served

HEAD = b"Host: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that waits for nobody for long."""
    with serving(
        tmp_path_factory.mktemp("tight") / "a.bank", header_wait_s=0.5, body_wait_s=0.5, keep_alive_s=1
    ) as running:
        yield running


# --- what is no JSON, and what JSON has no words for ------------------------------------------------------------------

PLACES = [
    ("/collections/c/documents", '{"documents": [{"text": "a"}], "vectors": [[1.0, %s]]}'),
    ("/collections/c/documents", '{"documents": [{"text": "a", "metadata": {"n": %s}}]}'),
    ("/collections/c/search", '{"vector": [1.0, %s]}'),
    ("/collections/c/search", '{"query": "a", "min_score": %s}'),
    ("/collections/c/search", '{"query": "a", "where": {"n": {"$gt": %s}}}'),
    ("/collections/c/search", '{"query": "a", "diversity": %s}'),
    ("/collections/c/purge", '{"older_than_s": %s}'),
    ("/collections/c/compact", '{"wait_s": %s}'),
    ("/v1/embeddings", '{"model": "hash", "input": [[1, %s]]}'),
]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 400, "1" * 5_000])
def test_numbers_that_are_none_are_refused(served: Served, number: str) -> None:
    served.http.post("/collections", json={"name": "c"})
    for path, body in PLACES:
        answer = served.http.post(path, content=(body % number).encode(), headers={"content-type": "application/json"})
        if answer.status_code == 200:  # metadata and filters have integers of any length
            assert number == "1" * 400
            assert "metadata" in body or "where" in body
        else:
            assert answer.status_code == 400, (path, body, answer.text)
            assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("charset", ["utf-16", "utf-32", "latin-1", "cp037"])
def test_json_in_another_charset_is_refused_or_read_rightly(served: Served, charset: str) -> None:
    body = json.dumps({"documents": [{"id": "ä", "text": "Fluß"}]}, ensure_ascii=False).encode(charset)
    head = {"content-type": f"application/json; charset={charset}"}
    answer = served.http.post("/collections/charset/documents", content=body, headers=head)
    if charset.startswith("utf"):  # JSON's own
        assert answer.json()["ids"] == ["ä"]
        assert served.http.get("/collections/charset/documents/ä").json()["text"] == "Fluß"
    else:
        assert answer.status_code == 400


@pytest.mark.parametrize("query", ["dryrun=true", "dry_run=true&x=1", "dry-run=true"])
def test_a_misspelt_query_deletes_nothing(served: Served, query: str) -> None:
    served.http.post("/collections", json={"name": "dear"})
    answer = served.http.delete(f"/collections/dear?{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert served.http.get("/collections/dear").status_code == 200


# --- names and ids ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["..", ".", "../x", "..%2fx", "%2e%2e", "a%2fb", "a%00b", "%00", "a%0d%0aX: y", " ", "~%2f..", "%ff", "a%5c..%5cb"],
)
def test_tricks_in_names_reach_no_file(served: Served, name: str) -> None:
    before = {each.name for each in served.bank.path.parent.iterdir()}
    answer = raw(
        served,
        f"POST /collections/{name.replace(' ', '%20')}/documents HTTP/1.1\r\n".encode()
        + HEAD
        + b'Connection: close\r\nContent-Length: 29\r\n\r\n{"documents": [{"text": "x"}]}'[:-1],
    )
    status = int(answer.split(b" ", 2)[1])
    assert status in (400, 404, 405) or "\\" in name or "%5c" in name or name == "%ff", answer
    assert {each.name for each in served.bank.path.parent.iterdir()} == before
    assert b"X: y" not in answer.partition(b"\r\n\r\n")[0]


def test_backups_stay_in_their_folder(served: Served) -> None:
    for name in ["..", "../x", "/etc/x", "a/b", "a\\b", "a\0b", "", "-x", "x\n", "a" * 101]:
        answer = served.http.post("/backup", json={"name": name})
        assert answer.status_code == 400, name


def test_no_header_is_smuggled_in(served: Served) -> None:
    for given in (b"a\rb", b"a\nSet-Cookie: b", b"a\r\n Set-Cookie: b", b"a\0", b"\xff", b"x" * 65):
        answer = raw(
            served,
            b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Request-Id: " + given + b"\r\n\r\n",
        )
        head = answer.partition(b"\r\n\r\n")[0].lower()
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 200"))
        assert b"set-cookie" not in head
        assert head.count(b"x-request-id") <= 1


def test_two_lengths_smuggle_no_request(tight: Served) -> None:
    smuggled = b"GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for lengths in (
        b"Content-Length: 2\r\nContent-Length: 40\r\n",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Content-Length: +2\r\n",
        b"Content-Length: 2, 3\r\n",
    ):
        answer = raw(tight, b"POST /cache/clear HTTP/1.1\r\n" + HEAD + lengths + b"\r\n0\r\n\r\n" + smuggled)
        assert answer.count(b"HTTP/1.1 200") == 0, lengths
        assert b"disk_bytes" not in answer, lengths


def test_ids_of_every_category_of_unicode_are_kept_as_they_are(served: Served) -> None:
    by_category: dict[str, str] = {}
    for code in range(1, sys.maxunicode + 1):  # NUL is refused
        by_category.setdefault(unicodedata.category(chr(code)), f"a{chr(code)}b")
    by_category.pop("Cs")  # a surrogate is no character: see below
    assert len(by_category) == 29
    ids = sorted([*by_category.values(), "a/b", "..", "../..", "%2e", "a?b#c", "\u202e\u0301", " ", "e\u0301", "é"])
    written = {"documents": [{"id": each, "text": f"the document {number}"} for number, each in enumerate(ids)]}
    answer = served.http.post("/collections/odd/documents", json=written)
    assert answer.status_code == 200, answer.text
    assert answer.json()["ids"] == ids
    got = served.http.post("/collections/odd/documents/get", json={"ids": ids}).json()["documents"]
    assert [each["id"] for each in got] == ids
    for number, each in enumerate(ids):
        if each.strip("./ ") == each:  # clients resolve dots
            one = served.http.get(f"/collections/odd/documents/{quote(each, safe='')}")
            assert one.json()["text"] == f"the document {number}", repr(each)
    assert served.http.post("/collections/odd/documents/delete", json={"ids": ids}).json() == {"deleted": len(ids)}


def test_half_a_surrogate_is_refused_wherever_it_stands(served: Served) -> None:
    served.http.post("/collections", json={"name": "c"})
    half = "\\ud800"
    for path, body in [
        ("/collections", f'{{"name": "{half}"}}'),
        ("/collections/c/documents", f'{{"documents": [{{"id": "{half}", "text": "x"}}]}}'),
        ("/collections/c/documents", f'{{"documents": [{{"text": "x{half}"}}]}}'),
        ("/collections/c/documents", f'{{"documents": [{{"text": "x", "metadata": {{"{half}": 1}}}}]}}'),
        ("/collections/c/documents", f'{{"documents": [{{"text": "x", "metadata": {{"a": "{half}"}}}}]}}'),
        ("/collections/c/documents", f'{{"documents": [{{"text": "x"}}], "vectors": [[1]], "space": "{half}"}}'),
        ("/collections/c/documents/get", f'{{"ids": ["{half}"]}}'),
        ("/collections/c/documents/list", f'{{"after": "{half}"}}'),
        ("/collections/c/documents/list", f'{{"where": {{"a": "{half}"}}}}'),
        ("/collections/c/documents/list", f'{{"where": {{"{half}": 1}}}}'),
        ("/collections/c/documents/delete", f'{{"ids": ["{half}"]}}'),
        ("/collections/c/search", f'{{"query": "{half}"}}'),
        ("/collections/c/search", f'{{"like": "{half}"}}'),
        ("/collections/c/search", f'{{"query": "x", "after": "{half}"}}'),
        ("/collections/c/search", f'{{"query": "x", "where": {{"a": {{"$in": ["{half}"]}}}}}}'),
        ("/collections/c/purge", f'{{"by": "{half}", "keep": 1}}'),
        ("/v1/embeddings", f'{{"model": "{half}", "input": "x"}}'),
        ("/v1/embeddings", f'{{"model": "hash", "input": ["{half}"]}}'),
    ]:
        answer = served.http.post(path, content=body.encode(), headers={"content-type": "application/json"})
        assert answer.status_code in (400, 404), (path, body, answer.text)


def test_names_that_are_asked_for_in_vain_are_not_kept(served: Served) -> None:
    held = served.bank.engine.store._collections
    served.http.get("/collections/first-of-none")
    before = len(held)
    for number in range(20):
        where = f"/collections/none-{number}"
        assert served.http.get(where).status_code == 404
        assert served.http.get(f"{where}/documents/x").status_code == 404
        assert served.http.post(f"{where}/search", json={"query": "x"}).status_code == 404
        assert served.http.post(f"{where}/purge", json={"keep": 1}).status_code == 404
        assert served.http.delete(where).status_code == 404
    assert len(held) == before


# --- connections ------------------------------------------------------------------------------------------------------


def test_a_body_of_100_mb_is_not_read_into_memory(served: Served) -> None:
    piece = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    for body in (b"Content-Length: 100000000\r\n\r\n" + b" " * 100_000_000, b"Transfer-Encoding: chunked\r\n\r\n"):
        with (
            served.bank.events.subscribe(kinds=[RequestAnswered]) as seen,
            socket.create_connection(served.address, timeout=30) as connection,
        ):
            try:
                connection.sendall(b"POST /collections/c/documents HTTP/1.1\r\n" + HEAD + body)
                for _ in range(100_000_000 // 0x4000 if b"chunked" in body else 0):
                    connection.sendall(piece)
                answer = connection.recv(65_536)
                assert answer.startswith(b"HTTP/1.1 413")
            except (ConnectionResetError, BrokenPipeError):
                pass  # refused, and no more of it is taken
            (event,) = seen.drain(wait_s=30)
        assert isinstance(event, RequestAnswered)
        assert event.status == 413
        assert event.received_bytes <= 17_000_000
    until(lambda: served.server.service.admission.used_bytes == 0, "its memory is given back")


def test_bytes_that_drip_in_do_not_keep_a_connection(tight: Served) -> None:
    for head in (
        b"GET /livez HTTP/1.1\r\nX-Slow: ",
        b"POST /v1/embeddings HTTP/1.1\r\n" + HEAD + b"Content-Length: 9999\r\n\r\n",
    ):
        with socket.create_connection(tight.address, timeout=30) as connection:
            connection.sendall(head)
            with pytest.raises(OSError):  # noqa: PT012 -- reset or a broken pipe, wherever it is noticed
                for _ in range(2_000):
                    connection.sendall(b"x")
                    time.sleep(0.02)


def test_idle_connections_cost_little_and_are_closed(tight: Served) -> None:
    governor = tight.bank.engine.governor
    before = governor.snapshot()
    held = [socket.create_connection(tight.address, timeout=30) for _ in range(300)]
    try:
        assert tight.http.get("/collections").status_code == 200
        during = governor.snapshot()
        assert during.reserved_bytes <= before.reserved_bytes + (4 << 20)
        assert during.real_bytes - before.real_bytes < 300 * 64_000
        for connection in held:
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b"", "it is closed when it has said nothing for header_wait_s"
    finally:
        for connection in held:
            connection.close()
    until(lambda: len(tight.server.server_state.connections) < 5, "the server has let go of them")


@pytest.mark.parametrize(
    ("behind", "answers"),
    [
        (b"\0\1\2 garbage\r\n\r\n", 1),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 1),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 1),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" * 99, 100),
    ],
)
def test_what_is_pipelined_is_answered_in_turn_or_refused(tight: Served, behind: bytes, answers: int) -> None:
    answer = raw(tight, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" + behind)
    assert answer.count(b"HTTP/1.1 200") == answers
    assert tight.http.get("/livez").status_code == 200


def test_a_field_behind_the_body_passes_for_no_header(served: Served) -> None:
    """The trailer of a chunked body is read after what was checked."""
    answer = raw(
        served,
        b"POST /v1/embeddings HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
        + HEAD
        + b'\r\n23\r\n{"model": "hash", "input": "river"}\r\n0\r\nX-Request-Id: behind\r\nHost: evil\r\n\r\n',
    )
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert b"behind" not in answer


@pytest.mark.parametrize("end", [b"0\r\n", b"4;x="])
def test_what_has_no_end_behind_a_body_is_refused(tight: Served, end: bytes) -> None:
    """Fields of a trailer, and the extension of a chunk."""
    head = b"POST /cache/clear HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    answer = raw(tight, head + end + b"".join(b"X-%d: x\r\n" % n for n in range(20_000)))
    assert not answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "given", [b"Upgrade: h2c\r\nConnection: Upgrade\r\n", b"Upgrade: websocket\r\nConnection: Upgrade\r\n"]
)
def test_who_would_speak_otherwise_is_answered_as_before(served: Served, given: bytes) -> None:
    """Some clients offer HTTP/2 with each request, also with one that has a body."""
    body = b'{"model": "hash", "input": "river"}'
    asked = b"POST /v1/embeddings HTTP/1.1\r\n" + given + HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    last = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = raw(served, b"GET /livez HTTP/1.1\r\n" + given + HEAD + b"\r\n" + asked + asked + last)
    assert answer.count(b"HTTP/1.1 200") == 4, answer


def test_thousands_of_small_requests_at_once_are_not_all_held(served: Served) -> None:
    small = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    count = 20_000
    answered = 0
    with socket.create_connection(served.address, timeout=30) as connection:
        sender = threading.Thread(target=connection.sendall, args=(small * count,))
        sender.start()
        most = 0
        while answered < count:
            connections = list(served.server.server_state.connections)
            answered += connection.recv(1 << 16).count(b"HTTP/1.1 200")
            most = max([most, *(len(each.pipeline) for each in connections if isinstance(each, BoundedProtocol))])
        sender.join(30)
    assert most <= 4_096 // len(small) + 1


def test_garbage_in_the_middle_of_a_body_ends_the_request(tight: Served) -> None:
    head = b"POST /v1/embeddings HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    assert b"HTTP/1.1 200" not in raw(tight, head + b"5\r\n{    \r\n", b"no length\r\n")
    until(lambda: not tight.server.service.requests, "the request has ended")


def test_who_goes_away_in_the_middle_frees_the_reservation(served: Served) -> None:
    """Of a body and of an answer; the governor has what a large body took, also where it was the first to ask."""
    governor = served.bank.engine.governor
    body = b"POST /v1/embeddings HTTP/1.1\r\n" + HEAD + b"Content-Length: 9000000\r\n\r\n" + b" " * 100_000
    for _ in range(3):
        with socket.create_connection(served.address, timeout=30) as connection:
            connection.sendall(body)
            until(lambda: served.server.service.admission.used_bytes > 9_000_000, "its memory is asked for")
        until(lambda: served.server.service.admission.used_bytes == 0, "its memory is given back")
    until(lambda: governor.snapshot().reserved_bytes <= 4 << 20, "the governor has it back")


def test_small_requests_do_not_hold_on_to_what_a_large_one_took(served: Served) -> None:
    admission, governor = served.server.service.admission, served.bank.engine.governor
    small = socket.create_connection(served.address, timeout=30)
    with small:
        large = b"POST /v1/embeddings HTTP/1.1\r\n" + HEAD + b"Content-Length: 9000000\r\n\r\n"
        with socket.create_connection(served.address, timeout=30) as connection:
            connection.sendall(large)
            until(lambda: admission.used_bytes > 9_000_000, "its memory is asked for")
            small.sendall(large.replace(b"9000000", b"100"))
            until(lambda: served.server.service.requests == 2, "it is under way")
        until(lambda: served.server.service.requests == 1, "the large one has ended")

        def is_back() -> bool:
            assert served.http.get("/collections").status_code == 200
            return governor.snapshot().reserved_bytes <= 8 << 20

        until(is_back, "the governor has it back")
