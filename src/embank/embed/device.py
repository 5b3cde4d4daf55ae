"""Where a model computes: what a user may write, and what it stands for on this machine.

`cpu`, `cuda` (the first), `cuda:N`, or `auto`: the first CUDA device where the engine sees one, else the CPU. A device
that is not there is an error, never another device: who asked for a GPU and got a CPU would find out by the bill.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from types import ModuleType

from embank.errors import DeviceNotFound, InvalidInput
from embank.system.log import get_logger

_log = get_logger(__name__)

_DEVICE = re.compile(r"cpu|auto|cuda(?::(\d{1,3}))?")


def checked_device(device: str) -> str:
    """`device` in its canonical form: `cpu`, `auto` or `cuda:N`. Raises `InvalidInput` for anything else."""
    found = _DEVICE.fullmatch(device)
    if found is None:
        raise InvalidInput(f"unknown device {device!r}: there are cpu, cuda, cuda:N and auto", value=device)
    return f"cuda:{int(found[1] or 0)}" if device.startswith("cuda") else device


def resolve_device(device: str, *, engine: str, cuda_devices: Callable[[], int]) -> str:
    """The device that `device` stands for: `cpu` or `cuda:N`.

    `cuda_devices` counts those that the engine can compute on; it is asked only where the answer matters. Raises
    `InvalidInput` for what is no device, `DeviceNotFound` (with those that are there) for one that is not here.
    """
    wanted = checked_device(device)
    if wanted == "cpu":
        return wanted
    count = cuda_devices()
    if wanted == "auto":
        return "cuda:0" if count else "cpu"
    if int(wanted.removeprefix("cuda:")) < count:
        return wanted
    there = ", ".join(["cpu", *(f"cuda:{number}" for number in range(count))])
    raise DeviceNotFound(
        f"there is no device {wanted!r} that the {engine} engine can compute on; there is {there}: set embed.device "
        f"(EMBANK_EMBED__DEVICE) to one of these, or to auto",
        device=wanted,
        engine=engine,
        devices=there,
    )


def empty_device_cache() -> int:
    """Have torch give cached CUDA memory back, on every device; the bytes given back, as torch counts them.

    Imports nothing and initialises no device: where this process computes nothing with torch on CUDA, it does nothing.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    before = _reserved_bytes(torch)
    torch.cuda.empty_cache()
    freed = before - _reserved_bytes(torch)
    _log.debug("torch gave back %d bytes of CUDA memory", freed)
    return freed


def _reserved_bytes(torch: ModuleType) -> int:
    return sum(torch.cuda.memory_reserved(device) for device in range(torch.cuda.device_count()))
