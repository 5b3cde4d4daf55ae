"""Newer revisions: asked for, told, brought beside the older one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.embed.hub import FIRST, SECOND, StandInHub, client_of, serving

from embank.embed.files.catalog import MINILM, KnownModel
from embank.embed.files.hub import Hub
from embank.embed.files.inventory import list_files
from embank.embed.files.locate import locate
from embank.embed.files.prune import carry_out, plan
from embank.embed.files.pull import pull
from embank.embed.files.revisions import Freshness, outdated, update
from embank.errors import HubError, InvalidInput, ModelFileError, ModelNotFound, OfflineMode

FILES = {"config.json": b'{"model_type": "bert"}', "model.safetensors": bytes(1000), "tokenizer.json": b"{}"}
NEWER = {**FILES, "model.safetensors": bytes(range(250)) * 4}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with serving() as server:
        server.publish("someone/tiny", FILES)
        yield server


@pytest.fixture
def client(hub: StandInHub) -> Hub:
    return client_of(hub)


@pytest.fixture
def models(client: Hub, tmp_path: Path) -> Path:
    """A directory with one pulled repository."""
    pull("someone/tiny", directory=tmp_path, hub=client)
    return tmp_path


def only(found: list[Freshness]) -> Freshness:
    (one,) = found
    return one


def test_one_request_tells_whether_there_is_a_newer_one(hub: StandInHub, client: Hub, models: Path) -> None:
    hub.asked.clear()
    assert only(outdated(models, client, known={})).standing == "current"
    assert len(hub.asked) == 1
    hub.publish("someone/tiny", NEWER, commit=SECOND)
    told = only(outdated(models, client, names=["someone/tiny"], known={}))
    assert (told.standing, told.revision, told.newest) == ("outdated", FIRST, SECOND)
    assert "embank models update someone/tiny" in told.meaning
    assert hub.gets() == []


def test_an_update_comes_beside_the_older_one_which_goes_when_pruned(
    hub: StandInHub, client: Hub, models: Path
) -> None:
    older = locate("someone/tiny", directory=models).folder
    assert not update("someone/tiny", directory=models, hub=client, known={}).fetched
    hub.publish("someone/tiny", NEWER, commit=SECOND)
    newer = update("someone/tiny", directory=models, hub=client, known={})
    assert newer.revision == SECOND
    assert locate("someone/tiny", directory=models).folder == newer.folder
    assert locate(f"someone/tiny@{FIRST}", directory=models).folder == older
    found = list_files(models, known={})
    carry_out(plan(found, now_s=0.0))
    assert [each.folder for each in list_files(models, known={})] == [newer.folder]


def test_an_update_that_fails_leaves_the_older_one_current(hub: StandInHub, client: Hub, models: Path) -> None:
    older = locate("someone/tiny", directory=models).folder
    hub.publish("someone/tiny", NEWER, commit=SECOND)
    hub.sent["model.safetensors"] = NEWER["model.safetensors"][::-1]
    with pytest.raises(ModelFileError, match="not the file that was published"):
        update("someone/tiny", directory=models, hub=client, known={})
    assert locate("someone/tiny", directory=models).folder == older
    hub.sent.clear()
    assert update("someone/tiny", directory=models, hub=client, known={}).revision == SECOND


def test_where_the_current_revision_was_removed_nobody_guesses(hub: StandInHub, client: Hub, models: Path) -> None:
    hub.publish("someone/tiny", NEWER, commit=SECOND)
    pull("someone/tiny", directory=models, hub=client)
    carry_out(plan(list_files(models, known={}), names=[f"someone/tiny@{SECOND}"], now_s=0.0))
    with pytest.raises(ModelFileError, match=rf"current revision .* was removed; .*someone/tiny@{FIRST[:12]}"):
        locate("someone/tiny", directory=models)
    carry_out(plan(list_files(models, known={}), names=["someone/tiny"], now_s=0.0))
    with pytest.raises(ModelNotFound, match="embank models pull someone/tiny"):
        locate("someone/tiny", directory=models)
    assert not list(models.glob("*.current"))


def test_a_model_of_the_catalogue_is_pinned_by_embank(hub: StandInHub, client: Hub, models: Path) -> None:
    model: KnownModel = dataclasses.replace(MINILM, name="known", repository="someone/tiny", revision=FIRST)
    hub.publish("someone/tiny", NEWER, commit=SECOND)
    (models / f"known-{FIRST[:12]}").mkdir()
    told = {each.name: each for each in outdated(models, client, known={"known": model})}["known"]
    assert (told.standing, told.by_embank, told.newest) == ("pinned", True, SECOND)
    assert "checksums" in told.meaning
    assert "embank models pull someone/tiny --revision main" in told.meaning
    with pytest.raises(InvalidInput, match="'known' is pinned by Embank"):
        update("known", directory=models, hub=client, known={"known": model})


def test_a_commit_that_was_asked_for_does_not_move(hub: StandInHub, client: Hub, tmp_path: Path) -> None:
    hub.publish("someone/tiny", NEWER, commit=SECOND)
    pull("someone/tiny", directory=tmp_path, hub=client, revision=FIRST)
    told = only(outdated(tmp_path, client, known={}))
    assert (told.standing, told.asked, told.by_embank) == ("pinned", None, False)
    assert "pinned by you" in told.meaning
    with pytest.raises(InvalidInput, match="does not move"):
        update("someone/tiny", directory=tmp_path, hub=client, known={})


def test_a_repository_that_is_gone_is_told_and_works_on(hub: StandInHub, client: Hub, models: Path) -> None:
    hub.revisions.clear()
    assert only(outdated(models, client, known={})).standing == "gone"
    assert locate("someone/tiny", directory=models).folder is not None


def test_nobody_is_asked_offline(hub: StandInHub, models: Path) -> None:
    hub.asked.clear()
    with pytest.raises(OfflineMode):
        outdated(models, Hub(hub.address, offline=True), known={})
    with pytest.raises(OfflineMode):
        update("someone/tiny", directory=models, hub=Hub(hub.address, offline=True), known={})
    assert hub.asked == []


def test_a_hub_that_fails_is_told(hub: StandInHub, client: Hub, models: Path) -> None:
    hub.statuses["/api/"] = (500, None)
    with pytest.raises(HubError, match="can't be reached"):
        outdated(models, client, known={})


def test_a_model_that_is_not_here_cant_be_compared_or_renewed(client: Hub, models: Path) -> None:
    with pytest.raises(ModelNotFound, match="someone--tiny"):
        outdated(models, client, names=["someone--tini"], known={})
    with pytest.raises(ModelNotFound, match="no model 'someone/else' was pulled"):
        update("someone/else", directory=models, hub=client, known={})
