"""What passes between a process and its worker as JSON: what to load, who was loaded, events, errors.

Values are tagged where JSON would lose their type: paths, sizes, tuples, and the frozen dataclasses of Embank itself,
which are rebuilt by their class's name. Nothing else can be named, so that a message can't have anything run.
"""

from __future__ import annotations

import builtins
import dataclasses
import re
import traceback
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from embank.embed.engine import LoadRequest
from embank.embed.worker.wire import Garbled
from embank.errors import EmbankError
from embank.system.size import Size

if TYPE_CHECKING:
    from embank.embed.engine import Budget, Engine, OnProgress, Publisher
    from embank.embed.model import Fingerprint
    from embank.embed.settings import Settings

# MKL, the C++ library, ONNX Runtime, CUDA.
_NO_MEMORY = re.compile(r"failed to allocate|bad_alloc|can't allocate|cannot allocate|out of memory", re.IGNORECASE)
_OWN = "embank."
_MOST_TEXT = 8192
_MOST_WIDTHS = 1024


# --- values ---------------------------------------------------------------------------------------------------------


def told(value: Any) -> Any:
    """`value` as JSON that `heard` turns back. Raises TypeError for what has no such form."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, Size):
        return {"size": value.text}
    if isinstance(value, tuple | list):
        return {"items": [told(item) for item in value]}
    if isinstance(value, Mapping):
        return {"map": {str(key): told(item) for key, item in value.items()}}
    kind = type(value)
    if dataclasses.is_dataclass(kind) and kind.__module__.startswith(_OWN):
        fields = {each.name: told(getattr(value, each.name)) for each in dataclasses.fields(kind)}
        return {"module": kind.__module__, "class": kind.__qualname__, "fields": fields}
    raise TypeError(f"{kind.__module__}.{kind.__qualname__} can't be handed to another process")


def heard(value: Any) -> Any:
    """What `told` told; sequences come back as tuples. Raises `Garbled` for anything that it does not tell."""
    if not isinstance(value, dict):
        return value
    match value:
        case {"path": str(path)}:
            return Path(path)
        case {"size": str(text)}:
            return Size(text)
        case {"items": list(items)}:
            return tuple(heard(item) for item in items)
        case {"map": dict(items)}:
            return {key: heard(item) for key, item in items.items()}
        case {"module": str(module), "class": str(name), "fields": dict(fields)} if module.startswith(_OWN):
            kind = getattr(import_module(module), name, None)
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                return kind(**{key: heard(item) for key, item in fields.items()})
    raise Garbled(f"no value is told as {str(value)[:200]}")


# --- what to load ---------------------------------------------------------------------------------------------------


def told_request(engine: str, request: LoadRequest) -> dict[str, Any]:
    """The engine's registry name and all of `request` that is data."""
    settings = {name: getattr(request.settings, name) for name in type(request.settings).model_fields}
    return {
        "engine": engine,
        "name": request.name,
        "folder": told(request.folder),
        "known": told(request.known),
        "precision": request.precision,
        "device": request.device,
        "settings": told(settings),
        "models_directory": told(request.models_directory),
        "anew": request.anew,
    }


def heard_request(
    body: Mapping[str, Any], *, budget: Budget, publisher: Publisher, on_progress: OnProgress
) -> tuple[str, LoadRequest]:
    """The engine's name and the request, with the receiver's own budget, publisher and progress.

    `settings` has the values of the parent's, already validated, without pydantic, which would be 8 MB in every worker.
    """
    return body["engine"], LoadRequest(
        name=body["name"],
        folder=heard(body["folder"]),
        known=heard(body["known"]),
        precision=body["precision"],
        device=body["device"],
        settings=cast("Settings", SimpleNamespace(**heard(body["settings"]))),
        models_directory=heard(body["models_directory"]),
        budget=budget,
        publisher=publisher,
        on_progress=on_progress,
        anew=body["anew"],
    )


# --- who was loaded -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """What a parent must know of its worker's engine to stand in for it.

    `row_bytes[i]` is `batch_bytes(1, (i + 1) * stride)`; that of a width between two is taken from the next.
    """

    fingerprint: Fingerprint
    device: str
    max_tokens: int
    batch_tokens: int
    lanes: int
    length_step: int | None
    stride: int
    row_bytes: tuple[int, ...]

    @classmethod
    def of(cls, engine: Engine) -> Identity:
        """Ask the engine, once."""
        step = engine.length_step or 1
        # Every width where they are few; else every so many, a little above the truth in between.
        stride = step * max(1, -(-engine.max_tokens // (step * _MOST_WIDTHS)))
        count = -(-engine.max_tokens // stride)
        return cls(
            fingerprint=engine.fingerprint,
            device=engine.device,
            max_tokens=engine.max_tokens,
            batch_tokens=engine.batch_tokens,
            lanes=engine.lanes,
            length_step=engine.length_step,
            stride=stride,
            row_bytes=tuple(int(engine.batch_bytes(1, number * stride)) for number in range(1, count + 1)),
        )

    def batch_bytes(self, rows: int, width: int) -> int:
        """Working memory of a batch: proportional to its rows."""
        index = min(max(-(-width // self.stride), 1), len(self.row_bytes)) - 1
        return rows * self.row_bytes[index]


# --- errors ---------------------------------------------------------------------------------------------------------


def told_error(error: BaseException) -> dict[str, Any]:
    """Its classes, the nearest first, its message, its fields and its traceback."""
    return {
        "classes": [kind.__name__ for kind in type(error).__mro__],
        "message": str(error)[:_MOST_TEXT],
        "fields": {key: _field(value) for key, value in getattr(error, "fields", {}).items()},
        "traceback": "".join(traceback.format_exception(error))[-_MOST_TEXT:],
    }


def is_out_of_memory(body: Mapping[str, Any]) -> bool:
    """Whether what was told is that an allocation failed; runtimes mostly say so in a RuntimeError."""
    kind = body["classes"][0]
    return kind == "MemoryError" or (kind == "RuntimeError" and _NO_MEMORY.search(body["message"]) is not None)


def heard_error(body: Mapping[str, Any]) -> Exception:
    """The same error: of the nearest class that this process knows, in Embank's tree or built in.

    An error of anybody else's class becomes a RuntimeError that names it.
    """
    classes = list(body["classes"])
    message = str(body["message"])
    error = _known_error(classes, message, heard({"map": body["fields"]}))
    if body.get("traceback"):
        error.add_note(f"In the worker:\n{body['traceback']}")
    return error


def _known_error(classes: list[str], message: str, fields: dict[str, Any]) -> Exception:
    tree = import_module(EmbankError.__module__)
    for name in classes:
        kind = getattr(tree, name, None)
        if isinstance(kind, type) and issubclass(kind, EmbankError):
            try:
                # Some classes make their message from their fields, which bear the parameters' names.
                return kind(message, **fields) if kind.__init__ is EmbankError.__init__ else kind(**fields)
            except TypeError:
                continue  # other fields than the class has here: its base tells the message, at least
    kind = getattr(builtins, classes[0], None)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UnicodeError):
        return kind(message)
    return RuntimeError(f"{classes[0]}: {message}")


def _field(value: Any) -> Any:
    try:
        return told(value)
    except TypeError:
        return str(value)
