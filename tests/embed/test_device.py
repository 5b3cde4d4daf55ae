"""Devices by name: what may be written, what it stands for, what is said when it is not here."""

from __future__ import annotations

import pytest

from embank.embed.device import resolve_device
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
