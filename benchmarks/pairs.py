"""Real questions with the one document that answers each, to measure searches with.

Nothing of them is committed: they are cut from Debian's packages and from Python itself, fetched when first needed.
A question that stands over two documents, and a text that stands twice, are left out: one answer is right.

Every corpus is split by a hash of the question: `developing` for looking at while something is built, `scored` for
the figures. Those of `UNSEEN` were not looked at at all while the fusion of decision 7 was built: no score, no weight.
Whoever changes it after their figures were read must hold out others.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import corpora

MOST = 2_000
"""Pairs taken of a corpus; of WordNet, whose texts are short, three times as many."""

_SEED = "embank pairs 1"
_LEAST_CHARACTERS = 20
_MOST_CHARACTERS = 2_000
_Pair = tuple[str, str]


@dataclass(frozen=True)
class Pairs:
    """`questions[n]` is answered by `documents[n]`."""

    name: str
    questions: list[str]
    documents: list[str]

    @property
    def developing(self) -> list[int]:
        """Numbers of the pairs to develop with."""
        return [number for number, question in enumerate(self.questions) if not _is_scored(self.name, question)]

    @property
    def scored(self) -> list[int]:
        """Numbers of the pairs that figures are made of."""
        return [number for number, question in enumerate(self.questions) if _is_scored(self.name, question)]


def pairs(name: str) -> Pairs | None:
    """The corpus of that name (see `CORPORA`), None where what it is made of can't be had."""
    found = list(CORPORA[name]())
    if not found:
        return None
    asked = Counter(question for question, _ in found)
    told = Counter(document for _, document in found)
    kept = [pair for pair in found if asked[pair[0]] == 1 and told[pair[1]] == 1 and _is_usable(*pair)]
    random.Random(_SEED).shuffle(kept)
    kept = kept[: 3 * MOST if name == "wordnet" else MOST]
    return Pairs(name, [question for question, _ in kept], [document[:_MOST_CHARACTERS] for _, document in kept])


def _is_usable(question: str, document: str) -> bool:
    return bool(re.search(r"\w", question)) and "|" not in question and len(document) >= _LEAST_CHARACTERS


def _is_scored(name: str, question: str) -> bool:
    return hashlib.blake2b(f"{_SEED}\0{name}\0{question}".encode(), digest_size=8).digest()[0] % 2 == 1


# ---- one function a corpus: all its pairs, in an order that is always the same ----


def _perlfaq() -> Iterable[_Pair]:
    return corpora.perlfaq()


def _perldiag() -> Iterator[_Pair]:
    """Perl's messages and what they mean."""
    for file in _files("perl-modules-5.36", "perldiag.pod"):
        heads: list[str] = []
        for part in re.split(r"^=item ", file.read_text(encoding="utf-8", errors="replace"), flags=re.MULTILINE)[1:]:
            head, _, body = part.partition("\n")
            heads.append(_plain_pod(head))
            text = _plain_pod(re.sub(r"^=.*$", "", body, flags=re.MULTILINE))
            if text:  # several messages may stand over one explanation
                yield heads[0], text
                heads = []


def _debian() -> Iterator[_Pair]:
    """Summaries of packages and their descriptions."""
    for file in sorted(_apt_lists().glob("*_main_i18n_Translation-en")):
        for entry in file.read_text(encoding="utf-8").split("\n\n"):
            head, _, body = entry.partition("Description-en: ")[2].partition("\n")
            lines = (line.strip() for line in body.split("\n"))
            yield head.strip(), "\n".join("" if line == "." else line for line in lines).strip()


def _wordnet() -> Iterator[_Pair]:
    """Example sentences and the sense that they are examples of."""
    for _, gloss in corpora.senses():
        meaning, _, examples = gloss.partition('; "')
        if examples:
            yield examples.split('"')[0].strip(), meaning.strip()


def _foldoc() -> Iterator[_Pair]:
    """Terms of computing and their definitions, without the term."""
    for term, text in _dictionary("dict-foldoc", r"(?m)^(?=\S)"):
        body = re.sub(r"[{}]", "", re.sub(r"\(\d{4}-\d\d-\d\d\)", "", text))
        yield term, _masked(re.sub(r"^\s*<[^>]*>", "", body), term)


def _jargon() -> Iterator[_Pair]:
    """Terms of hackers and their definitions, without the term."""
    for term, text in _dictionary("dict-jargon", r"(?m)^(?=\S)"):
        body = re.sub(r"[{}]", "", "\n".join(text.split("\n")[1:]))
        yield term, _masked(body, term)


def _devil() -> Iterator[_Pair]:
    """Words as Ambrose Bierce defined them, without the word."""
    for term, text in _dictionary("dict-devil", r"(?m)^(?=[A-Z][A-Z' -]+, (?:n|adj|v|adv|pp|x)\b)"):
        word, _, more = term.partition(", ")
        yield word.capitalize(), _masked(f"{more.partition('.')[2]}\n{text}", word)


def _library() -> Iterator[_Pair]:
    """The first lines of docstrings, and what follows them."""
    from embank.source.docstrings import StandardLibrary

    for document in StandardLibrary().documents():
        _, _, docstring = document.text.partition("\n\n")
        summary, _, rest = docstring.partition("\n\n")
        yield " ".join(summary.split()), rest.strip()


def _manual() -> Iterator[_Pair]:
    """What man pages say of themselves in a line, and their descriptions."""
    for file in (*_files("manpages", "*.gz"), *_files("manpages-dev", "*.gz")):
        text = gzip.decompress(file.read_bytes()).decode("utf-8", "replace")
        sections = dict(re.findall(r'^\.SH "?([A-Z ]+)"?\n(.*?)(?=^\.SH|\Z)', text, re.MULTILINE | re.DOTALL))
        _, _, summary = _plain_troff(sections.get("NAME", "")).partition(" - ")
        yield " ".join(summary.split()), _plain_troff(sections.get("DESCRIPTION", ""))


