"""The tokenizer of HTML: tags and texts, wherever the blocks end, whatever is written."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embank.source.markup import MAX_ATTRIBUTES_CHARS, Tag, attributes, tokens


def shown(page: str, *, is_xml: bool = False) -> list[str]:
    """Tags by name, texts as they are, neighbouring texts in one."""
    found: list[str] = []
    for token in tokens([page], is_xml=is_xml):
        if isinstance(token, Tag):
            found.append(f"</{token.name}>" if token.is_end else f"<{token.name}>")
        elif found and not found[-1].startswith("<"):
            found[-1] += token
        else:
            found.append(token)
    return found


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<p>a</P>", ["<p>", "a", "</p>"]),
        ("a<br/>b<BR >c", ["a", "<br>", "b", "<br>", "c"]),
        ("<a title='x>y' href=\"u>v\">t</a>", ["<a>", "t", "</a>"]),
        ("<a title=it's>t</a>", ["<a>", "t", "</a>"]),
        ("<a b=c'>t", ["<a>", "t"]),
        ("<a b = 'c>d' e>t", ["<a>", "t"]),
        ("<a b=>t", ["<a>", "t"]),
        ("<!-- a > b -- c -->t", ["t"]),
        ("<!-->t", ["t"]),
        ("<!--->t", ["t"]),
        ("<!--a--!>t", ["t"]),
        ("<!DOCTYPE html><?php 1 ?>t</ x>u</>v", ["tuv"]),
        ("<script>if (a<b) '</p>'</script>t", ["<script>", "</script>", "t"]),
        ("<style>p > a {}</style ><p>", ["<style>", "</style>", "<p>"]),
        ("<title>a <b>&amp;</title>", ["<title>", "a <b>&", "</title>"]),
        ("<textarea><p></textarea><p>", ["<textarea>", "</textarea>", "<p>"]),
        ("&eacute;&#233;&#xe9;&unknown;&amp", ["ééé&unknown;&"]),
        ("&#xD800;&#0;&#1114112;", ["\ufffd\ufffd\ufffd"]),
        ("<script>never closed <p>t", ["<script>"]),
        ("<!-- never closed <p>t", []),
        ("t<p class='never closed", ["t"]),
        ("<my-element>t", ["<my-element>", "t"]),
    ],
)
def test_tokens(page: str, expected: list[str]) -> None:
    assert shown(page) == expected


@pytest.mark.parametrize("page", ["a < b", "a<", "</", "1<2>3", "<<<"])
def test_what_opens_no_tag_is_text(page: str) -> None:
    assert "".join(map(str, tokens([page]))) == page


def test_in_xml_an_element_may_close_itself() -> None:
    page = "<script src='a'/><p>t</p>"
    assert shown(page, is_xml=True) == ["<script>", "<p>", "t", "</p>"]
    assert shown(page) == ["<script>"]


def test_attributes() -> None:
    [tag] = tokens(["<a ROLE=main title=\"a 'b' hidden\" x='&lt;' hidden role=second>"])
    assert isinstance(tag, Tag)
    assert attributes(tag) == {"role": "main", "title": "a 'b' hidden", "x": "<", "hidden": ""}


def test_of_endless_attributes_the_beginning_is_kept() -> None:
    [tag, text] = tokens(["<img id=1 src='data:", *["A" * 1000] * 1000, "'>t"])
    assert isinstance(tag, Tag)
    assert attributes(tag)["id"] == "1"
    assert len(tag.attributes) == MAX_ATTRIBUTES_CHARS
    assert text == "t"


def test_a_reference_of_thousands_of_digits() -> None:
    assert "".join(map(str, tokens(["&#" + "9" * 10_000 + ";&#x" + "f" * 10_000 + ";"]))) == "\ufffd\ufffd"


PIECES = [
    "<p>",
    "</p>",
    "<a b=c>",
    "<a b= c'd>",
    "<a ",
    "x=y ",
    "<a b='c>d'>",
    "<!--",
    "-->",
    "<script>",
    "</script>",
    "<title>",
    "</title>",
    "text ",
    "&amp;",
]
PIECES += ["&", "<", ">", "'", '"', "=", "/", "!", "-", "<a b", "é", "\n"]
PAGE = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


@given(PAGE, st.integers(1, 7))
def test_where_blocks_end_makes_no_difference(page: str, size: int) -> None:
    blocks = [page[start : start + size] for start in range(0, len(page), size)]
    assert joined(tokens(blocks)) == joined(tokens([page]))


def joined(found: object) -> list[object]:
    """Tokens with neighbouring texts in one."""
    made: list[object] = []
    for token in found:  # type: ignore[attr-defined]  # an iterator of tokens
        if isinstance(token, str) and made and type(made[-1]) is str:
            made[-1] += token
        else:
            made.append(token)
    return made


ENDLESS = [
    "<div>",
    "<!--",
    "<![CDATA[",
    '<a b="',
    "<a b='",
    "<a b=",
    "<a ",
    "</a ",
    "<!",
    "<?",
    "<",
    "&",
    "&#",
    "</title",
]
ENDLESS += ["<title>", "<script>", "=", "a=", "<a =", "\n", "</", "<!-", "--"]


@pytest.mark.parametrize("unit", ENDLESS)
def test_time_and_memory_are_linear_in_the_page(unit: str) -> None:
    """What a scanner looks at is counted: the lengths of what each state was given to begin with."""
    looked_at = {count: characters_looked_at(unit * count) for count in (20_000, 80_000)}
    assert looked_at[80_000] < 6 * looked_at[20_000]


def characters_looked_at(page: str) -> int:
    from embank.source.markup import _Scanner

    scanner = _Scanner(is_xml=False)
    looked_at = 0
    for start in range(0, len(page), 4096):
        scanner.feed(page[start : start + 4096])
        looked_at += 4096 + len(scanner._rest)
        assert len(scanner._rest) <= 64
        assert sum(map(len, scanner._kept)) <= MAX_ATTRIBUTES_CHARS
        assert len(scanner._name) <= 64
    return looked_at


def test_noise_never_raises() -> None:
    chance = random.Random(1)
    pieces = [
        "<",
        ">",
        "/",
        "=",
        "'",
        '"',
        "!",
        "-",
        "&",
        "#",
        ";",
        " ",
        "a",
        "script",
        "title",
        "x1",
        "\x00",
        "\ufffd",
    ]
    for _ in range(300):
        page = "".join(chance.choice(pieces) for _ in range(chance.randrange(400)))
        for token in tokens([page]):
            if isinstance(token, Tag):
                attributes(token)
