"""What every engine does with input that is no good: it is answered rightly or named, never with a wrong vector.

Texts that are none, texts that are too long, too many of them; files that are missing, cut short or altered; devices
that are not there; engines that answer with what is no vector. How a single engine reads its own files stands in its
own tests.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from tests.embed.conftest import files_of
from tests.embed.tiny_bert import make_folder, make_tensors, write_json

from embank.embed.adopted import adopt
from embank.embed.engine import Encoded, Engine, LoadRequest
from embank.embed.loader import Loader
from embank.embed.model import CountsTokens, Kind, Model
from embank.embed.settings import Settings
from embank.embed.tokens import Tokens
from embank.errors import DeviceNotFound, EmbeddingFailed, InvalidInput, MissingExtra, ModelError, ModelFileError
from embank.events.kinds import Event, TextsEmbedded
from embank.registry import ENGINES, resolve
from embank.testing.fakes import HashModel

if TYPE_CHECKING:
    from embank.embed.engine import TokenIds
    from embank.embed.model import Vectors


class Case(NamedTuple):
    """An engine with a model of its own, and the least cosine of a text's vectors to each other."""

    engine: str
    model: str
    precision: str
    least: float


CASES = {
    "ct2-int8": Case("ct2", "minilm", "int8", 0.998),
    "ct2-float32": Case("ct2", "minilm", "float32", 0.9999),
    "static": Case("static", "wordllama", "float32", 0.9999),
    "onnx": Case("onnx", "minilm", "float32", 0.9999),
    "openvino": Case("openvino", "minilm", "float32", 0.9999),
    # torch reads folders through its own library: tests/embed/engines/test_torch_engine.py has the same cases for it.
}
FOLDER_CASES = {name: case for name, case in CASES.items() if case.engine != "static"}


class Heard:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def publish(self, event: Event) -> None:
        self.events.append(event)

    def truncated(self) -> list[int]:
        return [event.truncated for event in self.events if isinstance(event, TextsEmbedded)]


Open = Callable[..., Model]


@pytest.fixture(scope="module")
def heard_by_all() -> Heard:
    return Heard()


@pytest.fixture(scope="module")
def opened() -> Iterator[dict[str, Loader]]:
    """Loaders by their settings, so that a model is opened once for all tests that want it so."""
    made: dict[str, Loader] = {}
    yield made
    for loader in made.values():
        loader.close()


@pytest.fixture
def heard(heard_by_all: Heard) -> Heard:
    heard_by_all.events.clear()
    return heard_by_all


@pytest.fixture
def open_model(models_directory: Path, heard: Heard, opened: dict[str, Loader]) -> Open:
    """A case's model, or the folder given in its place, with settings of one's own; skips where its engine is not."""

    def build(
        case: Case, folder: Path | None = None, *, engine_of: Callable[[str], Any] | None = None, **more: Any
    ) -> Model:
        if case.engine not in ENGINES:
            pytest.skip(f"there is no engine {case.engine}")
        if folder is None:
            files_of(case.model)
        key = repr((engine_of, sorted(more.items())))
        if key not in opened:
            settings = Settings.model_validate({"directory": models_directory, "threads": 2, **more})
            load = engine_of or (lambda name: resolve(ENGINES, name))
            opened[key] = Loader(settings, stream=heard, engine_of=load)
        name = case.model if folder is None else str(folder)
        try:
            return opened[key].get(name, precision=case.precision, engine=case.engine)  # type: ignore[arg-type]
        except MissingExtra as error:
            pytest.skip(str(error))

    return build


every_engine = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_folder_engine = pytest.mark.parametrize("case", FOLDER_CASES.values(), ids=FOLDER_CASES)


def agree(case: Case, one: Vectors, other: Vectors) -> None:
    assert one.shape == other.shape
    assert (one * other).sum(axis=-1).min() >= case.least


# --- texts that are none, or hardly -----------------------------------------------------------------------------------


