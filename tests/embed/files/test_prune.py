"""Which models go, which stay, and what is in the way."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.embed.tiny_bert import make_folder

from embank.embed.files import inuse
from embank.embed.files.inventory import ModelFiles, list_files
from embank.embed.files.prune import Plan, carry_out, keep_within, limit_bytes, plan
from embank.embed.loader import Loader
from embank.embed.settings import Settings
from embank.errors import InvalidInput, ModelFileError, ModelInUse, ModelNotFound
from embank.events.kinds import Event, ModelFilesRemoved
from embank.testing.faults import FaultyFiles

DAY_S = 86_400.0
NOW_S = 1000 * DAY_S


def files(name: str, *, days: float = 0, size: int = 100, **more: Any) -> ModelFiles:
    """A model that was used so many days ago."""
    given = {"kind": "converted", "folder": Path("/models") / f"{name}-ab12-int8-v1", "in_use": False, **more}
    return ModelFiles(name=name, bytes=size, last_used_s=NOW_S - days * DAY_S, **given)


def planned(found: list[ModelFiles], **options: Any) -> list[tuple[str, str]]:
    made = plan(found, now_s=NOW_S, **options)
    assert made.bytes_before - made.bytes_after == sum(each.files.bytes for each in made.removals)
    return [(each.files.name, each.why) for each in made.removals]


class Heard:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def publish(self, event: Event) -> None:
        self.events.append(event)


# --- what goes ------------------------------------------------------------------------------------------------------


def test_least_recently_used_first_until_it_fits() -> None:
    found = [files("new", days=1), files("old", days=30), files("older", days=60), files("used", days=90, in_use=True)]
    assert planned(found, to_bytes=250) == [("older", "limit"), ("old", "limit")]
    assert planned(found, to_bytes=400) == []
    assert planned(found) == []
    made = plan(found, to_bytes=50, now_s=NOW_S)
    assert [each.files.name for each in made.removals] == ["older", "old", "new"]
    assert [each.name for each in made.in_use] == ["used"]
    assert made.over_bytes == 50


def test_what_was_not_used_for_long() -> None:
    found = [files("new", days=29), files("old", days=31), files("busy", days=99, in_use=True)]
    made = plan(found, older_than_s=30 * DAY_S, now_s=NOW_S)
    assert [(each.files.name, each.why) for each in made.removals] == [("old", "unused")]
    assert [each.name for each in made.in_use] == ["busy"]


def test_leftovers_and_superseded_revisions_always_go_the_damaged_when_asked() -> None:
    found = [
        files("half", kind="leftover"),
        files("going-on", kind="leftover", in_use=True, folder=Path("/models/b")),
        files("before", kind="pulled", superseded=True),
        files("broken", problem="is missing"),
        files("good"),
    ]
    assert planned(found) == [("half", "leftover"), ("before", "superseded")]
    assert ("broken", "damaged") in planned(found, damaged=True)


def test_packages_and_foreign_folders_never_go() -> None:
    found = [files("minilm", kind="package", days=99), files("mine", kind="foreign", days=99)]
    assert planned(found, older_than_s=0, to_bytes=0, damaged=True) == []
    with pytest.raises(InvalidInput, match="remove its package"):
        planned(found, names=["minilm"])
    with pytest.raises(InvalidInput, match="not Embank's"):
        planned(found, names=["mine"])


def test_by_name_exactly_those() -> None:
    first = files(
        "a--b", kind="pulled", folder=Path("/models/a--b-1"), repository="a/b", revision="1" * 40, weights="w1"
    )
    second = files(
        "a--b", kind="pulled", folder=Path("/models/a--b-2"), repository="a/b", revision="2" * 40, weights="w2"
    )
    copy = files("a--b", weights="w1")
    half = files("half", kind="leftover")
    found = [first, second, copy, half]
    assert {name for name, _ in planned(found, names=["a/b"])} == {"a--b"}
    assert len(planned(found, names=["a/b"])) == 3
    one = plan(found, names=[f"a/b@{'1' * 7}"], now_s=NOW_S)
    assert [each.files for each in one.removals] == [first, copy]  # what was made from it goes along
    assert [each.files for each in plan(found, names=["a--b-2"], now_s=NOW_S).removals] == [second]
    with pytest.raises(ModelNotFound, match="did you mean 'a--b'"):
        planned(found, names=["a--bb"])


def test_a_copy_stays_where_another_revision_has_the_same_weights() -> None:
    first = files("a--b", kind="pulled", folder=Path("/1"), repository="a/b", superseded=True, weights="w")
    second = files("a--b", kind="pulled", folder=Path("/2"), repository="a/b", weights="w")
    assert planned([first, second, files("a--b", weights="w")]) == [("a--b", "superseded")]


def test_a_name_in_use_is_refused() -> None:
    with pytest.raises(ModelInUse, match="'busy' is in use") as caught:
        planned([files("busy", in_use=True)], names=["busy"])
    assert caught.value.fields["name"] == "busy"


# --- doing it -------------------------------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def open_tiny(models: Path, tmp_path: Path) -> Callable[..., Loader]:
    """A loader that has a small model open, converted from a folder of the user's."""

    def make(name: str = "tiny", **options: Any) -> Loader:
        folder = tmp_path / name
        if not folder.is_dir():
            make_folder(folder)
        loader = Loader(Settings.model_validate({"directory": models, "threads": 1, **options}))
        loader.get(str(folder))
        return loader

    return make


def everything(models: Path) -> Plan:
    return plan(list_files(models, known={}), to_bytes=0, now_s=NOW_S)