def _python() -> Iterator[_Pair]:
    """Headings of Python's documentation, and the sections below them."""
    for file in _files("python3.11-doc", "*.rst.txt"):
        text = file.read_text(encoding="utf-8")
        parts = re.split(r"^(\S.*)\n(?:=|-|~|\^|\"|\*|\+){3,}$", text, flags=re.MULTILINE)
        for heading, body in zip(parts[1::2], parts[2::2], strict=True):
            told = re.sub(r"^\.\. (?:_.*:|index::.*|module::.*|\w+author::.*)$", "", body, flags=re.MULTILINE)
            yield _plain_rst(heading), _plain_rst(re.sub(r"^[=\-~^\"*+]{3,}$", "", told, flags=re.MULTILINE))


def _lintian() -> Iterator[_Pair]:
    """Names of what a checker of packages complains about, and its explanations."""
    for file in _files("lintian", "*.tag"):
        text = file.read_text(encoding="utf-8")
        fields = dict(re.findall(r"^([\w-]+): ?(.*?)(?=^[\w-]+:|\Z)", text, re.MULTILINE | re.DOTALL))
        told = re.sub(r"^ \.?", "", fields.get("Explanation", ""), flags=re.MULTILINE)
        yield fields.get("Tag", "").strip(), _plain_html(told)


def _postgresql() -> Iterator[_Pair]:
    """Headings of PostgreSQL's manual, and the sections below them."""
    for file in _files("postgresql-doc-15", "*.html"):
        text = file.read_text(encoding="utf-8").partition('<div class="navfooter">')[0]
        parts = re.split(r'<h[234] class="title"[^>]*>(.*?)</h[234]>', text, flags=re.DOTALL)
        for heading, body in zip(parts[1::2], parts[2::2], strict=True):
            name = re.sub(r"^(?:(?:Chapter|Appendix)\s)?[\dA-Z]*[\d.]+\s+", "", _plain_html(heading))
            yield name, _plain_html(re.sub(r"<div class=\"toc\">.*?</dl></div>", "", body, flags=re.DOTALL))


CORPORA: dict[str, Callable[[], Iterable[_Pair]]] = {
    "perlfaq": _perlfaq,
    "debian": _debian,
    "wordnet": _wordnet,
    "foldoc": _foldoc,
    "library": _library,
    "manual": _manual,
    "python": _python,
    "perldiag": _perldiag,
    "lintian": _lintian,
    "postgresql": _postgresql,
    "jargon": _jargon,
    "devil": _devil,
}
UNSEEN = ("perldiag", "lintian", "postgresql", "jargon", "devil")


def _files(package: str, pattern: str) -> list[Path]:
    folder = corpora.package(package)
    return [] if folder is None else sorted(folder.rglob(pattern))


def _dictionary(package: str, start: str) -> Iterator[tuple[str, str]]:
    """Entries of a dictionary of dictd's form: the first line, and what follows."""
    for file in _files(package, "*.dict.dz"):
        for entry in re.split(start, gzip.decompress(file.read_bytes()).decode("utf-8", "replace")):
            term, _, text = entry.partition("\n")
            if not term.startswith("00-"):
                yield term.strip(), text


def _masked(text: str, term: str) -> str:
    """A definition without the words that it defines, line breaks within paragraphs undone."""
    text = re.sub(re.escape(term), "…", text, flags=re.IGNORECASE)
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text)).strip()


def _plain_pod(text: str) -> str:
    return re.sub(r"[A-Z]<+ ?(.*?) ?>+", r"\1", text).strip()


def _plain_troff(text: str) -> str:
    text = re.sub(
        r'^\.\\".*$|^\.(?:PP|TP|nf|fi|in|RS|RE|ta|sp|EX|EE|IP|SS|ad|hy|UR|UE)\b.*$', "", text, flags=re.MULTILINE
    )
    text = re.sub(r"^\.\S+ ?", "", text, flags=re.MULTILINE)
    text = re.sub(r"\\f.|\\&|\\c$", "", text, flags=re.MULTILINE)
    return re.sub(r"\n\n+", "\n\n", text.replace("\\-", "-").replace("\\(aq", "'").replace('"', "")).strip()


def _plain_rst(text: str) -> str:
    text = re.sub(r":[\w:]+:`[~!]?([^`<]*?)(?: ?<[^`]*>)?`", r"\1", text)
    return re.sub(r"\n\n+", "\n\n", text.replace("``", "").replace("*", "")).strip()


def _plain_html(text: str) -> str:
    text = html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"</(?:p|li|dd|pre|tr|div)>", "\n\n", text)))
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip())


def _apt_lists() -> Path:
    """Debian's lists with the English descriptions, fetched once; an empty folder where that can't be done."""
    room = corpora.ROOM / "apt-lists"
    apt_get = shutil.which("apt-get")
    if not (room / "done").exists() and apt_get is not None:
        shutil.rmtree(room, ignore_errors=True)
        (room / "partial").mkdir(parents=True)
        options = {"Dir::State::Lists": room, "Acquire::Languages": "en", "Acquire::GzipIndexes": "false"}
        given = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        fetched = subprocess.run([apt_get, "-q", "update", *given], capture_output=True, text=True, check=False)
        if any(room.glob("*Translation-en")):
            (room / "done").touch()
        else:
            print(f"descriptions can't be fetched: {fetched.stderr.strip()[-200:]}", file=sys.stderr)
    return room