@every_engine
def test_empty_and_blank_texts_have_one_vector_whatever_stands_beside_them(case: Case, open_model: Open) -> None:
    model = open_model(case)
    blank = ["", " ", "\n\t \r\n", "\u00a0\u2003", " " * 100_000]
    vectors = model.embed([*blank, "a text of words"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    agree(case, vectors[:2], np.concatenate([model.embed([text]) for text in blank[:2]]))
    assert vectors[0] @ vectors[-1] < 0.99


@every_engine
@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["fine", None], r"texts\[1\] is NoneType, not str"),
        (["fine", "fine", 5.0], r"texts\[2\] is float, not str"),
        (["fine", "broken \ud800 text"], r"texts\[1\] has a lone surrogate \(U\+D800\) at character 7"),
        (["\udfff"], r"texts\[0\] has a lone surrogate"),
        ([f"number {index}" for index in range(1000)] + [None], r"texts\[1000\] is NoneType"),
        ("one text", "wrap it in a list"),
        (b"bytes", "wrap it in a list"),
        (None, "not NoneType"),
        (7, "not int"),
        ({"id": "text"}, "not dict"),
        ({"one", "two"}, "not set"),
    ],
)
def test_what_is_no_text_is_named_and_nothing_is_computed(
    case: Case, open_model: Open, heard: Heard, texts: Any, message: str
) -> None:
    model = open_model(case)
    with pytest.raises(InvalidInput, match=message):
        model.embed(texts)
    assert heard.truncated() == []
    assert model.embed(["fine"]).shape == (1, model.dimension)


@every_engine
def test_a_kind_that_is_none_is_named(case: Case, open_model: Open) -> None:
    with pytest.raises(InvalidInput, match="query, passage, not 'document'"):
        open_model(case).embed(["fine"], "document")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="'document'"):
        adopt(HashModel()).embed(["fine"], "document")  # type: ignore[arg-type]


@every_engine
def test_odd_characters_change_nothing_for_their_neighbours(case: Case, open_model: Open) -> None:
    model = open_model(case)
    odd = [
        "a\x00b",
        "\u202eright to left",
        "e" + "\u0301" * 500,
        "🏳️‍🌈" * 50,
        "[PAD] [CLS] [SEP] [MASK] </s>",
        "\ufffe\U0010ffff",
    ]
    plain = ["memory and budget", "a bank of vectors"]
    vectors = model.embed([plain[0], *odd, plain[1]])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    agree(case, vectors[[0, -1]], model.embed(plain))


# --- too long, too many -----------------------------------------------------------------------------------------------


def words_of_one_token(model: Model) -> list[str]:
    """Words that this model's tokenizer keeps whole, also behind a blank."""
    assert isinstance(model, CountsTokens)
    known = ["memory", "bank", "river", "house", "water", "light", "music", "paper", "green", "night"]
    return [word for word in known if list(model.count_tokens([word, f"{word} {word}"])) == [1, 2]]


def a_megabyte(model: Model) -> list[str]:
    """Pieces of a text of a megabyte, each of exactly as many tokens as `model` takes, but the last.

    Most words are of a kind that no vocabulary has: they make the text long, not the computation. A piece stays within
    the 65,536 characters that are read of a text at most where it is truncated.
    """
    assert isinstance(model, CountsTokens)
    known = words_of_one_token(model)
    filler = "x" * 280
    filler_tokens = model.count_tokens([f"memory {filler}"])[0] - 1
    room = model.max_tokens - (2 if model.max_tokens < 1024 else 0)
    pieces: list[str] = []
    numbers = np.random.default_rng(5)
    while sum(map(len, pieces)) < 1_000_000:
        fillers = room * 7 // 8 // filler_tokens
        words = [filler] * fillers + list(numbers.choice(known, room - fillers * filler_tokens))
        numbers.shuffle(words)
        pieces.append(" ".join(words))
    return [*pieces, " ".join(known)]