def test_a_copy_goes_whole_and_comes_again(
    models: Path, tmp_path: Path, open_tiny: Callable[..., Loader], caplog: pytest.LogCaptureFixture
) -> None:
    open_tiny().close()
    heard = Heard()
    with caplog.at_level(logging.INFO, logger="embank"):
        done = carry_out(everything(models), publisher=heard)
    (event,) = heard.events
    assert isinstance(event, ModelFilesRemoved)
    assert (event.model, event.bytes, event.why) == ("tiny", done.bytes, "limit")
    assert done.bytes > 0
    assert "removed" in caplog.text
    assert [path.name for path in models.iterdir() if not path.name.endswith(".lock")] == []
    assert (tmp_path / "tiny" / "model.safetensors").is_file()
    open_tiny().close()
    assert len(list_files(models, known={})) == 1


def test_what_comes_into_use_meanwhile_stays(models: Path, open_tiny: Callable[..., Loader]) -> None:
    open_tiny().close()
    made = everything(models)
    loader = open_tiny()
    done = carry_out(made)
    assert done.removed == []
    assert "in use" in done.kept[0][1]
    assert loader.get(str(models.parent / "tiny")).embed(["alpha"]).shape == (1, 16)
    loader.close()
    assert carry_out(made).bytes > 0
    assert carry_out(made).kept == []  # gone already


def test_what_is_being_made_stays(models: Path, open_tiny: Callable[..., Loader]) -> None:
    open_tiny().close()
    made = everything(models)
    with inuse.making(made.removals[0].files.folder, name="tiny"):
        done = carry_out(made)
    assert "being made" in done.kept[0][1]


def test_a_leftover_of_what_goes_on_stays_and_then_goes(models: Path) -> None:
    (models / ".tiny-ab12-int8-v1.7.tmp").mkdir(parents=True)
    with inuse.making(models / "tiny-ab12-int8-v1", name="tiny"):
        assert [each.in_use for each in list_files(models, known={})] == [True]
        assert everything(models).removals == []
    done = carry_out(everything(models))
    assert [each.why for each in done.removed] == ["leftover"]
    assert list_files(models, known={}) == []


def test_a_reader_that_comes_while_it_goes_finds_it_gone(models: Path, open_tiny: Callable[..., Loader]) -> None:
    """The copy is pruned between its check and its opening: the load makes it anew instead of failing."""
    open_tiny().close()
    times: list[tuple[Path, ...]] = []

    def prune_first(*folders: Path, directory: Path) -> inuse.Hold | None:
        if not times:
            carry_out(everything(models))
        times.append(folders)
        return inuse.hold(*folders, directory=directory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embank.embed.engines.ct2.hold", prune_first)
        loader = open_tiny()
    assert len(times) == 2
    assert loader.get(str(models.parent / "tiny")).embed(["alpha"]).shape == (1, 16)
    loader.close()


def test_a_disk_that_refuses_is_named(
    models: Path, open_tiny: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_tiny().close()
    faulty = FaultyFiles()
    monkeypatch.setattr("embank.embed.files.prune.Files", lambda: faulty)
    faulty.fail_sync = True
    with pytest.raises(ModelFileError, match=r"can't be removed: Input/output error"):
        carry_out(everything(models))
    faulty.fail_sync = False
    assert [each.kind for each in list_files(models, known={})] == ["leftover"]  # never half a model
    assert carry_out(everything(models)).bytes > 0


# --- the limit ------------------------------------------------------------------------------------------------------


def test_a_conversion_makes_room_for_itself(models: Path, open_tiny: Callable[..., Loader]) -> None:
    open_tiny().close()
    (first,) = list_files(models, known={})
    limit = first.bytes + first.bytes // 2
    open_tiny("other", directory_limit=limit).close()
    (left,) = list_files(models, known={})
    assert left.name == "other"
    assert left.bytes <= limit


def test_what_is_open_stays_over_the_limit_and_the_log_says_so(
    models: Path, open_tiny: Callable[..., Loader], caplog: pytest.LogCaptureFixture
) -> None:
    loader = open_tiny()
    (first,) = list_files(models, known={})
    limit = first.bytes + first.bytes // 2
    with caplog.at_level(logging.WARNING, logger="embank"):
        open_tiny("other", directory_limit=limit).close()
    assert {each.name for each in list_files(models, known={})} == {"tiny", "other"}
    assert f"more than the limit of {limit}" in caplog.text
    loader.close()
    keep_within(models, limit, keep=[])
    assert {each.name for each in list_files(models, known={})} == {"other"}


def test_what_alone_is_over_the_limit_is_not_kept(models: Path, open_tiny: Callable[..., Loader]) -> None:
    with pytest.raises(ModelFileError, match=r"more than the 1,000 .*embed\.directory_limit"):
        open_tiny(directory_limit=1000)
    assert list_files(models, known={}) == []


def test_the_limit_is_bytes_or_a_part_of_the_disk(tmp_path: Path) -> None:
    assert limit_bytes(Settings(), tmp_path) is None
    assert limit_bytes(Settings.model_validate({"directory_limit": "5GB"}), tmp_path) == 5_000_000_000
    tenth = limit_bytes(Settings.model_validate({"directory_limit": "10%"}), tmp_path / "not" / "there")
    assert tenth == round(shutil.disk_usage(tmp_path).total * 0.1)


def test_without_a_limit_nothing_is_so_much_as_looked_at(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    os.utime(tmp_path / "m", (1, 1))
    assert keep_within(tmp_path, None, keep=[]).removed == []
