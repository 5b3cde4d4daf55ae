"""The OpenAPI holds: whatever it allows or forbids is sent to a real server, and each answer must be one it names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from tests.http.serving import serving

from embank.bank import open_bank
from embank.http.keys import KeyBook
from embank.testing.fakes import HashModel

if TYPE_CHECKING:
    from tests.http.serving import Served

schemathesis: Any = pytest.importorskip("schemathesis", reason="schemathesis is not installed (make setup-full)")
checks: Any = pytest.importorskip("schemathesis.specs.openapi.checks", reason="schemathesis is not installed")

EXAMPLES = 3
LINES = ("POST /collections/{name}/imports", "POST /collections/{name}/index")
ELSEWHERE = [
    checks.ignored_auth,  # test_scopes.py: what is sent here has the key of `headers` in any case
    checks.positive_data_acceptance,  # a schema can't say all: names of models, filters, what goes with what
]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, dict[str, str]]]:
    """A server with something in it, and the header that opens it."""
    path = tmp_path_factory.mktemp("described") / "a.bank"
    open_bank(path, model=HashModel()).close()
    _, token = KeyBook(path).add("attacker", "admin", now=1.0)
    headers = {"authorization": f"Bearer {token}"}
    with serving(path) as served:
        served.http.headers.update(headers)
        written = {"documents": [{"id": "a1", "text": "Rivers carry silt.", "metadata": {"year": 2024}}]}
        assert served.http.post("/collections/notes/documents", json=written).status_code == 200
        yield served, headers


@schemathesis.serializer("application/x-ndjson")  # type: ignore[untyped-decorator]
def lines(_: Any, value: Any) -> bytes:
    """A body of lines, which the description calls a string."""
    return str(value).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_answer_is_described(keyed: tuple[Served, dict[str, str]], mode: str) -> None:
    served, headers = keyed
    schema = schemathesis.openapi.from_dict(served.http.get("/openapi.json").json())
    schema.config.update(base_url=served.url)
    operations = [found.ok() for found in schema.exclude(path="/events").get_all_operations()]
    assert len(operations) > 25
    faults = [fault for each in operations if (fault := _fault(each, mode, headers)) is not None]
    assert not faults, "\n".join(faults)


def _fault(operation: Any, mode: str, headers: dict[str, str]) -> str | None:
    """What is wrong with the answers of one route."""
    elsewhere = [*ELSEWHERE]
    if operation.label in LINES:
        elsewhere.append(checks.negative_data_rejection)  # whatever is sent as lines is text

    @seed(1)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
    def attack(case: Any) -> None:
        case.call_and_validate(headers=headers, excluded_checks=elsewhere)

    try:
        attack()
    except Unsatisfiable:
        assert mode == "negative", operation.label  # nothing that it could be sent is wrong
    except Exception as error:  # noqa: BLE001 -- the faults of all routes are told at once
        return f"{operation.label}: {error!r} {getattr(error, 'exceptions', '')}"
    return None