@every_engine
def test_a_text_of_a_megabyte_is_cut_short_and_counted(case: Case, open_model: Open, heard: Heard) -> None:
    model = open_model(case)
    start = "memory bank " * 100
    long = start + "river " * 170_000
    assert len(long) > 1_000_000
    vectors = model.embed(["short", long, "short again", long + "other end"])
    assert heard.truncated() == [2]
    agree(case, vectors[1:2], model.embed([start + "river " * model.max_tokens]))
    agree(case, vectors[1:2], vectors[3:4])
    agree(case, vectors[[0, 2]], model.embed(["short", "short again"]))


@every_engine
def test_a_text_of_a_megabyte_is_split_and_its_pieces_averaged(case: Case, open_model: Open, heard: Heard) -> None:
    """Composed by hand: each piece embedded for itself, weighted with its tokens, special ones included."""
    whole, single = open_model(case, long_texts="split"), open_model(case)
    assert whole.fingerprint != single.fingerprint
    assert isinstance(single, CountsTokens)
    pieces = a_megabyte(single)
    special = 0 if case.engine == "static" else 2
    weights = np.array([count + special for count in single.count_tokens(pieces)], dtype=np.float64)
    assert set(weights[:-1]) == {single.max_tokens}
    text = " ".join(pieces)
    assert len(text) > 1_000_000
    by_hand = (single.embed(pieces).astype(np.float64) * weights[:, np.newaxis]).sum(axis=0)
    by_hand /= np.linalg.norm(by_hand)
    heard.events.clear()
    vectors = whole.embed(["short", text, "short again"])
    assert heard.truncated() == [0]
    agree(case, vectors[1:2], by_hand[np.newaxis].astype(np.float32))
    agree(case, vectors[[0, 2]], single.embed(["short", "short again"]))


@every_engine
def test_a_megabyte_without_a_blank_is_answered(case: Case, open_model: Open) -> None:
    model = open_model(case)
    vectors = model.embed(["a" * 1_000_000, "short"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    agree(case, vectors[1:], model.embed(["short"]))


@contextmanager
def anonymous_peak() -> Iterator[list[int]]:
    """The most anonymous memory of this process while the block ran, above that at its beginning: one number."""

    def read() -> int:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))

    if not Path("/proc/self/status").exists():
        pytest.skip("anonymous memory is measured through /proc")
    found, ended, before = [0], threading.Event(), read()

    def watch() -> None:
        while not ended.is_set():
            found[0] = max(found[0], read() - before)
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def test_a_hundred_thousand_texts_are_answered_in_order_and_in_little_memory(open_model: Open, heard: Heard) -> None:
    case = CASES["static"]
    model = open_model(case, dimensions=64)
    texts = [f"text number {index} of many {index % 977}" for index in range(100_000)]
    model.embed(texts[:2000])
    with anonymous_peak() as peak:
        vectors = model.embed(texts)
    assert vectors.shape == (100_000, 64)
    picked = [0, 1, 511, 512, 513, 49_999, 77_777, 99_998, 99_999]
    agree(case, vectors[picked], np.concatenate([model.embed([texts[index]]) for index in picked]))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    # The answer itself, and no more beside it for a hundred thousand than for a few.
    assert peak[0] < vectors.nbytes + (32 << 20)
    told = [event for event in heard.events if isinstance(event, TextsEmbedded)]
    assert told[1].texts == 100_000


# --- files ------------------------------------------------------------------------------------------------------------


Damage = Callable[[Path], None]


