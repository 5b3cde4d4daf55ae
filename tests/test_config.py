"""Layers, provenance and errors of settings, with sections of this module's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, SecretStr, ValidationError, model_validator

from embank.config import Config, Given, Section, Setting, Size, load
from embank.errors import ConfigError


class Memory(Section):
    budget: Size = Size("60%")
    """What everything together may hold."""
    sample_s: float = Field(default=1.0, gt=0, description="Seconds between two samples.")
    mode: Literal["own", "guest"] = "own"


class Source(Section):
    globs: tuple[str, ...] = ("*.md",)
    encoding: str | None = None
    limit: int = 10
    prune: bool = False
    only: list[str] | None = None


class Service(Section):
    key: SecretStr = SecretStr("")
    low: int = 1
    high: int = 9

    @model_validator(mode="after")
    def _ordered(self) -> Service:
        if self.low > self.high:
            msg = "low must not be above high"
            raise ValueError(msg)
        return self


SECTIONS: dict[str, str | type[Section]] = {"memory": Memory, "source": Source, "service": Service}
KEYS = [f"{name}.{field}" for name, cls in SECTIONS.items() if isinstance(cls, type) for field in cls.model_fields]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory and a user's configuration folder of the test's own, both empty."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return tmp_path


def read(
    toml: str | None = None, environ: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> Config:
    if toml is not None:
        Path("embank.toml").write_text(toml, encoding="utf-8")
    return load(SECTIONS, file=None, environ=environ or {}, flags=flags or {})


def refused(
    toml: str | None = None, environ: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> str:
    with pytest.raises(ConfigError) as caught:
        read(toml, environ, flags)
    return str(caught.value)


def row(config: Config, key: str) -> Setting:
    return next(setting for setting in config.rows() if setting.key == key)


# --- layers -----------------------------------------------------------------------------------------------------------


def test_without_any_layer_the_defaults_stand() -> None:
    config = read()
    assert config.file is None
    assert config.section("memory") == Memory()
    assert [setting.key for setting in config.rows()] == KEYS
    assert {setting.provenance for setting in config.rows()} == {"default"}
    assert row(config, "memory.budget") == Setting(
        "memory.budget", Size("60%"), Size("60%"), "default", "What everything together may hold."
    )
    assert row(config, "memory.sample_s").description == "Seconds between two samples."


LAYERS = ("default", "file embank.toml", "environment EMBANK_SOURCE__LIMIT", "flag --limit")


@pytest.mark.parametrize("used", range(0, 16, 2), ids=str)
def test_the_highest_layer_wins_whatever_the_lower_ones_say(used: int) -> None:
    in_file, in_environment, in_flags = used & 8, used & 4, used & 2
    config = read(
        "[source]\nlimit = 1\n" if in_file else None,
        {"EMBANK_SOURCE__LIMIT": "2"} if in_environment else None,
        {"source.limit": Given(3, "flag --limit")} if in_flags else None,
    )
    layer = 3 if in_flags else 2 if in_environment else 1 if in_file else 0
    assert config.section("source").limit == (10, 1, 2, 3)[layer]
    assert row(config, "source.limit").provenance == LAYERS[layer]
    assert row(config, "source.limit").default == 10


@given(st.dictionaries(st.sampled_from(["low", "high"]), st.tuples(*[st.none() | st.integers(2, 8)] * 3)))
def test_layers_merge_setting_by_setting(
    tmp_path_factory: pytest.TempPathFactory, given_: dict[str, tuple[int | None, ...]]
) -> None:
    ordered = {"low": 1, "high": 9}
    file = tmp_path_factory.mktemp("layers") / "x.toml"
    lines = ["[service]"]
    environ: dict[str, str] = {}
    flags: dict[str, object] = {}
    for name, (in_file, in_environment, in_flags) in given_.items():
        lines += [] if in_file is None else [f"{name} = {in_file}"]
        environ |= {} if in_environment is None else {f"EMBANK_SERVICE__{name.upper()}": str(in_environment)}
        flags[f"service.{name}"] = in_flags
        ordered[name] = next((v for v in (in_flags, in_environment, in_file) if v is not None), ordered[name])
    file.write_text("\n".join(lines))
    if ordered["low"] > ordered["high"]:
        with pytest.raises(ConfigError, match="low must not be above high"):
            load(SECTIONS, file=file, environ=environ, flags=flags)
    else:
        service = load(SECTIONS, file=file, environ=environ, flags=flags).section("service")
        assert (service.low, service.high) == (ordered["low"], ordered["high"])


def test_the_file_is_the_first_of_explicit_variable_here_and_home(nowhere: Path) -> None:
    home = nowhere / "home" / "embank" / "config.toml"
    home.parent.mkdir(parents=True)
    places = [nowhere / "explicit.toml", nowhere / "variable.toml", Path("embank.toml"), home]
    for limit, place in enumerate(places):
        place.write_text(f"[source]\nlimit = {limit}\n")
    variable = {"EMBANK_CONFIG": str(places[1])}

    def found(file: Path | None, environ: dict[str, str]) -> tuple[int, Path | None]:
        config = load(SECTIONS, file=file, environ=environ, flags={})
        return config.section("source").limit, config.file

    assert found(places[0], variable) == (0, places[0])
    assert found(None, variable) == (1, places[1])
    assert found(None, {}) == (2, places[2])
    places[2].unlink()
    assert found(None, {"EMBANK_CONFIG": ""}) == (3, home)
    home.unlink()
    assert found(None, {}) == (10, None)


def test_nobody_needs_a_home(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(*_: str) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr("platformdirs.user_config_path", homeless)
    assert load(SECTIONS, file=None, environ={}, flags={}).file is None


@pytest.mark.parametrize("by_variable", [True, False])
def test_a_file_asked_for_by_name_must_be_there(*, by_variable: bool) -> None:
    environ = {"EMBANK_CONFIG": "gone.toml"} if by_variable else {}
    with pytest.raises(ConfigError, match=r"there is no configuration file 'gone\.toml'"):
        load(SECTIONS, file=None if by_variable else Path("gone.toml"), environ=environ, flags={})


def test_no_flag_given_is_no_layer() -> None:
    assert row(read(flags={"source.limit": None}), "source.limit").provenance == "default"


def test_sections_may_be_import_paths_and_are_frozen(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nowhere / "room_settings.py").write_text(
        "from embank.config import Section, Size\n\nclass Settings(Section):\n    cap: Size = Size('5MB')\n"
    )
    monkeypatch.syspath_prepend(nowhere)
    config = load({"room": "room_settings:Settings"}, file=None, environ={"EMBANK_ROOM__CAP": "7MiB"}, flags={})
    assert config.section("room").cap.resolve(0) == 7 * 1024**2
    with pytest.raises(ValidationError):
        config.section("room").cap = Size("1MB")
    with pytest.raises(ConfigError, match="no settings section 'rom': there are room"):
        config.section("rom")


def test_importing_the_package_does_not_import_pydantic() -> None:
    code = "import sys, embank.system.log, embank.system.size; print('pydantic' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


# --- text to values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "globs"),
    [
        ("*.md", ("*.md",)),
        ("*.md, *.txt,", ("*.md", "*.txt")),
        ('["a,b", "c"]', ("a,b", "c")),
        ("[a-c]*.[ch]", ("[a-c]*.[ch]",)),
        ("", ()),
    ],
)
def test_lists_are_read_from_commas_or_json(text: str, globs: tuple[str, ...]) -> None:
    assert read(environ={"EMBANK_SOURCE__GLOBS": text}).section("source").globs == globs
    assert read(flags={"source.globs": text}).section("source").globs == globs


def test_text_is_read_as_the_field_wants_it() -> None:
    environ = {"ENCODING": "", "LIMIT": "7", "PRUNE": "true", "ONLY": "a,b"}
    source = read(environ={f"EMBANK_SOURCE__{name}": text for name, text in environ.items()}).section("source")
    assert source == Source(encoding=None, limit=7, prune=True, only=["a", "b"])


def test_a_text_field_keeps_commas() -> None:
    assert read(environ={"EMBANK_SOURCE__ENCODING": "a,b"}).section("source").encoding == "a,b"


# --- errors -----------------------------------------------------------------------------------------------------------


def test_a_wrong_value_names_key_value_expectation_and_provenance() -> None:
    assert refused(environ={"EMBANK_MEMORY__BUDGET": "12 parsecs"}) == (
        "memory.budget: '12 parsecs' is not a size: give bytes, 512MB, 1.5GiB or 60% "
        "(environment EMBANK_MEMORY__BUDGET)"
    )
    assert refused(flags={"memory.sample_s": Given(-1, "flag --every")}) == (
        "memory.sample_s: -1 does not fit: input should be greater than 0 (flag --every)"
    )
    assert refused('[memory]\nmode = "gast"\n') == (
        "memory.mode: 'gast' does not fit: input should be 'own' or 'guest' (file embank.toml)"
    )


def test_a_rule_over_a_section_names_the_section() -> None:
    assert refused(flags={"service.low": 10}) == "service: low must not be above high"


def test_everything_wrong_is_said_at_once() -> None:
    message = refused("[source]\nlimit = 'x'\nfoo = 1\n", {"EMBANK_SOURCE__PRUNE": "perhaps"})
    assert [line.split(":")[0] for line in message.split("\n")] == ["file embank.toml", "source.limit", "source.prune"]


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[memory]\nbugdet = '1GB'\n", "there is no setting memory.bugdet; did you mean memory.budget?"),
        ("[memroy]\nbudget = '1GB'\n", "there is no setting memroy.budget; did you mean memory.budget?"),
        ("[source]\nbudget = '1GB'\n", "there is no setting source.budget; did you mean memory.budget?"),
        ("budget = '1GB'\n", "there is no setting budget; did you mean memory.budget?"),
        ("[memroy]\n", "there is no section memroy; did you mean memory?"),
        ("memory = '1GB'\n", "memory is a section: write [memory] and its settings below"),
        ("[memory.budget]\nx = 1\n", "memory.budget takes a value, not a table; tables are one level deep"),
        ("[qqq]\nxyz = 1\n", "there is no setting qqq.xyz"),
    ],
)
def test_a_wrong_key_in_the_file_is_named_with_the_nearest(toml: str, message: str) -> None:
    assert refused(toml) == f"file embank.toml: {message}"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("EMBANK_MEMORY__BUGDET", "memory.bugdet; did you mean EMBANK_MEMORY__BUDGET?"),
        ("EMBANK_MEMROY__BUDGET", "memroy.budget; did you mean EMBANK_MEMORY__BUDGET?"),
        ("EMBANK_memory__budget", "memory.budget; did you mean EMBANK_MEMORY__BUDGET?"),
        ("EMBANK_MEMORY__BUDGET__BYTES", "memory.budget__bytes; did you mean EMBANK_MEMORY__BUDGET?"),
        ("EMBANK_QQQ__XYZ", "qqq.xyz"),
    ],
)
def test_a_wrong_variable_is_named_with_the_nearest(name: str, hint: str) -> None:
    assert refused(environ={name: "1"}) == f"environment {name}: there is no setting {hint}"


def test_a_wrong_flag_is_named_with_the_nearest() -> None:
    assert refused(flags={"source.limits": 3}) == (
        "flag source.limits: there is no setting source.limits; did you mean source.limit?"
    )


@given(st.sampled_from([key for key in KEYS if len(key) > 10]), st.data())
def test_a_slip_of_one_letter_suggests_the_key(key: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(key) - 1).filter(lambda i: key[i] != "."))
    slip = data.draw(st.sampled_from(["drop", "double", "replace"]))
    typo = key[:place] + {"drop": "", "double": key[place] * 2, "replace": "q"}[slip] + key[place + 1 :]
    if typo in KEYS:
        return
    with pytest.raises(ConfigError) as caught:
        load(SECTIONS, file=Path(os.devnull), environ={}, flags={typo: 1})
    assert str(caught.value).endswith(f"did you mean {key}?")


def test_variables_without_a_double_underscore_are_not_settings() -> None:
    environ = {"EMBANK_BANK": "x", "EMBANK_ANYTHING": "x", "EMBANK_MEMORY_BUDGET": "x", "OTHER__THING": "x"}
    assert {setting.provenance for setting in read(environ=environ).rows()} == {"default"}


@pytest.mark.parametrize(
    ("toml", "line"),
    [("[memory]\nbudget = \n", 2), ("a = 1\n\nb = [1,\n", 3), ("[memory]\nmode = 'own'\nmode = 'own'\n", 3)],
)
def test_a_syntax_error_names_file_and_line(toml: str, line: int) -> None:
    with pytest.raises(ConfigError) as caught:
        read(toml)
    assert str(caught.value).startswith(f"embank.toml, line {line}: ")
    assert caught.value.fields == {"file": "embank.toml", "line": line}


def test_a_number_beyond_what_python_reads_is_an_error_too() -> None:
    assert refused(f"[source]\nlimit = {'9' * 5000}\n").startswith("embank.toml, line ")


def test_files_that_are_no_text_are_named(nowhere: Path) -> None:
    Path("embank.toml").write_bytes(b"[memory]\n# \xff\n")
    assert refused() == "embank.toml: not UTF-8 text, at byte 11"
    with pytest.raises(ConfigError, match=r"here: can't be read: Is a directory"):
        load(SECTIONS, file=nowhere / "here", environ={}, flags={})


def test_a_byte_order_mark_does_no_harm() -> None:
    Path("embank.toml").write_bytes(b"\xef\xbb\xbf[source]\r\nlimit = 4\r\n")
    assert read().section("source").limit == 4


def test_a_secret_is_shown_neither_in_rows_nor_in_errors() -> None:
    shown = str(read(environ={"EMBANK_SERVICE__KEY": "hunter2"}).rows())
    assert "hunter2" not in shown
    message = refused("[service]\nkey = ['hunter2']\n")
    assert "hunter2" not in message
    assert message == "service.key: Input should be a valid string (value hidden; file embank.toml)"


def test_a_long_value_is_cut_in_the_message() -> None:
    assert len(refused(environ={"EMBANK_SOURCE__LIMIT": "9" * 10_000})) < 300


def test_a_default_that_is_wrong_is_found() -> None:
    class Wrong(Section):
        count: Annotated[int, Field(gt=0)] = 0

    with pytest.raises(ConfigError, match=r"wrong\.count: Input should be greater than 0"):
        load({"wrong": Wrong}, file=None, environ={}, flags={})


def test_a_section_serialises_its_sizes_as_they_print() -> None:
    assert Memory(budget="512MB").model_dump_json().startswith('{"budget":"512MB"')  # type: ignore[arg-type]
    assert Memory.model_validate_json('{"budget": 512000000}').budget == Size("512MB")
