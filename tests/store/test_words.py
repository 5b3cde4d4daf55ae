"""How texts are cut into words, and what a question asks for: pure functions, whatever they are given."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embank.errors import InvalidInput
from embank.store.asking import MAX_BEGINNINGS, MAX_CHARACTERS, MAX_PHRASE_WORDS, MAX_PHRASES, asked
from embank.store.words import LANGUAGES, Words

ENGLISH = Words("english")
NONE = Words("none")
TRIGRAMS = Words("trigrams")
SIGNS = st.sampled_from('"“”*()[]{}^~:+-\\/ aé東ภ\u0301\0')
ANY_TEXT = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), SIGNS), max_size=60)


def forms(words: Words, text: str) -> list[str]:
    return [word.form for word in words.of(text)]


def test_words_know_their_places_and_which_say_nothing() -> None:
    text = "The Running dogs of a Café"
    assert [(text[word.start : word.end], word.form, word.stop) for word in ENGLISH.of(text)] == [
        ("The", "the", True),
        ("Running", "run", False),
        ("dogs", "dog", False),
        ("of", "of", True),
        ("a", "a", True),
        ("Café", "cafe", False),
    ]


def test_accents_that_stand_apart_belong_to_their_letters() -> None:
    text = "re\u0301sume\u0301s, cafe\u0301!"
    found = ENGLISH.of(text)
    assert [text[word.start : word.end] for word in found] == ["re\u0301sume\u0301s", "cafe\u0301"]
    assert [word.form for word in found] == forms(ENGLISH, "résumés, café!")


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        ("german", "Häuser", "häusern"),
        ("french", "continuellement", "continuelle"),
        ("russian", "книги", "книгу"),
        ("spanish", "corriendo", "correr"),
        ("finnish", "talossa", "talot"),
    ],
)
def test_each_language_has_its_stems(language: str, one: str, other: str) -> None:
    words = Words(language)  # type: ignore[arg-type]
    assert forms(words, one) == forms(words, other)
    assert forms(NONE, one) != forms(NONE, other)


def test_every_language_can_be_had_and_no_other() -> None:
    for language in LANGUAGES:
        assert forms(Words(language), "x1")
    with pytest.raises(InvalidInput, match="'klingon' is no language of the lexical index: choose one of none, "):
        Words("klingon")  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["東京都に住む", "한국어를", "ภาษาไทย", "ｶﾀｶﾅ"])
@pytest.mark.parametrize("words", [ENGLISH, NONE], ids=["english", "none"])
def test_what_has_no_spaces_is_cut_into_pairs(text: str, words: Words) -> None:
    found = words.of(f"x {text} y")[1:-1]
    assert len(found) == len(text) - 1
    assert all(word.end - word.start == 2 and not word.part for word in found)
    assert [word.form for word in found] == forms(words, text)


def test_one_character_of_such_a_script_is_a_part() -> None:
    (word,) = ENGLISH.of("都")
    assert (word.form, word.part) == ("都", True)


def test_trigrams_are_of_all_text() -> None:
    assert forms(TRIGRAMS, "fooBar") == ["foo", "oob", "oba", "bar"]
    assert [(word.form, word.part) for word in TRIGRAMS.of("GA")] == [("ga", True)]


@settings(max_examples=150, deadline=None)
@given(ANY_TEXT, st.sampled_from([ENGLISH, NONE, TRIGRAMS]))
def test_what_is_asked_for_is_what_is_in_the_index(text: str, words: Words) -> None:
    indexed = set(words.analyzer.analyze(words.spread(text)))
    for word in words.of(text):
        assert 0 <= word.start < word.end <= len(text)
        assert word.form in indexed


@settings(max_examples=150, deadline=None)
@given(ANY_TEXT)
def test_any_text_is_a_question(text: str) -> None:
    it = asked(text, ENGLISH)
    assert bool(it.words) == bool(ENGLISH.of(text))
    assert len(set(it.words)) == len(it.words)
    assert all(len(phrase) > 1 for phrase in it.phrases)


def test_phrases_and_beginnings() -> None:
    it = asked('where do "the rivers carry" silt, “old mills” or embedd* water*', ENGLISH)
    assert it.words[:2] == ("where", "do")
    assert it.phrases == (("the", "river", "carri"), ("old", "mill"))
    assert it.beginnings == ("embedd", "water")
    assert asked('an "unbalanced quote', ENGLISH).phrases == ()
    assert asked("2*3 * ** a* *b char*p", ENGLISH).beginnings == ()
    assert asked("Caf\u00e9*", ENGLISH).beginnings == ("cafe",)


def test_stop_words_alone_are_asked_for() -> None:
    it = asked("to be or not to be", ENGLISH)
    assert it.words == ("to", "be", "or", "not")
    assert it.phrases == (("to", "be", "or", "not", "to", "be"),)
    assert "the" not in asked("the river", ENGLISH).words


@pytest.mark.parametrize(
    "bomb",
    [
        '"' * 100_000,
        "“" * 100_000,
        "w" * 100_000 + "*",
        "a*" * 50_000,
        '"a b" ' * 20_000,
        "(((((" * 20_000,
        "都" * 100_000,
        "e\u0301" * 50_000,
        "word* " * 20_000,
        "\u0301" * 100_000,
    ],
    ids=range(10),
)
def test_what_is_looked_at_of_a_question_is_bounded(bomb: str) -> None:
    it = asked(bomb, ENGLISH)
    assert it == asked(bomb[:MAX_CHARACTERS], ENGLISH)
    assert len(it.phrases) <= MAX_PHRASES
    assert len(it.beginnings) <= MAX_BEGINNINGS
    assert all(len(phrase) <= MAX_PHRASE_WORDS for phrase in it.phrases)