def cut(part: float) -> Damage:
    def act(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])

    return act


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: bytes) -> Damage:
    def act(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return act


def change(name: str, **changes: Any) -> Damage:
    def act(folder: Path) -> None:
        path = folder / name
        write_json(path, {**json.loads(path.read_text()), **changes})

    return act


def alter(position: float, content: bytes) -> Damage:
    def act(folder: Path) -> None:
        path = folder / "model.safetensors"
        whole = bytearray(path.read_bytes())
        start = int(len(whole) * position)
        whole[start : start + len(content)] = content
        path.write_bytes(whole)

    return act


@every_folder_engine
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(remove("tokenizer.json"), r"tokenizer\.json", id="no tokenizer"),
        pytest.param(write("tokenizer.json", b""), r"tokenizer\.json", id="empty tokenizer"),
        pytest.param(write("tokenizer.json", b'{"version": "1.0"}'), r"tokenizer\.json", id="no tokenizer in the file"),
        pytest.param(remove("model.safetensors"), r"model\.safetensors", id="no weights"),
        pytest.param(write("model.safetensors", b""), r"model\.safetensors", id="empty weights"),
        pytest.param(cut(0.01), r"model\.safetensors", id="weights cut in the header"),
        pytest.param(cut(0.5), r"model\.safetensors", id="weights cut in half"),
        pytest.param(cut(0.9999), r"model\.safetensors", id="weights cut at the end"),
        pytest.param(alter(0.0, b"\xff" * 8), r"model\.safetensors", id="altered header length"),
        pytest.param(alter(0.01, b"\x00" * 40), r"model\.safetensors", id="altered header"),
        pytest.param(alter(0.9, b"\xff" * 4), "tiny", id="altered to NaN"),
        pytest.param(remove("config.json"), r"config\.json", id="no configuration"),
        pytest.param(change("config.json", model_type="mpnet2"), "mpnet2", id="another architecture"),
        pytest.param(change("config.json", model_type=None), "None", id="no architecture"),
        pytest.param(change("config.json", num_hidden_layers=3), "tiny", id="a layer without weights"),
        pytest.param(change("config.json", hidden_size=32), "tiny", id="another width"),
        pytest.param(change("config.json", vocab_size=41), "tiny", id="a word without weights"),
        pytest.param(change("1_Pooling/config.json", pooling_mode_mean_tokens=False), "tiny", id="no pooling"),
        pytest.param(change("1_Pooling/config.json", pooling_mode_max_tokens=True), "tiny", id="two poolings"),
        pytest.param(change("1_Pooling/config.json", pooling_mode="attention"), "attention", id="unknown pooling"),
        pytest.param(write("modules.json", b"[]"), "tiny", id="no modules"),
    ],
)
def test_a_damaged_model_is_named_and_never_computes(
    case: Case, open_model: Open, tmp_path: Path, damage: Damage, message: str
) -> None:
    folder = make_folder(tmp_path / "tiny")
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        open_model(case, folder, directory=tmp_path / "models").embed(["alpha b c"])
    assert isinstance(caught.value, ModelFileError | EmbeddingFailed)


@every_folder_engine
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name",
    [
        "embeddings.word_embeddings.weight",
        "encoder.layer.0.attention.self.query.weight",
        "encoder.layer.1.output.dense.bias",
    ],
)
def test_weights_that_are_no_numbers_are_named(
    case: Case, open_model: Open, tmp_path: Path, name: str, value: float
) -> None:
    """Quantised, a value that is none could become one that looks like any other."""
    tensors = make_tensors()
    tensors[name].reshape(-1)[:] = value
    folder = make_folder(tmp_path / "tiny", tensors=tensors)
    with pytest.raises((ModelFileError, EmbeddingFailed)):
        open_model(case, folder, directory=tmp_path / "models").embed(["alpha b c"])


@every_folder_engine
@pytest.mark.parametrize("token", [40, 5000, 2_000_000_000, 4_000_000_000])
def test_a_token_that_the_weights_do_not_have_is_named(
    case: Case, open_model: Open, tmp_path: Path, token: int
) -> None:
    """Of another model's tokenizer: looked up, it would be whatever lies in memory behind the weights."""
    folder = make_folder(tmp_path / "tiny")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["stranger"] = token
    write_json(folder / "tokenizer.json", tokenizer)
    model = open_model(case, folder, directory=tmp_path / "models")
    expected = model.embed(["alpha b c"])
    with pytest.raises((ModelFileError, EmbeddingFailed)):
        model.embed(["alpha b c", "alpha stranger c"])
    agree(case, model.embed(["alpha b c"]), expected)


def test_a_tokenizer_that_cannot_encode_a_text_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "tiny")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["unk_token"] = "[NOPE]"  # noqa: S105 - no password
    write_json(folder / "tokenizer.json", tokenizer)
    tokens = Tokens(folder / "tokenizer.json", max_tokens=16)
    for act in (tokens.encode, tokens.count):
        with pytest.raises(ModelFileError, match=r"tokenizer\.json can't encode a text"):
            act(["alpha ???"])
    with pytest.raises(ModelFileError, match="puts 2 special tokens around a text"):
        Tokens(folder / "tokenizer.json", max_tokens=2)


