"""A torch module on another device: copied whole and checked, the old one untouched; and a device's cached memory.

Covers copying structure and tensors (a shared tensor stays shared), a copy without values to be filled from the files,
giving a module's memory back at once, and CUDA's own cache of freed memory. Who uses which copy is the engine's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from embank.embed.engines.materialise import check_whole, every_tensor
from embank.errors import ModelError

if TYPE_CHECKING:
    from embank.embed.engine import Budget

# What CUDA takes of the process's own memory beside torch's libraries. Measured with torch 2.11 on an H200: 580 MB.
_CUDA_HOST_BYTES = 600 << 20
_WAIT_S = 60.0


def copied_to(module: Any, device: str) -> Any:
    """An equal module whose every tensor is on `device`. `module` stays as it is, and may compute meanwhile.

    Raises what torch raises when the device is not there or full, `ModelError` when a tensor did not get there.
    """
    import torch

    there = torch.device(device)
    copy = _copied(module, lambda tensor: tensor.detach().to(there, copy=True))
    for name, tensor in every_tensor(copy):
        if tensor.device != there:
            raise ModelError(f"{name} is on {tensor.device} after a move to {device}", tensor=name)
    check_whole(copy)
    return copy


def begin(device: str, budget: Budget) -> None:
    """Begin CUDA in this process, if `device` needs it and nobody did; its host memory is reserved first.

    Raises `BudgetExceeded`. From then on the reading of the process has these bytes.
    """
    if not device.startswith("cuda"):
        return
    import torch

    if torch.cuda.is_initialized():
        return
    with budget.reserve(f"begin CUDA for {device}", _CUDA_HOST_BYTES, wait_s=_WAIT_S):
        torch.zeros(1, device=device)


def skeleton_of(module: Any) -> Any:
    """An equal module without values, on the meta device: it takes no memory, and wants `materialise`."""
    import torch

    return _copied(module, lambda tensor: torch.empty_like(tensor, device="meta"))


def discard(module: Any) -> None:
    """Give the memory of every tensor back now, whoever still refers to the module: it is of no use afterwards."""
    import torch

    for _, tensor in every_tensor(module):
        tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)


def release_cached(device: str) -> int:
    """Hand CUDA's cache of freed memory back to the device; the bytes by which what torch reserves there fell.

    0 for a device without such a cache.
    """
    if not device.startswith("cuda"):
        return 0
    import torch

    torch.cuda.synchronize(device)
    before_bytes = int(torch.cuda.memory_reserved(device))
    # cuBLAS's work space, 33 MB on Hopper, is kept apart from the cache, and kept 96 MB of it from going (measured).
    torch._C._cuda_clearCublasWorkspaces()  # noqa: SLF001 — torch's only way, which it uses itself before it captures graphs
    with torch.cuda.device(device):
        torch.cuda.empty_cache()
    return max(before_bytes - int(torch.cuda.memory_reserved(device)), 0)


@contextmanager
def whole_or_nothing(module: Any, device: str, name: str) -> Iterator[None]:
    """Around giving `module` its weights on `device`: where they don't fit nothing of them stays, and `ModelError`."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        discard(module)
        release_cached(device)
        raise ModelError(
            f"there is no memory on {device} for the model {name!r}: end what else uses the device, or set "
            f"embed.device to cpu ({error})",
            name=name,
            device=device,
        ) from error


def held_bytes(module: Any) -> int:
    """Memory of all tensors, each shared one once."""
    return sum({id(tensor): int(tensor.nbytes) for _, tensor in every_tensor(module)}.values())


def _copied(module: Any, convert: Callable[[Any], Any]) -> Any:
    """A deep copy in which each tensor is what `convert` makes of it: never on the old device twice."""
    import torch

    memo: dict[int, Any] = {}
    originals = []  # kept alive while their identities are in use
    for _, tensor in every_tensor(module):
        if id(tensor) not in memo:
            value = convert(tensor)
            is_parameter = isinstance(tensor, torch.nn.Parameter)
            memo[id(tensor)] = torch.nn.Parameter(value, requires_grad=False) if is_parameter else value
            originals.append(tensor)
    return deepcopy(module, memo)
