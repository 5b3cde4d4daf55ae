"""Giving a torch module its weights: every tensor's value straight from a safetensors file, and nothing else.

A module built on torch's meta device, or emptied with `to_empty()`, has shapes and no values; moved or cast like that
it computes with whatever lay in memory, without a word. `materialise` writes every parameter and buffer anew, whatever
stood there before, on the device and in the dtype asked for, and raises unless the file and the module agree in full.
What is checked is checked before anything is changed. Non-persistent buffers (position ids, rotary frequencies) are in
no file: they are computed anew by building the module once more, without memory for its parameters.

Does not convert weights whose names or shapes a library rearranges while it loads them; see `sentence_model`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from embank.embed.engines.weights import Weights
from embank.errors import ModelFileError

# Old checkpoints call the two parts of a layer norm so.
_OLD_ENDS = {".gamma": ".weight", ".beta": ".bias"}
_NAMED = 3
# Prefixes of a module's names that are tried: `model.`, `0.model.`.
_DEEPEST_PREFIX = 2


@dataclass(frozen=True, slots=True)
class Report:
    """What `materialise` did. `tensors` counts each shared tensor once, and `held_bytes` its memory.

    `unused` are tensors of the file that belong to a head which the module does not have.
    """

    tensors: int
    held_bytes: int
    recreated: tuple[str, ...] = ()
    tied: tuple[tuple[str, ...], ...] = ()
    unused: tuple[str, ...] = ()


class UnmatchedWeights(ModelFileError):
    """The file's tensors are not those of the module; `fields` has `missing` and `unexpected`."""


@dataclass(slots=True)
class _Slot:
    """One tensor and every place in the module where it stands, by name: several where it is shared."""

    tensor: Any
    is_persistent: bool
    names: list[str] = field(default_factory=list)
    spots: list[tuple[Any, str]] = field(default_factory=list)


def materialise(
    module: Any,
    weights: Path,
    *,
    device: str = "cpu",
    dtype: Any = None,
    without: tuple[str, ...] = (),
    rebuild: Callable[[], Any] | None = None,
) -> Report:
    """Load every parameter and buffer of `module` from `weights`, onto `device`, floating ones as `dtype`.

    `weights` is a safetensors file or the index of several (`model.safetensors.index.json`). `dtype` None keeps the
    file's own. `without` are beginnings of names (`pooler.`) that the file may have though the module lacks them.
    `rebuild` builds an equal module, for non-persistent buffers; models of transformers need none. Without
    it such a buffer is kept if it has a value, and refused if it has none. A tensor that stands in several places
    stays one. The parameters are new objects that ask for no gradient: an optimiser made before knows nothing of them.

    Raises `ModelFileError` for a file that is missing, truncated or damaged, for values that are not finite, and
    `UnmatchedWeights` where names or shapes differ. Nobody may use the module meanwhile, nor after an error.
    """
    with Weights(weights) as source:
        slots = _slots(module)
        used, repeated, unused = _matched(source.shapes, slots, module, weights, without)
        recreated = _recreated(module, slots, rebuild)
        held_bytes = 0
        for slot in slots:
            if (name := used.get(id(slot.tensor))) is not None:
                value = source.read(name, device, dtype)
                _check_finite(value, name, weights)
                _check_tied(source, name, [other for other in repeated if repeated[other] == name], value, dtype)
            else:
                value = recreated[slot.names[0]].to(device)
            _put(slot, value)
            held_bytes += value.nbytes
    check_whole(module)
    return Report(
        tensors=len(slots),
        held_bytes=held_bytes,
        recreated=tuple(recreated),
        tied=tuple(tuple(slot.names) for slot in slots if len(slot.names) > 1),
        unused=tuple(unused),
    )


def check_whole(module: Any) -> None:
    """Raise `ModelFileError` naming the first tensor of `module` that has no value (meta), or one that is not finite.

    Tensors that are plain attributes are looked at, too.
    """
    for name, tensor in every_tensor(module):
        if tensor.is_meta:
            raise ModelFileError(
                f"{name} has no value: it is on the meta device, and neither the file nor the module gives one",
                tensor=name,
            )
        _check_finite(tensor, name, None)


