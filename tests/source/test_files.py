"""Folders of text files: what is read, under which id, and what is skipped."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

import pytest

from embank.config import Size
from embank.errors import SourceError
from embank.records import Document
from embank.source.files import TextFiles, document_id, open_regular
from embank.source.protocol import Source
from embank.source.report import SAMPLES, Reason
from embank.source.settings import Settings


def write(folder: Path, name: str, content: str | bytes = "some text\n") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(source: TextFiles) -> dict[str, Document]:
    documents = list(source.documents())
    assert source.report.documents == len(documents)
    assert len({document.id for document in documents}) == len(documents)
    return {document.id: document for document in documents}


def test_a_folder(tmp_path: Path) -> None:
    write(tmp_path, "b.txt", "second")
    write(tmp_path, "a/one.md", "# One\n\nfirst")
    source = TextFiles(tmp_path)
    assert isinstance(source, Source)
    assert source.root == tmp_path.resolve().as_uri()
    assert list(source.documents()) == [
        Document("a/one.md", "# One\n\nfirst", {"path": "a/one.md", "title": "One"}, "a/one.md"),
        Document("b.txt", "second", {"path": "b.txt"}, "b.txt"),
    ]
    assert source.bytes_total == source.report.bytes_done == 18
    assert source.report.items == 2


def test_each_iteration_counts_anew(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    write(tmp_path, "b.txt", "")
    source = TextFiles(tmp_path)
    for _ in range(2):
        assert list(read(source)) == ["a.txt"]
        assert source.report.skipped == {"empty": 1}
        assert source.report.items == 2


def test_a_single_file_is_read_whatever_the_rules_say(tmp_path: Path) -> None:
    write(tmp_path, ".gitignore", "*")
    path = write(tmp_path, ".notes.log", "mine")
    source = TextFiles(path, settings=Settings(include=("*.md",)))
    assert source.root == path.resolve().as_uri()
    assert list(read(source)) == [".notes.log"]
    assert source.bytes_total == 4


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        TextFiles(tmp_path / "nowhere")


def test_a_folder_that_is_gone_by_then_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "fleeting"
    folder.mkdir()
    source = TextFiles(folder)
    folder.rmdir()
    with pytest.raises(SourceError, match="fleeting is no longer there"):
        list(source.documents())


def test_a_device_is_no_source() -> None:
    with pytest.raises(SourceError, match="neither a file nor a folder"):
        TextFiles("/dev/null")


def test_an_empty_folder(tmp_path: Path) -> None:
    source = TextFiles(tmp_path)
    assert read(source) == {}
    assert (source.report.items, source.report.skipped_total, source.bytes_total) == (0, 0, 0)


def test_globs(tmp_path: Path) -> None:
    for name in ("a.md", "b.txt", "drafts/c.md", "deep/er/d.md"):
        write(tmp_path, name)
    source = TextFiles(tmp_path, settings=Settings(include=("*.md",), exclude=("drafts/", "deep/**/d.md")))
    assert list(read(source)) == ["a.md"]
    assert source.report.skipped == {"ignored": 3}


def test_hidden_files_on_request_but_never_version_control(tmp_path: Path) -> None:
    for name in (".hidden", ".folder/x", ".git/config", ".hg/y", "seen"):
        write(tmp_path, name)
    source = TextFiles(tmp_path)
    assert list(read(source)) == ["seen"]
    assert source.report.skipped == {"hidden": 2, "ignored": 2}
    assert list(read(TextFiles(tmp_path, settings=Settings(hidden=True)))) == [".folder/x", ".hidden", "seen"]


def test_a_bank_inside_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, "my.bank/FORMAT", "1")
    write(tmp_path, "my.bank/bank.db", "x")
    write(tmp_path, "other/FORMAT", "a text of that name")
    source = TextFiles(tmp_path)
    assert list(read(source)) == ["other/FORMAT"]
    assert source.report.skipped == {"bank": 1}
    with pytest.raises(SourceError, match="is a bank"):
        TextFiles(tmp_path / "my.bank")


BAD: dict[str, tuple[bytes, Reason]] = {
    "nul": (b"text\0text", "binary"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "binary"),
    "noise": (bytes(range(1, 256)) * 40, "binary"),
    "nothing": (b"", "empty"),
    "blank": (b" \n\t\r\n" * 9, "empty"),
    "mark only": (b"\xef\xbb\xbf", "empty"),
    "half utf-16": (b"\xff\xfea\0b", "undecodable"),
    "surrogate in utf-16": (b"\xff\xfe\x00\xd8a\0", "undecodable"),
    "bad after the mark": (b"\xef\xbb\xbfabc\xff", "undecodable"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_counted_and_the_rest_is_read(tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    write(tmp_path, "bad", content)
    write(tmp_path, "good")
    heard: list[tuple[str, Reason]] = []
    source = TextFiles(tmp_path, on_skip=lambda origin, reason, _: heard.append((origin, reason)))
    assert list(read(source)) == ["good"]
    assert source.report.skipped == {reason: 1}
    assert source.report.samples[0][:2] == ("bad", reason)
    assert heard == [("bad", reason)]
    assert source.report.bytes_done == source.bytes_total


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marked_encodings(tmp_path: Path, encoding: str) -> None:
    text = "Grüße, 世界 🎉\n" * 10_000  # several blocks, characters across their borders
    write(tmp_path, "a.txt", text.encode(encoding))
    source = TextFiles(tmp_path)
    document = read(source)["a.txt"]
    assert document.text == text
    assert document.metadata.get("encoding") == (None if encoding.startswith("utf-8") else encoding)
    assert source.report.reencoded == 0


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "naïve café\n"),
        ("cp1252", "Die Größe der Bäume überrascht mich, sagte die Frau; »schön«, fügte er hinzu. "),
        ("cp1251", "Съешь же ещё этих мягких французских булок да выпей чаю. "),
        ("shift_jis", "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"),
    ],
)
def test_other_encodings_are_guessed_and_counted(tmp_path: Path, encoding: str, text: str) -> None:
    # Plain text for longer than a sample first: the guess must look where the odd bytes are.
    whole = "A line of plain text.\n" * 2_000 + text * 20
    write(tmp_path, "a.txt", whole.encode(encoding))
    source = TextFiles(tmp_path)
    document = read(source)["a.txt"]
    assert document.text == whole
    assert document.metadata["encoding"]
    assert source.report.reencoded == 1


def test_invalid_utf8_late_in_a_large_file_yields_nothing_of_it(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", b"\xef\xbb\xbf" + b"plain\n" * 3_000_000 + b"\xff\xff")
    source = TextFiles(tmp_path)
    assert read(source) == {}
    assert source.report.skipped == {"undecodable": 1}


def test_a_large_file_comes_in_parts(tmp_path: Path) -> None:
    text = "".join(f"Paragraph {number}. It says little.\n\n" for number in range(2_000))
    write(tmp_path, "big.md", "# Big\n\n" + text)
    source = TextFiles(tmp_path, settings=Settings(max_document_bytes=Size(4096)))
    documents = list(source.documents())
    assert "".join(document.text for document in documents) == "# Big\n\n" + text
    assert [document.id for document in documents] == [f"big.md#part={n}" for n in range(1, len(documents) + 1)]
    assert {document.origin for document in documents} == {"big.md"}
    assert documents[4].metadata == {"path": "big.md", "title": "Big", "part": 5}
    assert all(document.text.endswith("\n\n") and len(document.text) <= 4096 for document in documents)
    assert source.report.items == 1


def test_blank_parts_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "gap.txt", "start" + "\n" * 10_000 + "end")
    source = TextFiles(tmp_path, settings=Settings(max_document_bytes=Size(1024)))
    assert [(document.id, document.text.strip()) for document in source.documents()] == [
        ("gap.txt#part=1", "start"),
        ("gap.txt#part=2", "end"),
    ]


def test_a_name_like_a_part_s_collides_with_nothing(tmp_path: Path) -> None:
    write(tmp_path, "x", "word " * 1_000)
    write(tmp_path, "x#part=2", "a file")
    write(tmp_path, "x#part=2#file", "another")
    found = read(TextFiles(tmp_path, settings=Settings(max_document_bytes=Size(1024))))
    assert found["x#part=2#file"].text == "a file"
    assert found["x#part=2#file#file"].text == "another"
    assert found["x#part=2"].origin == "x"
    assert document_id("x#part=2", part=1) == "x#part=2#file#part=1"


def test_symlinks(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    write(tmp_path, "outside/far.txt", "far")
    write(inside, "a.txt", "near")
    (inside / "link.txt").symlink_to("a.txt")
    (inside / "far").symlink_to("../outside")
    (inside / "far2").symlink_to("../outside")
    (inside / "gone").symlink_to("nowhere")
    (inside / "self").symlink_to("self")
    (inside / "up").symlink_to(".")
    source = TextFiles(inside)
    assert list(read(source)) == ["a.txt", "far/far.txt", "link.txt"]
    assert source.report.skipped == {"broken link": 1, "symlink loop": 2, "duplicate link": 1}
    unfollowed = TextFiles(inside, settings=Settings(follow_symlinks=False))
    assert list(read(unfollowed)) == ["a.txt"]
    assert unfollowed.report.skipped == {"link": 6}


def test_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path, f"{name}/a.txt", name)
    (tmp_path / "one" / "other").symlink_to("../two")
    (tmp_path / "two" / "other").symlink_to("../one")
    source = TextFiles(tmp_path)
    assert "one/other/a.txt" in read(source)
    assert source.report.skipped["symlink loop"] >= 1


def test_pipes_and_sockets_are_never_opened(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    opened: list[str] = []

    def opener(path: str) -> BinaryIO:
        opened.append(Path(path).name)
        return open_regular(path)

    here = Path.cwd()
    os.chdir(tmp_path)  # the path of a socket may not be long
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("sock")
            source = TextFiles(tmp_path, opener=opener)
            assert list(read(source)) == ["a.txt"]
    finally:
        os.chdir(here)
    assert opened == ["a.txt"]
    assert source.report.skipped == {"not a regular file": 2}


def test_a_pipe_in_place_of_a_file_doesn_t_hold_anyone_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no longer a regular file"):
        open_regular(str(tmp_path / "pipe"))


def test_an_unreadable_file_is_reported(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    write(tmp_path, "b.txt")

    def opener(path: str) -> BinaryIO:
        if path.endswith("a.txt"):
            raise PermissionError(13, "Permission denied", path)
        return open_regular(path)

    source = TextFiles(tmp_path, opener=opener)
    assert list(read(source)) == ["b.txt"]
    assert source.report.samples == [("a.txt", "unreadable", "Permission denied")]


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_folder_without_permission_is_reported(shared_folder: Path) -> None:
    write(shared_folder, "closed/a.txt")
    write(shared_folder, "open.txt")
    source = TextFiles(shared_folder)
    (shared_folder / "closed").chmod(0)
    as_root = os.geteuid() == 0
    if as_root:
        os.seteuid(65534)  # root may read everything
    try:
        assert list(read(source)) == ["open.txt"]
    finally:
        if as_root:
            os.seteuid(0)
        (shared_folder / "closed").chmod(0o755)
    assert source.report.samples == [("closed/", "unreadable", "Permission denied")]


def test_a_file_that_vanishes(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    gone = write(tmp_path, "b.txt")
    source = TextFiles(tmp_path)
    ids = []
    for document in source.documents():
        ids.append(document.id)
        gone.unlink()
    assert ids == ["a.txt"]
    assert source.report.skipped == {"vanished": 1}


def test_a_file_that_is_written_to_while_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "word " * 1_000)

    class Growing:
        """Grows as soon as it has been read once."""

        def __init__(self, stream: BinaryIO) -> None:
            self._stream = stream

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self._stream.close()

        def __getattr__(self, name: str) -> object:
            return getattr(self._stream, name)

        def read(self, size: int) -> bytes:
            block = self._stream.read(size)
            if not block:
                with path.open("ab") as more:
                    more.write(b"x")
            return block

    source = TextFiles(tmp_path, opener=lambda name: Growing(open_regular(name)))  # type: ignore[arg-type,return-value]
    assert read(source) == {}
    assert source.report.skipped == {"changed": 1}


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    try:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.txt"))).write_text("text")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    source = TextFiles(tmp_path)
    assert list(read(source)) == ["a.txt"]
    assert source.report.samples == [("b\\xff.txt", "name not UTF-8", "")]


def test_samples_are_bounded_and_all_is_counted(tmp_path: Path) -> None:
    for number in range(SAMPLES + 5):
        write(tmp_path, f"{number}.txt", b"")
    write(tmp_path, "zz.txt", b"\0")
    source = TextFiles(tmp_path)
    assert read(source) == {}
    assert source.report.skipped == {"empty": SAMPLES + 5, "binary": 1}
    assert len(source.report.samples) == SAMPLES + 1
    before = source.report.snapshot()
    source.report.skip("x", "empty")
    assert before.skipped["empty"] == SAMPLES + 5


def test_a_deep_tree(tmp_path: Path) -> None:
    folders = [tmp_path / "/".join(["d"] * depth) for depth in range(1, 1_200)]
    for folder in folders:
        folder.mkdir()
    leaf = write(folders[-1], "a.txt", "deep")
    assert len(read(TextFiles(tmp_path))) == 1
    leaf.unlink()
    for folder in reversed(folders):  # pytest's own cleaning up would recurse
        folder.rmdir()
