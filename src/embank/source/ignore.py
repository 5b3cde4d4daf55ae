"""Git's ignore rules, read and matched as git does.

Covers `.gitignore` in the indexed folder, in every folder below and in every parent up to the repository's root, and
the repository's `.git/info/exclude`. Doesn't cover the user's global `core.excludesFile`: what is indexed must not
depend on who indexes.

A pattern is compiled by pathspec, but matched here, one entry at a time on the way down: git decides per entry, the
last matching pattern of the deepest file wins, and what lies in an ignored folder is never looked at. Matching whole
paths at once gets negations across folders wrong.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

RULES_FILE = ".gitignore"
LIMIT_BYTES = 8 << 20
"""A rules file beyond this size is an error, not a list of patterns."""

# pathspec doesn't know the POSIX classes that git's wildmatch does.
_POSIX_CLASSES = {
    "[:alnum:]": "a-zA-Z0-9",
    "[:alpha:]": "a-zA-Z",
    "[:blank:]": " \t",
    "[:digit:]": "0-9",
    "[:lower:]": "a-z",
    "[:space:]": " \t\n\r\f\v",
    "[:upper:]": "A-Z",
    "[:xdigit:]": "0-9a-fA-F",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One line: what it matches (relative to its file's folder), whether it takes back, whether for folders only."""

    regex: re.Pattern[str]
    negated: bool
    folders_only: bool

    def matches(self, path: str, *, is_folder: bool) -> bool:
        """Whether it matches this very entry, not merely a folder above it."""
        if self.folders_only and not is_folder:
            return False
        found = self.regex.search(path)
        # pathspec marks with this group that the pattern matched a parent and the rest lies below.
        return found is not None and found.groupdict().get("ps_d") is None


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The rules of one folder, on top of those of the folders above.

    `prefix` is the folder's path relative to the topmost one, with a slash at the end ("" for the topmost itself);
    paths asked about are relative to the topmost folder, too.
    """

    prefix: str
    rules: tuple[Rule, ...]
    above: IgnoreRules | None = None

    def ignored(self, path: str, *, is_folder: bool) -> bool:
        """Whether git would ignore this entry, given that it ignores none of the folders above it."""
        level: IgnoreRules | None = self
        while level is not None:
            local = path[len(level.prefix) :]
            for rule in reversed(level.rules):
                if rule.matches(local, is_folder=is_folder):
                    return not rule.negated
            level = level.above
        return False

    def below(self, folder: Path | str, prefix: str) -> IgnoreRules:
        """The rules that hold inside `folder`, whose path relative to the topmost folder is `prefix`.

        Raises OSError when its rules file is there but can't be read.
        """
        rules = read_rules(Path(folder, RULES_FILE))
        return IgnoreRules(prefix, rules, self) if rules else self


def rules_above(folder: Path) -> tuple[IgnoreRules, str]:
    """The rules from outside that hold in `folder`, and the path of `folder` relative to the topmost one.

    Where `folder` lies in no repository there are none, and `folder` itself is the topmost. Raises OSError when a
    rules file is there but can't be read.
    """
    top = _repository(folder)
    if top is None:
        return IgnoreRules("", ()), ""
    rules = IgnoreRules("", read_rules(top / ".git" / "info" / "exclude"))
    prefix = ""
    for part in folder.relative_to(top).parts:
        rules = rules.below(top / prefix, prefix)
        prefix += part + "/"
    return rules, prefix


def read_rules(path: Path) -> tuple[Rule, ...]:
    """The rules in a file; none where it is missing or a symbolic link, which git doesn't follow either."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    if not stat.S_ISREG(status.st_mode):
        return ()
    if status.st_size > LIMIT_BYTES:
        raise OSError(f"{path} has {status.st_size:,} bytes, more than ignore rules can have ({LIMIT_BYTES:,})")
    # File names that are not UTF-8 come as surrogate escapes; the patterns must look the same.
    text = path.read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    return tuple(rule for line in text.split("\n") if (rule := parse_rule(line)) is not None)


def parse_rule(line: str) -> Rule | None:
    """One line of a rules file; `None` for blank lines, comments and patterns that git discards as invalid."""
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    line = line.removesuffix("\r")
    while line.endswith(" ") and not line.endswith("\\ "):
        line = line[:-1]
    folders_only = line.endswith("/")
    pattern = line[:-1] if folders_only else line
    if not pattern or pattern.startswith("#"):
        return None
    for name, members in _POSIX_CLASSES.items():
        pattern = pattern.replace(name, members)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # "[[a]": nested sets, should Python ever have them
            regex, include = GitIgnoreSpecPattern.pattern_to_regex(pattern)
            if regex is None:
                return None
            # Names may hold newlines; \Z and DOTALL keep them plain characters.
            compiled = re.compile(regex.replace("$)", r"\Z)") if regex.endswith("$)") else regex, re.DOTALL)
    except (ValueError, re.error):
        return None  # git, too, lets a malformed pattern match nothing
    return Rule(compiled, negated=include is False, folders_only=folders_only)


def _repository(folder: Path) -> Path | None:
    for candidate in (folder, *folder.parents):
        if os.path.lexists(candidate / ".git"):
            return candidate
    return None
