"""Titles of Markdown texts."""

from __future__ import annotations

import pytest

from embank.source.title import markdown_title


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Title", "Title"),
        ("some words\n\n## Second *level* ##\n", "Second *level*"),
        ("Underlined\n==========\n", "Underlined"),
        ("Also\n---\n", "Also"),
        ("---\ntitle: no\n# comment\n---\n# Yes", "Yes"),
        ("```sh\n# a comment\n```\n# Real", "Real"),
        ("~~~~\n~~~\n# not yet\n~~~~\n# Now", "Now"),
        ("\ufeff# Marked", "Marked"),
        ("#no space\n#\n# \n", None),
        ("#hashtag", None),
        ("- item\n---\n", None),
        ("just text\n\n---\n", None),
        ("", None),
        ("# C#", "C#"),
        ("# " + "x" * 500, "x" * 200),
    ],
)
def test_titles(text: str, title: str | None) -> None:
    assert markdown_title(text) == title
