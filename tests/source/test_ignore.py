"""Ignore rules, against git itself."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from embank.source.files import TextFiles
from embank.source.ignore import parse_rule
from embank.source.settings import Settings

git_needed = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def write(folder: Path, name: str, content: str = "text") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def repository(folder: Path) -> None:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    subprocess.run(["git", "init", "-q", str(folder)], check=True, env=environment)


def kept_by_git(folder: Path) -> list[str]:
    """What git would add, as it walks the folder itself."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", "-C", str(folder), "ls-files", "-z", "--others", "--exclude-standard", "."]
    listed = subprocess.run(command, check=True, env=environment, capture_output=True).stdout
    return sorted(os.fsdecode(name) for name in listed.split(b"\0") if name and not name.endswith(b".gitignore"))


def kept_by_us(folder: Path) -> list[str]:
    return sorted(document.id for document in TextFiles(folder, settings=Settings(exclude=(".gitignore",))).documents())


NESTED = {
    ".gitignore": "*.log\n!keep.log\n/build\ndocs/*\n!docs/api/\n**/cache/\nfoo/**/bar\n\\#odd\n\\!odd\ntrail\\ \n# no",
    "a.log": "",
    "keep.log": "",
    "build/x": "",
    "sub/build/x": "",
    "docs/x": "",
    "docs/api/y": "",
    "docs/api/cache/z": "",
    "cache": "a file of that name",
    "foo/bar": "",
    "foo/a/b/bar": "",
    "foo/a/b/barn": "",
    "#odd": "",
    "!odd": "",
    "trail ": "",
    "sub/.gitignore": "!*.log\nkeep.log\n/only\n[a-c].txt\n[!x]y\nq?z\n",
    "sub/a.log": "",
    "sub/keep.log": "",
    "sub/only": "",
    "sub/deep/only": "",
    "sub/b.txt": "",
    "sub/d.txt": "",
    "sub/ay": "",
    "sub/xy": "",
    "sub/qaz": "",
    "sub/qz": "",
    ".git/info/exclude": "secret*\n",
    "secret.txt": "",
}


@git_needed
@pytest.mark.parametrize("inside", ["", "sub", "docs/api"])
def test_nested_rules_and_negations_as_git_has_them(tmp_path: Path, inside: str) -> None:
    repository(tmp_path)
    for name, content in NESTED.items():
        write(tmp_path, name, content or "text")
    kept = kept_by_us(tmp_path / inside)
    assert kept == kept_by_git(tmp_path / inside)
    assert kept


PATTERNS = (
    *(
        "a",
        "b/",
        "/a",
        "a/b",
        "a/b/",
        "*",
        "*/",
        "/*",
        "**",
        "**/",
        "**/a",
        "a/**",
        "a/**/c",
        "?",
        "[ab]",
        "[!a]",
        "[^b]",
    ),
    *(
        "*.c",
        "a*",
        "/a/*",
        "a/*/c",
        "b.c",
        "**/b/",
        "a/**/",
        "[[:alpha:]]",
        "[a-",
        "a\\",
        "\\a",
        "[z-a]",
        "a**",
        "a/",
        "c",
    ),
    *("*b*", "/**/c", "**/a/**", "#a", "", " ", "a ", "b.*", "[]a]", "[a&&b]", "*a/b", "**b", "/"),
)


@git_needed
@pytest.mark.parametrize("seed", range(40))
def test_random_rules_as_git_has_them(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    repository(tmp_path)
    names = [f"{x}/{y}/{z}" for x in "abc" for y in "abc" for z in ("a", "b.c", "c")]
    for name in [*names, "a.c", "b.c", "b/b.c", "a/b/b/c"]:
        write(tmp_path, name)
    for folder in ("", "a/", "b/", "a/b/"):
        lines = [chance.choice(("", "", "!")) + chance.choice(PATTERNS) for _ in range(chance.randrange(5))]
        write(tmp_path, folder + ".gitignore", "\n".join(lines) + chance.choice(("", "\n")))
    assert kept_by_us(tmp_path) == kept_by_git(tmp_path)


def test_rules_hold_without_a_repository_too(tmp_path: Path) -> None:
    write(tmp_path, ".gitignore", "\ufeff*.tmp\r\n")
    write(tmp_path, "a.tmp")
    write(tmp_path, "a.txt")
    source = TextFiles(tmp_path)
    assert [document.id for document in source.documents()] == ["a.txt"]
    assert source.report.skipped == {"hidden": 1, "ignored": 1}
    unruled = TextFiles(tmp_path, settings=Settings(gitignore=False))
    assert [document.id for document in unruled.documents()] == ["a.tmp", "a.txt"]


def test_an_ignored_folder_is_read_when_asked_for_by_name(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    write(tmp_path, ".gitignore", "build/\n")
    write(tmp_path, "build/a.txt")
    assert [document.id for document in TextFiles(tmp_path / "build").documents()] == ["a.txt"]
    assert list(TextFiles(tmp_path).documents()) == []


def test_rules_in_a_pipe_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".gitignore")
    write(tmp_path, "a.txt")
    assert [document.id for document in TextFiles(tmp_path).documents()] == ["a.txt"]


@pytest.mark.parametrize("line", ["", "# comment", "/", "[a-", "a\\", "[z-a]", "   "])
def test_lines_that_say_nothing(line: str) -> None:
    assert parse_rule(line) is None
