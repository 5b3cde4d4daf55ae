"""Reducing real vectors: MiniLM on the standard library's docstrings, in bounds that leave room for other machines."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest

from embank.bank import Bank, LocalCollection, open_bank
from embank.embed.files.catalog import MINILM
from embank.embed.files.locate import find_files
from embank.records import Document
from embank.source.docstrings import StandardLibrary

DOCUMENTS = 1_200
LONGEST = 400


def documents(count: int) -> Iterator[Document]:
    """The first ones that are short: how long they are changes nothing here but the time that embedding takes."""
    return islice((each for each in StandardLibrary().documents() if len(each.text) <= LONGEST), count)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    root = tmp_path_factory.mktemp("reduce")
    if find_files(MINILM, directory=root) is None:
        pytest.skip(f"the files of minilm are not installed: {MINILM.install}")
    flags = {"embed.model": "minilm", "embed.threads": 2, "embed.directory": str(root / "models")}
    with open_bank(root / "bank", memory="1GB", flags=flags) as opened:
        opened.collection("std").add(documents(DOCUMENTS))
        yield opened


@pytest.fixture(scope="module")
def std(bank: Bank) -> LocalCollection:
    return bank.collection("std")


def test_what_each_way_keeps_of_the_answers(std: LocalCollection) -> None:
    evaluation = std.reducer().evaluate(dimensions=[256, 128])
    recall = {(line.name, line.dimension, line.dtype): line.recall for line in evaluation.lines}
    assert recall["full", 384, "fp16"] == 1.0
    assert recall["full", 384, "int8"] >= 0.98
    assert recall["PCA", 256, "fp16"] >= 0.93
    assert recall["PCA", 128, "fp16"] >= 0.75
    assert recall["PCA", 256, "fp16"] > recall["PCA", 128, "fp16"]
    assert abs(recall["PCA", 128, "int8"] - recall["PCA", 128, "fp16"]) < 0.03


def test_a_reduced_collection_answers_like_the_whole_one(bank: Bank, std: LocalCollection) -> None:
    report = std.reducer().fit(192)
    assert report.explained > 0.85
    assert report.judged is not None
    assert report.judged.recall > 0.85
    applied = std.reducer().apply(into="narrow", dtype="int8")
    assert applied.saved >= 0.7
    narrow = bank.collection("narrow")
    assert narrow.count() == std.count() == DOCUMENTS
    shared = total = 0
    for question in (
        "read a file line by line",
        "parse command line arguments",
        "escape special characters in HTML",
        "make a temporary directory",
        "compute the mean of numbers",
    ):
        exact = {hit.id for hit in std.search(question, mode="dense")}
        shared += len(exact & {hit.id for hit in narrow.search(question, mode="dense")})
        total += len(exact)
    assert shared / total >= 0.75


def test_in_its_own_place_nothing_is_embedded_again(std: LocalCollection) -> None:
    before = std.stats()
    assert before is not None
    std.reducer().fit(128)
    std.reducer().apply()
    after = std.stats()
    assert after is not None
    assert (after.dimension, after.chunks, after.generation) == (128, before.chunks, before.generation + 1)
    report = std.add(documents(200))
    assert (report.unchanged, report.embedded) == (200, 0)
