"""Rules of the house that no linter knows (CONTRIBUTING.md): each test can fail, and says what to do."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from embank.cli.program import app

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "embank"
MODULES = sorted(PACKAGE.rglob("*.py"))

MAX_LINES = 400
NAMELESS = {"utils", "util", "core", "common", "helpers", "helper", "managers", "manager", "misc"}
READS_ENVIRONMENT = {
    "cli/glance.py": "EMBANK_BANK alone, which everywhere else the parser of the command line reads",
    "engine.py": "it hands the environment to config, which is told what to read",
    "config.py": "settings come from there, with their provenance",
    "system/": "it hands children their environment and reads what the machine says of itself",
    "memory/hygiene.py": "allocator and thread settings are variables that must be set before heavy imports",
}
LOCK_FILES = {"uv.lock", "poetry.lock", "pdm.lock", "pylock.toml", "Pipfile.lock", "package-lock.json", "yarn.lock"}
# Put together here, so that this file does not name them itself.
REGISTRIES = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("download", "pytorch", "org"))]
SHELL_BREAKS = {"|", "||", "&&", "&", ";", ">", ">>", "<", "2>", "2>&1"}


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def project_files() -> list[Path]:
    """What git tracks or would offer to track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return [path for path in paths if path.is_file()]


def fenced(path: Path, *languages: str) -> Iterator[list[str]]:
    """The lines of each fenced code block in one of these languages ("" for none)."""
    for language, body in re.findall(
        r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        if language in languages:
            yield body.splitlines()


# -- code ------------------------------------------------------------------------------------------------------------


def test_no_file_or_room_is_named_for_nothing() -> None:
    found = [relative(path) for path in MODULES if NAMELESS & set(Path(relative(path)).with_suffix("").parts)]
    assert not found, "name it for what it is about"


def test_a_file_is_about_one_thing() -> None:
    lines = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert not {name: count for name, count in lines.items() if count > MAX_LINES}, "split these"


def test_an_init_says_what_its_room_covers_and_holds_nothing_else() -> None:
    inits = [path for path in MODULES if path.name == "__init__.py"]
    assert not [relative(path) for path in inits if not ast.get_docstring(parse(path))], "these need a docstring"
    full = [relative(path) for path in inits if path.parent != PACKAGE and len(parse(path).body) != 1]
    assert not full, "no re-exports: importing a room must import nothing"


def test_every_folder_of_the_package_is_a_room() -> None:
    folders = {path.parent for path in MODULES}
    assert not [relative(folder) for folder in folders if not (folder / "__init__.py").is_file()], "give it __init__.py"


def environment_reads(tree: ast.Module) -> list[int]:
    """Lines that touch the process's environment."""
    names = {"environ", "environb", "getenv", "putenv", "unsetenv"}
    return [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in names and ast.unparse(node.value) == "os")
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and names & {alias.name for alias in node.names})
    ]


def test_only_the_rooms_listed_read_the_environment() -> None:
    allowed = tuple(READS_ENVIRONMENT)
    reads = {
        relative(path): environment_reads(parse(path)) for path in MODULES if not relative(path).startswith(allowed)
    }
    found = {name: lines for name, lines in reads.items() if lines}
    assert not found, "take the value from the room's Settings"


def test_no_room_imports_the_package_itself() -> None:
    """`embank/__init__.py` is the public face: a room that imports it would import upwards through a lazy table."""
    found = [
        f"{relative(path)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(parse(path))
        if (isinstance(node, ast.Import) and "embank" in {alias.name for alias in node.names})
        or (isinstance(node, ast.ImportFrom) and (node.level > 0 or node.module == "embank"))
    ]
    assert not found, "import the room by its full name (from embank.room.file import name)"


# -- project files ---------------------------------------------------------------------------------------------------


def test_no_lock_file_is_kept() -> None:
    assert not [path.name for path in project_files() if path.name in LOCK_FILES], "pins belong in requirements/*.txt"


def test_no_file_names_a_registry() -> None:
    found = []
    for path in project_files():
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {address}" for address in REGISTRIES if address in text]
    assert not found, "where packages come from is each machine's own setting"


def pins(name: str) -> dict[str, list[Requirement]]:
    """Package name -> its pins in requirements/`name`.txt (more than one where platforms differ)."""
    found: dict[str, list[Requirement]] = {}
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(re.split(r"\s--hash", line)[0])
            found.setdefault(requirement.name, []).append(requirement)
    return found