def every_tensor(module: Any) -> Iterator[tuple[str, Any]]:
    """Parameters, buffers and tensors that are plain attributes, by name; a shared one once for each name."""
    import torch

    for place, owner in module.named_modules(remove_duplicate=False):
        plain = {key: value for key, value in vars(owner).items() if isinstance(value, torch.Tensor)}
        own = dict(owner.named_parameters(recurse=False, remove_duplicate=False))
        own |= dict(owner.named_buffers(recurse=False, remove_duplicate=False))
        for key, tensor in (own | plain).items():
            yield f"{place}.{key}".lstrip("."), tensor


def _slots(module: Any) -> list[_Slot]:
    found: dict[int, _Slot] = {}
    persistent = {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    for place, owner in module.named_modules(remove_duplicate=False):
        parameters = owner.named_parameters(recurse=False, remove_duplicate=False)
        buffers = owner.named_buffers(recurse=False, remove_duplicate=False)
        for key, tensor in chain(parameters, buffers):
            slot = found.setdefault(id(tensor), _Slot(tensor, is_persistent=id(tensor) in persistent))
            slot.names.append(f"{place}.{key}".lstrip("."))
            slot.spots.append((owner, key))
    return list(found.values())


def _matched(
    shapes: dict[str, tuple[int, ...]], slots: list[_Slot], module: Any, path: Path, without: tuple[str, ...]
) -> tuple[dict[int, str], dict[str, str], list[str]]:
    """For each slot (by its tensor's identity) the file's tensor; those that repeat one of these; those of no use.

    Raises `UnmatchedWeights` unless every persistent slot has one of its shape, and every tensor of the file a slot.
    """
    by_name = {name: slot for slot in slots for name in slot.names}
    before, within = _prefixes(shapes, by_name)
    used: dict[int, str] = {}
    repeated: dict[str, str] = {}
    unused: list[str] = []
    unexpected: list[str] = []
    different: list[str] = []
    for file_name, shape in shapes.items():
        bare = _modern(file_name.removeprefix(before))
        slot = by_name.get(within + bare)
        is_outside = not file_name.startswith(before)
        if slot is None or is_outside:
            is_needless = is_outside or bare.startswith(without) or _is_ignored(file_name, module)
            (unused if is_needless else unexpected).append(file_name)
        elif not slot.is_persistent:
            continue  # written by an older library; computed anew like all of its kind
        elif tuple(slot.tensor.shape) != shape:
            different.append(f"{file_name} is {list(shape)} where {list(slot.tensor.shape)} is due")
        elif (first := used.setdefault(id(slot.tensor), file_name)) != file_name:
            repeated[file_name] = first
    missing = [slot.names[0] for slot in slots if slot.is_persistent and id(slot.tensor) not in used]
    if different:
        raise UnmatchedWeights(
            f"{path} has weights of another architecture than the configuration says: {_some(different)}",
            path=str(path),
            missing=[],
            unexpected=different,
        )
    if missing or unexpected:
        problems = [
            *([f"{len(missing)} tensors of it are not in the file ({_some(missing)})"] if missing else []),
            *([f"{len(unexpected)} in the file are not of it ({_some(unexpected)})"] if unexpected else []),
        ]
        raise UnmatchedWeights(
            f"{path} does not hold the weights of {type(module).__name__}: {' and '.join(problems)}",
            path=str(path),
            missing=missing,
            unexpected=unexpected,
        )
    return used, repeated, unused


def _prefixes(file_names: Iterable[str], names: Iterable[str]) -> tuple[str, str]:
    """What stands before the file's names and not the module's (`bert.`), or before the module's and not the file's.

    Of all first parts the one with which most names agree; none if that is as good.
    """
    offered = {_modern(name) for name in file_names}
    wanted = set(names)
    candidates = [("", "")]
    candidates += [(head, "") for head in sorted({name.split(".")[0] + "." for name in offered})]
    for depth in range(1, _DEEPEST_PREFIX + 1):
        heads = {".".join(name.split(".")[:depth]) + "." for name in wanted if name.count(".") >= depth}
        candidates += [("", head) for head in sorted(heads)]

    def agreeing(candidate: tuple[str, str]) -> int:
        before, within = candidate
        return sum(name.startswith(before) and within + name.removeprefix(before) in wanted for name in offered)

    return max(candidates, key=agreeing)


def _modern(name: str) -> str:
    for old, new in _OLD_ENDS.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _is_ignored(file_name: str, module: Any) -> bool:
    """Whether the module's own class says that checkpoints may hold this and it has no use for it (transformers)."""
    import re

    patterns: Any = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    return any(re.search(pattern, file_name) for pattern in patterns)


def _recreated(module: Any, slots: list[_Slot], rebuild: Callable[[], Any] | None) -> dict[str, Any]:
    """First name -> value, of every non-persistent buffer."""
    wanted = [slot for slot in slots if not slot.is_persistent]
    if not wanted:
        return {}
    fresh = _fresh_buffers(module, rebuild)
    values = {}
    for slot in wanted:
        name = slot.names[0]
        value = fresh.get(name, slot.tensor)
        if value.is_meta or value.shape != slot.tensor.shape:
            raise ModelFileError(
                f"the buffer {name} of {type(module).__name__} is in no file, and nothing here can compute it: give "
                f"materialise a `rebuild` that builds the module anew",
                tensor=name,
            )
        values[name] = value
    return values


def _fresh_buffers(module: Any, rebuild: Callable[[], Any] | None) -> dict[str, Any]:
    """The buffers of an equal module just built, by name; of every model of transformers inside, without `rebuild`."""
    if rebuild is not None:
        builders: list[tuple[str, Callable[[], Any]]] = [("", rebuild)]
    else:
        builders = []
        for place, inner in module.named_modules(remove_duplicate=False):
            whole = any(place == outer or place.startswith(outer and f"{outer}.") for outer, _ in builders)
            if not whole and hasattr(inner, "config") and hasattr(type(inner), "from_pretrained"):
                builders.append((place, partial(_built_like, inner)))
    found = {}
    for place, build in builders:
        with _empty_on_meta():
            fresh = build()
        for name, buffer in fresh.named_buffers(remove_duplicate=False):
            found[f"{place}.{name}".lstrip(".")] = buffer
    return found


def _built_like(model: Any) -> Any:
    return type(model)(deepcopy(model.config))


def _empty_on_meta() -> Any:
    """A context, of this thread only, in which layers are built without memory for their weights.

    Layers make their weights with `torch.empty` and its like; buffers come from `arange`, `zeros` and arithmetic, and
    get their values.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    emptied = {torch.empty, torch.randn, torch.rand}

    class EmptyOnMeta(TorchFunctionMode):  # type: ignore[misc]  # the library has no types here
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            given = dict(kwargs or {})
            if func in emptied:
                given["device"] = "meta"
            return func(*args, **given)

    return EmptyOnMeta()


def _put(slot: _Slot, value: Any) -> None:
    import torch

    if isinstance(slot.tensor, torch.nn.Parameter):
        value = torch.nn.Parameter(value, requires_grad=False)
    for owner, key in slot.spots:
        setattr(owner, key, value)


def _check_tied(source: Weights, name: str, others: list[str], value: Any, dtype: Any) -> None:
    """What the module shares may stand in the file several times, but not with several values."""
    import torch

    for other in others:
        if not torch.equal(source.read(other, str(value.device), dtype), value):
            raise UnmatchedWeights(
                f"the module shares one tensor for {name} and {other}, but the file has two that differ",
                missing=[],
                unexpected=[other],
            )


def _check_finite(tensor: Any, name: str, path: Path | None) -> None:
    """One pass without a temporary copy: a sum over anything not finite is not finite."""
    import math

    import torch

    if not tensor.is_floating_point() or math.isfinite(tensor.detach().sum(dtype=torch.float64).item()):
        return
    where = f" of {path}" if path is not None else ""
    raise ModelFileError(
        f"the tensor {name!r}{where} has values that are not finite in {tensor.dtype}: the file is damaged, or the "
        f"weights are too large for that type (set embed.precision to float32 or bfloat16)",
        tensor=name,
        **({"path": str(path)} if path is not None else {}),
    )


def _some(names: list[str]) -> str:
    more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
