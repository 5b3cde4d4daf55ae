from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from embank.embed.engine import LoadRequest, Unbudgeted, Unheard
from embank.embed.files.catalog import KNOWN
from embank.embed.model import Fingerprint
from embank.embed.settings import Settings
from embank.embed.worker.handoff import Identity, heard, heard_error, heard_request, told, told_error, told_request
from embank.embed.worker.wire import Garbled
from embank.errors import BudgetExceeded, EmbankError, InvalidInput, MissingExtra, ModelFileError
from embank.events.kinds import ModelConverted
from embank.system.size import Size


def over_the_wire(value: Any) -> Any:
    return heard(json.loads(json.dumps(told(value))))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        2**60,
        0.25,
        "größer",
        Path("/a/b"),
        Size("1.5GiB"),
        (),
        (1, ("a", None)),
        {"path": "no path", "nested": {"items": ()}},
        KNOWN["minilm"],
        ModelConverted("minilm", 1.5, 3, at=12.0),
        Fingerprint("a", "b", "c", "mean", True, 3, "ct2", "int8"),
    ],
)
def test_values_come_back_as_they_were(value: Any) -> None:
    back = over_the_wire(value)
    assert back == value
    assert type(back) is type(value)


@dataclass(frozen=True)
class Foreign:
    x: int


@pytest.mark.parametrize("value", [object(), b"bytes", {1, 2}, Foreign(1), 1j])
def test_what_has_no_form_is_not_told(value: object) -> None:
    with pytest.raises(TypeError, match="can't be handed to another process"):
        told(value)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"path": 5},
        {"items": {}},
        {"module": "os", "class": "system", "fields": {}},
        {"module": "subprocess", "class": "Popen", "fields": {"args": {"items": ["true"]}}},
        {"module": "embank.system.process", "class": "run_child", "fields": {}},
        {"module": "embank.events.kinds", "class": "NoSuchEvent", "fields": {}},
    ],
)
def test_nothing_else_can_be_made_by_a_message(value: object) -> None:
    with pytest.raises(Garbled):
        heard(value)


def test_a_request_comes_with_the_settings_values(tmp_path: Path) -> None:
    settings = Settings(directory=tmp_path, threads=3, pinned=("a", "b"), directory_limit=Size("1GB"))
    request = LoadRequest(
        name="minilm",
        folder=tmp_path / "files",
        known=KNOWN["minilm"],
        precision="int8",
        device="cuda:1",
        settings=settings,
        models_directory=tmp_path,
        budget=Unbudgeted(),
        publisher=Unheard(),
        on_progress=lambda _fraction, _step: None,
    )
    body = json.loads(json.dumps(told_request("ct2", request)))
    engine, back = heard_request(
        body, budget=request.budget, publisher=request.publisher, on_progress=request.on_progress
    )
    assert engine == "ct2"
    for name in ("name", "folder", "known", "precision", "device", "models_directory", "anew"):
        assert getattr(back, name) == getattr(request, name)
    for name in Settings.model_fields:
        assert getattr(back.settings, name) == getattr(settings, name)


# --- identity -------------------------------------------------------------------------------------------------------


class Quadratic:
    fingerprint = Fingerprint("a", "b", "c", "mean", True, 3, "ct2", "int8")
    device = "cpu"
    batch_tokens = 64
    lanes = 2

    def __init__(self, max_tokens: int, length_step: int | None) -> None:
        self.max_tokens = max_tokens
        self.length_step = length_step

    def batch_bytes(self, rows: int, width: int) -> int:
        return rows * (100 * width + 3 * width * width)


@pytest.mark.parametrize(("max_tokens", "step"), [(256, 16), (250, 16), (512, None), (1, None)])
def test_few_widths_are_told_exactly(max_tokens: int, step: int | None) -> None:
    engine = Quadratic(max_tokens, step)
    identity = over_the_wire(Identity.of(engine))  # type: ignore[arg-type]
    for width in range(step or 1, -(-max_tokens // (step or 1)) * (step or 1) + 1, step or 1):
        assert identity.batch_bytes(7, width) == engine.batch_bytes(7, width)


def test_of_many_widths_the_next_larger_one_counts() -> None:
    engine = Quadratic(8192, None)
    identity = Identity.of(engine)  # type: ignore[arg-type]
    assert len(identity.row_bytes) <= 1024
    for width in (1, 100, 4096, 8191, 8192):
        exact = engine.batch_bytes(5, width)
        assert exact <= identity.batch_bytes(5, width) <= engine.batch_bytes(5, width + identity.stride)


# --- errors ---------------------------------------------------------------------------------------------------------


def raised(error: BaseException) -> BaseException:
    try:
        raise error  # noqa: TRY301
    except BaseException as caught:  # noqa: BLE001 — with its traceback
        return caught


@pytest.mark.parametrize(
    "error",
    [
        ModelFileError("damaged", path="/x", bytes=3),
        InvalidInput("no", value=(1, 2)),
        BudgetExceeded("load", wanted_bytes=5, available_bytes=3, budget_bytes=4),
        MissingExtra("onnx", "onnx"),
        ValueError("odd"),
        OSError("disk"),
    ],
)
def test_errors_come_as_the_same_class_with_message_and_fields(error: Exception) -> None:
    back = heard_error(json.loads(json.dumps(told_error(raised(error)))))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert getattr(back, "fields", None) == getattr(error, "fields", None)
    assert "test_handoff.py" in back.__notes__[0]


def test_an_unknown_error_of_our_tree_becomes_its_nearest_known() -> None:
    class Novel(ModelFileError): ...

    back = heard_error(told_error(raised(Novel("new", path=Path("/x"), odd=object()))))
    assert type(back) is ModelFileError
    assert back.fields["path"] == Path("/x")
    assert "object" in back.fields["odd"]


def test_an_error_of_nobody_we_know_is_named() -> None:
    class Foreign(Exception): ...

    back = heard_error(told_error(raised(Foreign("what"))))
    assert type(back) is RuntimeError
    assert str(back) == "Foreign: what"
    assert not isinstance(back, EmbankError)
    assert str(heard_error(told_error(raised(SystemExit(3))))) == "SystemExit: 3"