def versions(name: str) -> dict[str, set[str]]:
    """Package name -> its versions in requirements/`name`.txt, whatever the platforms they are for."""
    return {package: {str(pin.specifier) for pin in pinned} for package, pinned in pins(name).items()}


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "requirements").glob("*.txt")))
def test_pins_are_names_versions_and_hashes_only(name: str) -> None:
    text = re.sub(r"\\\n", " ", (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8"))
    pin = r"[a-z0-9.-]+==[\w.!+]+( ; [^#]+?)?"
    hashes = "" if name == "torch" else r"(\s+--hash=sha256:[0-9a-f]{64})+"
    wrong = [line for line in text.splitlines() if line and line[0] != "#" and not re.fullmatch(pin + hashes, line)]
    assert not wrong, "run make pins"


def test_pins_fit_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = {"core": project["project"]["dependencies"], **project["dependency-groups"]}
    for name, requirements in asked.items():
        pinned = pins(name)
        for requirement in map(Requirement, requirements):
            versions = [next(iter(pin.specifier)).version for pin in pinned.get(requirement.name, [])]
            fits = [version for version in versions if requirement.specifier.contains(version)]
            assert fits, f"{name}.txt pins {requirement.name} {versions or 'not at all'}; asked for: {requirement}"


@pytest.mark.parametrize("name", ["core", "peers"])
def test_what_is_installed_together_is_pinned_alike(name: str) -> None:
    test, own = versions("test"), versions(name)
    differing = {package for package, pinned in own.items() if package in test and pinned != test[package]}
    assert not differing, "run make pins"


# -- documents -------------------------------------------------------------------------------------------------------


def drawn_tree() -> set[str]:
    """Paths named in docs/architecture.md's tree: rooms end in "/", files stand indented below their room."""
    blocks = [block for block in fenced(ROOT / "docs" / "architecture.md", "", "text") if block[:1] == ["src/embank/"]]
    assert len(blocks) == 1, "docs/architecture.md needs exactly one block that begins with the line src/embank/"
    drawn: set[str] = set()
    rooms: list[tuple[int, str]] = []
    for line in filter(str.strip, blocks[0][1:]):
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        rooms = [(depth, room) for depth, room in rooms if depth < indent]
        path = "".join(room for _, room in rooms) + name
        assert path not in drawn, f"docs/architecture.md draws {path} twice"
        drawn.add(path)
        if name.endswith("/"):
            rooms.append((indent, name))
    return drawn


def test_the_architecture_page_draws_the_tree_as_it_is() -> None:
    files = {relative(path) for path in MODULES if path.name != "__init__.py" or path.parent == PACKAGE}
    rooms = {f"{relative(path.parent)}/" for path in MODULES if path.parent != PACKAGE}
    there = files | rooms | {path.name for path in PACKAGE.iterdir() if path.name == "py.typed"}
    drawn = drawn_tree()
    missing, gone = sorted(there - drawn), sorted(drawn - there)
    assert not missing, "draw these in docs/architecture.md"
    assert not gone, "docs/architecture.md draws what is not there"


def capability_rows() -> list[list[str]]:
    """The cells of each row of docs/capabilities.md: id, capability, public name, test."""
    header = re.compile(r"\|\s*(:?-+|id)\s*:?\s*\|", re.IGNORECASE)
    lines = (ROOT / "docs" / "capabilities.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip().strip("|") for line in lines if line.startswith("|") and not header.match(line)]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in rows]


def names_in(path: Path) -> set[str]:
    """Names that a reference may give after `::`: test functions, classes, and `Class::method`."""
    names: set[str] = set()
    for node in parse(path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {node.name} | {
                f"{node.name}::{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)
            }
    return names


def test_capabilities_name_tests_that_exist() -> None:
    rows = capability_rows()
    assert rows, "docs/capabilities.md has no table"
    wrong = []
    for row in rows:
        assert len(row) == 4, f"four columns are wanted: {row}"
        references = re.findall(r"`(tests/[^`]+)`", row[3])
        if not references and row[3] != "–":
            wrong.append(f"{row[0]}: name a test, or – while there is none")
        for reference in references:
            file, _, name = reference.partition("::")
            if not (ROOT / file).is_file() or (name and name not in names_in(ROOT / file)):
                wrong.append(f"{row[0]}: {reference} does not exist")
    assert not wrong


def readme_commands() -> list[list[str]]:
    """Every `embank …` command line in the README's shell blocks, split into words, up to a pipe or the like."""
    commands = []
    for block in fenced(ROOT / "README.md", "bash", "sh", "console"):
        for line in "\n".join(block).replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            starts = [index for index, word in enumerate(words) if Path(word).name == "embank"]
            starts = [index for index in starts if index == 0 or words[index - 1] in SHELL_BREAKS]
            for start in starts:
                end = next((i for i in range(start, len(words)) if words[i] in SHELL_BREAKS), len(words))
                commands.append(words[start + 1 : end])
    return commands


def test_the_readmes_commands_exist() -> None:
    """Each is run with `--help` at its end: an unknown command or option is refused, and nothing is done."""
    commands = readme_commands()
    assert commands, "README.md shows no embank command in a shell block"
    for words in commands:
        told = CliRunner().invoke(app, [*words, "--help"])
        assert told.exit_code == 0, f"embank {shlex.join(words)}: {told.output}"


def test_the_readmes_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    blocks = fenced(ROOT / "README.md", "bash", "sh", "console")
    named = {word for block in blocks for line in block for word in re.findall(r"(?:^|&& |\$ )make ([a-z-]+)", line)}
    assert {"demo", "test"} <= named, "README.md shows make demo and make test"
    assert named <= targets
