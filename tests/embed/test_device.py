"""Devices by name: what may be written, what it stands for, what is said when it is not here."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from embank.embed.device import empty_device_cache, resolve_device
from embank.embed.settings import Settings
from embank.errors import ConfigError, DeviceNotFound, InvalidInput


def resolved(device: str, count: int) -> str:
    return resolve_device(device, engine="test", cuda_devices=lambda: count)


@pytest.mark.parametrize(
    ("device", "count", "wanted"),
    [
        ("cpu", 0, "cpu"),
        ("cpu", 2, "cpu"),
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cuda", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_a_device_that_is_there(device: str, count: int, wanted: str) -> None:
    assert resolved(device, count) == wanted


def test_the_processor_is_found_without_asking_for_others() -> None:
    def fail() -> int:
        raise AssertionError

    assert resolve_device("cpu", engine="test", cuda_devices=fail) == "cpu"


@pytest.mark.parametrize(("device", "count"), [("cuda", 0), ("cuda:2", 2)])
def test_one_that_is_not_there_is_never_another(device: str, count: int) -> None:
    with pytest.raises(DeviceNotFound, match=r"no device 'cuda:\d' that the test engine .* there is cpu"):
        resolved(device, count)


@pytest.mark.parametrize("device", ["gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "", "cpu:0"])
def test_what_is_no_device_is_refused(device: str) -> None:
    with pytest.raises(InvalidInput, match="there are cpu, cuda, cuda:N and auto"):
        resolved(device, 1)
    with pytest.raises((ConfigError, ValueError), match="there are cpu"):
        Settings(device=device)


class _Cuda:
    """What torch's allocator says of two devices."""

    def __init__(self, *, initialised: bool) -> None:
        self.initialised = initialised
        self.reserved = [300, 50]

    def is_initialized(self) -> bool:
        return self.initialised

    def device_count(self) -> int:
        assert self.initialised, "asking would initialise"
        return len(self.reserved)

    def memory_reserved(self, device: int) -> int:
        return self.reserved[device]

    def empty_cache(self) -> None:
        self.reserved = [100, 50]


def test_torchs_cache_is_given_back_where_it_computes_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=_Cuda(initialised=True)))
    assert empty_device_cache() == 200
    assert empty_device_cache() == 0


def test_torch_is_neither_imported_nor_initialised_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=_Cuda(initialised=False)))
    assert empty_device_cache() == 0
    monkeypatch.delitem(sys.modules, "torch")
    assert empty_device_cache() == 0
    assert "torch" not in sys.modules
