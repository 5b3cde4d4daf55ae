"""What lies in deploy/ agrees with the service: budgets with limits, probes with routes, ports and times with settings.

None of it is run here but the unit, which systemd's own checker reads.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from typer.testing import CliRunner

from embank.cli.program import app
from embank.http.routes import health
from embank.http.settings import Settings
from embank.registry import SECTIONS, import_path
from embank.system.size import Size

yaml: Any = pytest.importorskip("yaml", reason="it comes with huggingface-hub")

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SETTINGS = Settings()
UNPROTECTED = {
    route.path
    for route in health.router.routes
    if isinstance(route, import_path("embank.http.security:ScopedRoute")) and route.scope == "nothing"
}


def _unit() -> dict[str, list[str]]:
    """What the unit sets, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "embank.service").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def _compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["embank"]


def _pod() -> Any:
    found = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "embank.yaml").read_text()))
    return next(each for each in found if each["kind"] == "StatefulSet")["spec"]["template"]["spec"]


def _service() -> Any:
    found = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "embank.yaml").read_text()))
    return next(each for each in found if each["kind"] == "Service")["spec"]


def _image() -> list[tuple[str, str]]:
    """The Dockerfile's instructions."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line)]


def _variables(text: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", text))


def _image_variables() -> dict[str, str]:
    return {name: value for word, rest in _image() if word == "ENV" for name, value in _variables(rest).items()}


def _binary_bytes(text: str) -> int:
    """1536M of systemd, 1536m of compose and 1536Mi of Kubernetes are the same."""
    found = re.fullmatch(r"(\d+)(?:M|m|Mi)", text)
    assert found, text
    return int(found[1]) << 20


def _bytes(budget: str) -> int:
    return Size(budget).resolve(0)


def test_budgets_are_below_the_limits_with_room_for_mapped_files() -> None:
    unit, compose, pod = _unit(), _compose(), _pod()
    (container,) = pod["containers"]
    assert _binary_bytes(unit["MemoryHigh"][0]) < _binary_bytes(unit["MemoryMax"][0])
    in_pod = {each["name"]: each.get("value") for each in container["env"]}
    pairs = {
        "unit": (_variables(" ".join(unit["Environment"]))["EMBANK_MEMORY__BUDGET"], unit["MemoryHigh"][0]),
        "compose": (compose["environment"]["EMBANK_MEMORY__BUDGET"], compose["mem_limit"]),
        "image in compose": (_image_variables()["EMBANK_MEMORY__BUDGET"], compose["mem_limit"]),
        "pod": (in_pod["EMBANK_MEMORY__BUDGET"], container["resources"]["limits"]["memory"]),
    }
    for name, (budget, limit) in pairs.items():
        assert _bytes(budget) * 1.2 < _binary_bytes(limit), name
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]


def test_probes_ask_what_needs_no_key_where_it_listens() -> None:
    assert {"/livez", "/readyz"} == UNPROTECTED
    (container,) = _pod()["containers"]
    (port,) = container["ports"]
    probes = {name: probe["httpGet"] for name, probe in container.items() if name.endswith("Probe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert [each["targetPort"] for each in _service()["ports"]] == [port["name"]]
    (check,) = [rest for word, rest in _image() if word == "HEALTHCHECK"]
    assert "os.environ['EMBANK_HTTP__PORT'] + '/livez'" in check
    exposed = [rest for word, rest in _image() if word == "EXPOSE"]
    told = [str(port["containerPort"]), _image_variables()["EMBANK_HTTP__PORT"], *exposed]
    told += [each.rpartition(":")[2] for each in _compose()["ports"]]
    assert set(told) == {str(SETTINGS.port)}


def test_there_is_time_to_finish_what_was_begun() -> None:
    times = {
        "unit": int(_unit()["TimeoutStopSec"][0]),
        "compose": int(_compose()["stop_grace_period"].removesuffix("s")),
        "pod": _pod()["terminationGracePeriodSeconds"],
    }
    assert not {name: each for name, each in times.items() if each <= 2 * SETTINGS.drain_s}


def test_nobody_is_root_and_little_is_allowed() -> None:
    users = [rest for word, rest in _image() if word == "USER"]
    assert users == ["10001:10001"]
    stages = [index for index, (word, _) in enumerate(_image()) if word == "FROM"]
    assert len(stages) == 2
    assert not [rest for word, rest in _image()[stages[1] :] if word == "RUN" and "pip" in rest], "built in the first"
    compose, pod = _compose(), _pod()
    assert compose["cap_drop"] == ["ALL"]
    assert compose["read_only"] is True
    assert all(each.startswith("127.0.0.1:") for each in compose["ports"])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == users[0]
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
    unit = _unit()
    assert unit["User"] == ["embank"]
    assert unit["NoNewPrivileges"] == ["yes"]
    assert unit["CapabilityBoundingSet"] == [""]


def test_files_and_extras_that_the_image_is_built_of_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = [rest.partition("=")[2] for word, rest in _image() if word == "ARG" and rest.startswith("EXTRAS=")]
    assert set(named.split(",")) <= set(extras)
    copied = [rest.split()[:-1] for word, rest in _image() if word == "COPY" and not rest.startswith("--from")]
    files = {name for names in copied for name in names}
    assert not [name for name in files if not (ROOT / name).exists()]
    let_in = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert files == let_in


def test_settings_and_commands_that_are_named_exist() -> None:
    sections = {name: import_path(SECTIONS[name]).model_fields for name in SECTIONS}
    named: set[str] = set()
    for path in [*(each for each in DEPLOY.rglob("*") if each.is_file()), ROOT / "docs" / "deploy.md"]:
        named |= set(re.findall(r"EMBANK_[A-Z]+__[A-Z_]+", path.read_text()))
    assert {"EMBANK_MEMORY__BUDGET", "EMBANK_TELEMETRY__TRACES"} <= named
    for name in named - {"EMBANK_SECTION__NAME"}:
        section, _, field = name.removeprefix("EMBANK_").lower().partition("__")
        assert field in sections[section], name
    pod = _pod()
    commands = [each["args"] for each in (*pod["initContainers"], *pod["containers"])]
    commands += [_unit()["ExecStart"][0].split()[1:]]
    for words in commands:
        assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0, words


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    checker = shutil.which("systemd-analyze")
    if checker is None:
        pytest.skip("there is no systemd-analyze here")
    unit = tmp_path / "embank.service"
    text = (DEPLOY / "embank.service").read_text()
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    done = subprocess.run(
        [checker, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False, timeout=60
    )
    # Older versions complain of a user whom this machine lacks, or of what other units here say.
    told = [line for line in done.stderr.splitlines() if "embank.service" in line and "not found" not in line]
    assert told == []