# --- devices ----------------------------------------------------------------------------------------------------------


@every_engine
def test_a_device_that_is_not_there_is_named(case: Case, open_model: Open) -> None:
    with pytest.raises(DeviceNotFound, match=r"there is no device 'cuda:93' .* there is cpu.* set embed\.device"):
        open_model(case, device="cuda:93")


# --- engines and models that answer what is no vector -----------------------------------------------------------------


class Spoiled:
    """An engine whose answers go through the first of `spoiled`."""

    def __init__(self, engine: Engine, spoiled: list[Callable[[Vectors], Any]]) -> None:
        self._engine = engine
        self._spoiled = spoiled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def encode(self, texts: Sequence[str], kind: Kind) -> Encoded:
        return self._engine.encode(texts, kind)

    def forward(self, batch: Sequence[TokenIds]) -> Any:
        return self._spoiled[0](self._engine.forward(batch))


def put(value: float) -> Callable[[Vectors], Vectors]:
    def spoil(vectors: Vectors) -> Vectors:
        vectors[-1, 3] = value
        return vectors

    return spoil


def raise_(error: Exception) -> Callable[[Vectors], Any]:
    def spoil(_: Vectors) -> Any:
        raise error

    return spoil


SPOILS: list[tuple[Callable[[Vectors], Any], str]] = [
    (put(np.nan), r"answered texts\[\d\] with a vector of norm nan"),
    (put(np.inf), r"answered texts\[\d\] with a vector of norm (inf|nan)"),
    (lambda vectors: vectors * 0, r"answered texts\[0\] with a vector of norm (0|nan)"),
    (lambda vectors: vectors[:, 1:], "answered with shape"),
    (lambda vectors: vectors[1:], "answered with shape"),
    (lambda vectors: vectors[0], "answered with shape"),
    (lambda vectors: None, r"answered with shape \(\)"),
    (raise_(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")), "failed on .*CUDA out of memory"),
    (raise_(KeyError("x")), "failed on"),
]


@every_engine
@pytest.mark.parametrize("long_texts", ["truncate", "split"])
def test_an_engine_that_answers_wrongly_is_named(case: Case, open_model: Open, heard: Heard, long_texts: str) -> None:
    spoiled: list[Callable[[Vectors], Any]] = [lambda vectors: vectors]

    def engine_of(name: str) -> Callable[[LoadRequest], Any]:
        load = resolve(ENGINES, name)
        return lambda request: Spoiled(load(request), spoiled)

    model = open_model(case, engine_of=engine_of, long_texts=long_texts, isolation="thread")
    texts = ["one text", "another text", "memory " * (300 if model.max_tokens < 300 else 9000)]
    expected = model.embed(texts)
    heard.events.clear()
    for spoil, message in SPOILS:
        spoiled[0] = spoil
        with pytest.raises(EmbeddingFailed, match=message):
            model.embed(texts)
    assert heard.truncated() == []
    spoiled[0] = lambda vectors: vectors
    agree(case, model.embed(texts), expected)


class Answers(HashModel):
    """A user's model that answers what it is told to."""

    def __init__(self, spoil: Callable[[Vectors], Any]) -> None:
        super().__init__(dimension=8)
        self._spoil = spoil

    def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Any:
        return self._spoil(super().embed(texts, kind))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("spoil", [put(np.nan), put(np.inf), lambda vectors: vectors * 0, raise_(KeyError("x"))])
def test_a_users_model_that_answers_wrongly_is_named(spoil: Callable[[Vectors], Any], *, normalize: bool) -> None:
    heard = Heard()
    model = adopt(Answers(spoil), normalize=normalize, publisher=heard)
    with pytest.raises(EmbeddingFailed, match="the model 'hash:"):
        model.embed(["one", "two"])
    assert heard.truncated() == []
