"""Texts to measure with. Nothing of them is committed: they come from Debian's packages or from Python itself.

`wordnet`: glosses of WordNet (Debian's `wordnet-base`), four fifths of them alone, the rest 5 to 14 in a row, about 44
tokens on average: short texts with some long ones among them, as collections have. Without the package (another
system, no network) the standard library's docstrings stand in, and the figures say so.
`senses`: its words with their glosses, as they stand there.
`perlfaq`: questions and answers of Perl's FAQ (Debian's `perl-doc`).
`strange`: texts of strongly varying length and of random characters, from a seed.
"""

from __future__ import annotations

import random
import re
import shutil
import string
import subprocess
import sys
from itertools import cycle, islice
from pathlib import Path

ROOM = Path(__file__).parents[1] / ".build" / "corpora"
_SHORT_SHARE = 0.8


def wordnet(count: int, *, seed: int = 7) -> tuple[str, list[str]]:
    """The corpus's name and `count` texts."""
    glosses = [gloss for _, gloss in senses()]
    if not glosses:
        return "standard library", _docstrings(count, seed=seed)
    chosen = random.Random(seed)
    chosen.shuffle(glosses)
    supply = cycle(glosses)
    texts = []
    for _ in range(count):
        length = 1 if chosen.random() < _SHORT_SHARE else chosen.randint(5, 14)
        texts.append(". ".join(islice(supply, length)))
    return "WordNet", texts


def senses() -> list[tuple[str, str]]:
    """All words of WordNet with their glosses, in its order, one a sense; empty where the package can't be had."""
    folder = package("wordnet-base")
    if folder is None:
        return []
    lines = (
        line
        for file in sorted((folder / "usr/share/wordnet").glob("data.*"))
        for line in file.read_text(encoding="latin-1").splitlines()
        if not line.startswith("  ") and "| " in line
    )
    return [(line.split(" ", 5)[4].replace("_", " "), line.rsplit("| ", 1)[1].strip()) for line in lines]


def perlfaq() -> list[tuple[str, str]]:
    """Questions with their answers; empty where the package can't be had."""
    folder = package("perl-doc")
    if folder is None:
        return []
    pairs = []
    for file in sorted(folder.rglob("perlfaq[0-9].pod")):
        parts = re.split(r"^=head2 (.+)$", file.read_text(encoding="utf-8", errors="replace"), flags=re.MULTILINE)
        for question, answer in zip(parts[1::2], parts[2::2], strict=True):
            text = re.sub(r"[A-Z]<+ ?(.*?) ?>+", r"\1", re.sub(r"^=.*$", "", answer, flags=re.MULTILINE)).strip()
            if text:
                pairs.append((question.strip(), text))
    return pairs


def strange(count: int, *, seed: int = 11) -> list[str]:
    """Half of words that no text has, half of printable characters, of 1 to 2,000 characters: most are short."""
    chosen = random.Random(seed)
    texts = []
    for number in range(count):
        length = int(10 ** chosen.uniform(0, 3.3))
        if number % 2:
            texts.append("".join(chosen.choices(string.printable, k=length)))
        else:
            words = (
                "".join(chosen.choices(string.ascii_lowercase, k=chosen.randint(1, 12))) for _ in range(length // 7 + 1)
            )
            texts.append(" ".join(words)[:length])
    return texts


def _docstrings(count: int, *, seed: int) -> list[str]:
    from embank.source.docstrings import StandardLibrary

    every = [document.text for document in StandardLibrary().documents()]
    random.Random(seed).shuffle(every)
    return list(islice(cycle(every), count))


def package(name: str) -> Path | None:
    """The unpacked files of a Debian package, fetched once; None where that can't be done."""
    folder = ROOM / name
    if folder.is_dir():
        return folder
    apt_get, dpkg = shutil.which("apt-get"), shutil.which("dpkg")
    if apt_get is None or dpkg is None:
        return None
    room = ROOM / f"{name}.part"
    shutil.rmtree(room, ignore_errors=True)
    room.mkdir(parents=True)
    fetched = subprocess.run([apt_get, "download", name], cwd=room, capture_output=True, text=True, check=False)
    packages = list(room.glob("*.deb"))
    if fetched.returncode != 0 or not packages:
        print(f"{name} can't be fetched (apt-get update first?): {fetched.stderr.strip()[-200:]}", file=sys.stderr)
        shutil.rmtree(room)
        return None
    subprocess.run([dpkg, "-x", packages[0].name, "files"], cwd=room, check=True)
    (room / "files").rename(folder)
    shutil.rmtree(room)
    return folder
