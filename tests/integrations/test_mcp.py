"""An assistant's view: the SDK's own client, over a real process's standard streams and within this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

pytest.importorskip("mcp", reason="the extra mcp is not installed")

import anyio
from mcp import Client, MCPError, StdioServerParameters
from tests.http.serving import Served, serving
from typer.testing import CliRunner

from embank.bank import LocalCollection, open_bank
from embank.cli.program import app
from embank.embed.files.catalog import WORDLLAMA
from embank.embed.files.locate import find_files
from embank.errors import BudgetExceeded
from embank.http.keys import KeyBook
from embank.integrations.mcp import answers
from embank.integrations.mcp.chosen import Chosen
from embank.integrations.mcp.server import MOST_RESOURCE_BYTES, make_server
from embank.testing.fakes import HashModel

RIVERS = "# Rivers\n\nRivers carry silt and sand down to the sea.\n"
DOCUMENTS = [
    {"id": "notes/rivers ü.md", "text": RIVERS, "metadata": {"year": 2024}},
    {"id": "../bread", "text": "Bread rises because yeast makes gas from sugar.", "metadata": {"year": 1999}},
    {"id": "long", "text": "Glaciers grind stone to flour. " * 2_000, "metadata": {"note": "x" * 50_000, "year": 2000}},
]

Talk = Callable[[Client], Awaitable[None]]


def environment(**more: str) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if not name.startswith("EMBANK_")}, **more}


def talk(server: Any, said: Talk) -> None:
    async def main() -> None:
        async with Client(server, read_timeout_seconds=60) as client:
            await said(client)

    anyio.run(main)


def over_stdio(*words: object, **environ: str) -> StdioServerParameters:
    command = ["-m", "embank", "mcp", *map(str, words)]
    return StdioServerParameters(command=sys.executable, args=command, env=environment(**environ))


async def called(client: Client, tool: str, **asked: Any) -> dict[str, Any]:
    """What a tool answers, the same as data and as text."""
    result = await client.call_tool(tool, asked)
    assert not result.is_error, result.content[0].text
    told: dict[str, Any] = result.structured_content
    assert json.loads(result.content[0].text) == told
    return told


async def refused(client: Client, tool: str, **asked: Any) -> str:
    result = await client.call_tool(tool, asked)
    assert result.is_error
    return str(result.content[0].text)


async def searches_and_reads(client: Client) -> None:
    """All that an assistant does, whatever is behind it."""
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {"search", "similar", "read", "collections"}
    assert all(tool.annotations.read_only_hint and not tool.annotations.destructive_hint for tool in tools.values())

    [notes] = (await called(client, "collections"))["collections"]
    assert (notes["name"], notes["documents"]) == ("notes", 3)

    found = await called(client, "search", query="what do rivers carry?", k=2)
    best = found["hits"][0]
    assert (len(found["hits"]), best["id"], best["cut"]) == (2, "notes/rivers ü.md", False)
    assert best["text"] == RIVERS[best["start"] : best["end"]]
    later = await called(client, "search", query="rivers", k=5, where={"year": {"$lt": 2020}}, collection="notes")
    assert {hit["id"] for hit in later["hits"]} == {"../bread", "long"}
    like = await called(client, "similar", id="../bread", k=5)
    assert {hit["id"] for hit in like["hits"]} == {"notes/rivers ü.md", "long"}

    pages: list[str] = []
    start: int | None = 0
    while start is not None:
        page = await called(client, "read", id="long", start=start, length=20_000)
        assert page["characters"] == len(DOCUMENTS[2]["text"])
        pages.append(page["text"])
        start = page["next"]
    assert len(pages) == 4
    assert "".join(pages) == DOCUMENTS[2]["text"]

    assert "there are: 'notes'" in await refused(client, "search", query="x", collection="../notes")
    assert "no document '../../etc/passwd'" in await refused(client, "read", id="../../etc/passwd")
    assert "k: " in await refused(client, "search", query="x", k=1_000_000_000)
    deep: dict[str, Any] = {"year": 1}
    for _ in range(40):
        deep = {"$and": [deep]}
    assert "deep" in await refused(client, "search", query="x", where=deep)

    [resource] = (await client.list_resources()).resources
    assert json.loads((await client.read_resource(resource.uri)).contents[0].text)["documents"] == 3
    read = await client.read_resource("embank://notes/notes%2Frivers%20%C3%BC.md")
    assert read.contents[0].text == RIVERS
    with pytest.raises(MCPError, match="no document"):
        await client.read_resource("embank://notes/..%2F..%2Fetc%2Fpasswd")


async def finds(client: Client) -> None:
    assert (await called(client, "search", query=RIVERS, k=1))["hits"][0]["id"] == "notes/rivers ü.md"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("mcp") / "a.bank") as running:
        running.bank.collection("notes").add(DOCUMENTS)
        yield running


def test_an_assistant_searches_and_reads_a_bank(tmp_path: Path) -> None:
    if find_files(WORDLLAMA, directory=tmp_path) is None:
        pytest.skip("the package wordllama is not installed")
    with open_bank(tmp_path / "a.bank", model="wordllama", memory="1GB") as bank:
        bank.collection("notes").add(DOCUMENTS)
    before = (tmp_path / "a.bank" / "bank.db").read_bytes()
    talk(over_stdio("--bank", tmp_path / "a.bank", "--memory", "256MB"), searches_and_reads)
    assert (tmp_path / "a.bank" / "bank.db").read_bytes() == before


def test_an_assistant_searches_and_reads_what_a_running_server_holds(served: Served) -> None:
    _, token = KeyBook(served.bank.path).add("assistant", "read", now=0)
    talk(over_stdio("--server", served.url, EMBANK_KEY=token), searches_and_reads)
    # The bank alone is enough: its server takes the bank's own secret, and has the model that this wants.
    talk(over_stdio("--bank", served.bank.path), finds)


def test_standard_output_has_the_protocol_alone_and_garbage_ends_nothing(served: Served) -> None:
    _, token = KeyBook(served.bank.path).add("another", "read", now=0)
    process = subprocess.Popen(
        [sys.executable, "-m", "embank", "mcp", "--server", served.url, "--set", "log.level=debug"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(EMBANK_KEY=token),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    answered = []

    def say(text: str, answer: int | None = None) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{text}\n")
        process.stdin.flush()
        while answer is not None:
            answered.append(json.loads(process.stdout.readline()))
            if answered[-1].get("id") == answer:
                return

    def request(number: int, method: str, **params: Any) -> str:
        return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})

    try:
        who = {"name": "raw", "version": "1"}
        say(request(1, "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=who), 1)
        say(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        say("no JSON")
        say("[" * 100_000)
        say('{"jsonrpc": "2.0", "id": 2}')
        say(request(3, "tools/call", name="delete", arguments={}), 3)
        say(request(4, "tools/call", name="search", arguments={"query": "x", "k": "many", "drop": True}), 4)
        say(request(5, "tools/call", name="search", arguments={"query": "rivers"}), 5)
        rest, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert rest == ""
    assert all(each["jsonrpc"] == "2.0" for each in answered)
    by_id = {each.get("id"): each for each in answered}
    assert "there are: search" in by_id[3]["error"]["message"]
    assert by_id[4]["result"]["isError"]
    assert by_id[5]["result"]["structuredContent"]["hits"][0]["id"] == "notes/rivers ü.md"


def test_answers_are_bounded_and_say_so(tmp_path: Path) -> None:
    wide = [{"id": f"{number}", "text": f"{number} " + "語" * 3_000} for number in range(60)]
    with open_bank(tmp_path / "a.bank", model=HashModel(max_tokens=100_000), memory="1GB") as bank:
        bank.collection("notes").add([*DOCUMENTS, *wide])
        bank.collection("notes").add([{"id": "huge", "text": "silt " * MOST_RESOURCE_BYTES}])

        async def said(client: Client) -> None:
            found = await called(client, "search", query="glaciers grind stone", k=50)
            assert len(json.dumps(found, ensure_ascii=False).encode()) < answers.SEARCH_BYTES * 1.5
            assert len(found["hits"]) + found["left_out"] == 50
            best = found["hits"][0]
            assert (best["id"], best["cut"]) == ("long", True)
            assert best["metadata"] == {"year": 2000}, "what is too long is left out"
            page = await called(client, "read", id="7", length=20_000)
            assert page["text"] == wide[7]["text"]
            assert "page by page" in str(await failing(client, "embank://notes/huge"))
            assert "no address" in str(await failing(client, "file:///etc/passwd"))
            assert "query: " in await refused(client, "search", query="x" * 10_001)
            behind = await called(client, "read", id="7", start=10**9)
            assert (behind["text"], behind["next"]) == ("", None)

        talk(make_server(Chosen(bank)), said)


async def failing(client: Client, uri: str) -> MCPError:
    with pytest.raises(MCPError) as raised:
        await client.read_resource(uri)
    return raised.value


def test_only_the_collections_that_were_named_are_shown(tmp_path: Path) -> None:
    with open_bank(tmp_path / "a.bank", model=HashModel(), memory="1GB") as bank:
        for name in ("open", "secret", "further"):
            bank.collection(name).add([{"id": "a", "text": f"words of {name}"}])

        async def said(client: Client) -> None:
            assert [each["name"] for each in (await called(client, "collections"))["collections"]] == ["open"]
            assert (await called(client, "search", query="words"))["collection"] == "open"
            for tool, asked in (("search", {"query": "words"}), ("read", {"id": "a"}), ("similar", {"id": "a"})):
                told = await refused(client, tool, collection="secret", **asked)
                assert "there are: 'open'" in told
                assert "further" not in told
            assert "no collection" in str(await failing(client, "embank://secret/a"))

        talk(make_server(Chosen(bank, ["open"])), said)

        async def many(client: Client) -> None:
            assert "say which" in await refused(client, "search", query="words")

        talk(make_server(Chosen(bank)), many)


def test_errors_say_what_to_do_and_bugs_nothing_of_what_they_saw(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_bank(tmp_path / "a.bank", model=HashModel(), memory="1GB") as bank:
        bank.collection("notes").add(DOCUMENTS)

        async def said(client: Client) -> None:
            with patch.object(LocalCollection, "search", side_effect=RuntimeError("the secret of the house")):
                assert "secret" not in await refused(client, "search", query="x")
            assert "the secret of the house" in caplog.text
            full = BudgetExceeded("a query", wanted_bytes=2, available_bytes=1, budget_bytes=1)
            with patch.object(LocalCollection, "search", side_effect=full):
                assert "raise memory.budget" in await refused(client, "search", query="x")
            assert (await called(client, "read", id="../bread"))["next"] is None, "the session goes on"

        talk(make_server(Chosen(bank)), said)


def started(*words: str) -> str:
    """What a start that fails says on standard error."""
    done = CliRunner().invoke(app, ["mcp", *words])
    assert done.exit_code != 0
    assert done.stdout == ""
    return done.stderr


def test_what_keeps_it_from_starting_is_told_on_standard_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no bank" in started("--bank", str(tmp_path / "none"))
    assert "no answer from http://127.0.0.1:9" in started("--server", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.delitem(sys.modules, "embank.integrations.mcp.server")
    assert "embank[mcp]" in started("--bank", str(tmp_path / "none"))
