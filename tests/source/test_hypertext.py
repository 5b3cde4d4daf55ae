"""HTML pages as a source: title, main text, encodings, and what is left out."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from embank.config import Size
from embank.records import Document
from embank.source.charset import declared_encoding
from embank.source.files import TextFiles
from embank.source.hypertext import outline, text_of
from embank.source.settings import Settings


def text(page: str) -> str:
    return "".join(text_of([page], outline([page]).scope))


def read(path: Path, settings: Settings | None = None) -> list[Document]:
    return list(TextFiles(path, settings=settings).documents())


PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Silt &amp;
 Sand</title><style>p { color: red }</style><script>var x = "<p>not text</p>";</script></head>
<body><header><nav><ul><li>Home<li>About</ul></nav></header>
<h1>Rivers</h1><p>Rivers carry <b>silt</b> and
   sand&nbsp;far.</p>
<h2>Deltas<a class="headerlink" href="#deltas">¶</a></h2><p>They settle<br>there.</p>
<ul><li>clay</li><li>gravel</li></ul>
<table><tr><th>river</th><th>length</th></tr><tr><td>Rhine</td><td>1,233 km</td></tr></table>
<pre>  code
    indented</pre>
<button>Buy</button><p hidden>never shown</p><div aria-hidden="true">icon</div><noscript>Enable it</noscript>
<aside>Advert</aside><footer>Imprint</footer></body></html>
"""


def test_a_page(tmp_path: Path) -> None:
    (tmp_path / "rivers.html").write_text(PAGE)
    [document] = read(tmp_path)
    assert (document.id, document.origin) == ("rivers.html", "rivers.html")
    assert document.metadata == {"path": "rivers.html", "title": "Silt & Sand"}
    assert document.text == (
        "Rivers\n\nRivers carry silt and sand far.\n\nDeltas\n\nThey settle\nthere.\n\n- clay\n- gravel\n\n"
        "river\tlength\nRhine\t1,233 km\n\n  code\n    indented\n\nnever shown"
    )


def test_the_main_part_is_the_text_where_there_is_one() -> None:
    assert text("<p>menu</p><main><h1>A</h1><aside>note</aside></main><p>end</p>") == "A\n\nnote"
    assert text("<p>menu</p><div role='main'><div>A</div>B</div><p>end</p>") == "A\n\nB"
    assert text("<p>all</p><main> </main>") == "all"
    assert text("<main><nav>menu</nav>A</main>") == "A"


def test_what_never_ends_does_not_swallow_the_page() -> None:
    assert text("<nav>menu<main>A</main>") == "A"
    assert text("<nav>menu <p>all there is</p>") == "menu\n\nall there is"
    assert text("<p>before</p><footer>end <p>more</p>") == "before"


def test_elements_of_the_same_name_within_what_is_dropped() -> None:
    assert text("<div hidden>a<div>b</div>c</div>d") == "d"
    assert text("<span aria-hidden=true>a<br><img src=x>b</span>c") == "c"
    assert text("<input hidden>a<div hidden='until-found'>b</div>") == "a\n\nb"


def test_a_text_in_many_blocks_is_the_same() -> None:
    blocks = [PAGE[start : start + 3] for start in range(0, len(PAGE), 3)]
    assert outline(blocks) == outline([PAGE])
    assert "".join(text_of(blocks, "page")).split() == text(PAGE).split()


def test_a_page_without_text_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<title>Only a title</title><script>1</script>")
    (tmp_path / "b.htm").write_text("")
    source = TextFiles(tmp_path)
    assert list(source.documents()) == []
    assert source.report.skipped == {"empty": 2}


def test_other_names_are_read_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("<p>kept</p>")
    assert read(tmp_path)[0].text == "<p>kept</p>"


def test_xhtml(tmp_path: Path) -> None:
    (tmp_path / "a.xhtml").write_text("<?xml version='1.0'?><html><title/><script src='x'/><nav/><p>text</p></html>")
    assert [document.text for document in read(tmp_path)] == ["text"]


@pytest.mark.parametrize(
    ("head", "encoding", "codec"),
    [
        ('<meta charset="windows-1251">', "cp1251", "cp1251"),
        ("<META http-equiv=Content-Type content='text/html; charset=iso-8859-1'>", "cp1252", "cp1252"),
        ("<meta charset=gb2312>", "gb18030", "gb18030"),
        ("<meta charset=Shift_JIS>", "cp932", "cp932"),
        ("<meta charset=iso-2022-jp>", "iso2022_jp", "iso2022_jp"),
        ('<?xml version="1.0" encoding="koi8-r"?>', "koi8_r", "koi8_r"),
        ("<meta charset=utf-8>", "utf-8", None),
        ("<meta charset=iso-8859-1>", "utf-8", None),  # UTF-8 all the same: no other text is so by chance
        ("<meta charset=utf-7>", "utf-8", None),
        ("<meta charset=unicode_escape>", "utf-8", None),
        ("<meta charset=koi8-r>", "utf-16", "utf-16"),  # its mark tells the truth
    ],
)
def test_encodings(tmp_path: Path, head: str, encoding: str, codec: str | None) -> None:
    body = {"cp1251": "Привет", "koi8_r": "Привет", "gb18030": "你好", "cp932": "日本", "iso2022_jp": "日本"}.get(
        encoding, "Grüße – “so”"
    )
    (tmp_path / "a.html").write_bytes(f"{head}<p>{body}</p>".encode(encoding))
    source = TextFiles(tmp_path)
    [document] = source.documents()
    assert document.text == body
    assert document.metadata.get("encoding") == codec
    assert source.report.reencoded == 0


def test_a_false_label_is_not_believed(tmp_path: Path) -> None:
    page = "<meta charset=gbk><p>" + "La señora del café olvidó la mañana más fría. " * 20
    (tmp_path / "a.html").write_bytes(page.encode("cp1252") + b"\xff")
    source = TextFiles(tmp_path)
    [document] = source.documents()
    assert document.text.startswith("La señora del café")
    assert source.report.reencoded == 1


def test_labels_that_are_no_encodings_of_text() -> None:
    for label in ("rot13", "zlib", "idna", "hex", "utf-16", "x-user-defined", "\xff"):
        assert declared_encoding(b"<meta charset=" + label.encode("latin1") + b">") is None


def test_a_large_page_comes_in_parts_and_in_little_memory(tmp_path: Path) -> None:
    with (tmp_path / "big.html").open("w") as stream:
        stream.write("<title>Big</title>" + "<div>" * 20_000)
        for number in range(2_000):
            stream.write(f"<p>Paragraph {number} tells of the river and what it carries.</p>\n")
    source = TextFiles(tmp_path, settings=Settings(max_document_bytes=Size("16KiB")))
    tracemalloc.start()
    count, parts = 0, 0
    for document in source.documents():
        count += document.text.count("Paragraph")
        parts += 1
        assert document.metadata == {"path": "big.html", "title": "Big", "part": parts}
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 2_000
    assert parts > 4
    assert peak_bytes < 4 << 20
