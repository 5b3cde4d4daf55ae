"""One server for the tests of a module, and its bank twice: opened here, and through a client of the server."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from tests.http.serving import Served, serving

from embank.client.client import Client

if TYPE_CHECKING:
    from embank.integrations.shelf import Place

_NUMBERS = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    """Know the mark of a plugin that langchain-tests expects and that no test here uses."""
    config.addinivalue_line("markers", "benchmark: of a suite of langchain-tests")


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(name: str, obj: object) -> None:
    """Mark what is asynchronous: the suites of langchain-tests leave that to a setting that would be for all tests."""
    if name.startswith("test_") and inspect.iscoroutinefunction(obj):
        pytest.mark.asyncio(obj)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served") / "a.bank") as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Client]:
    with Client(served.url) as made:
        yield made


@pytest.fixture(scope="module", params=["bank", "server"])
def place(served: Served, client: Client, request: pytest.FixtureRequest) -> Place:
    return served.bank if request.param == "bank" else client


@pytest.fixture
def name() -> str:
    """Of a collection that is not there yet."""
    return f"c{next(_NUMBERS)}"
