from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.embed.tiny_bert import make_folder

from embank.embed.engine import LoadRequest, Unbudgeted, Unheard
from embank.embed.engines import ct2
from embank.embed.files.catalog import MINILM
from embank.embed.formats.verify import read_reference
from embank.embed.loader import Loader
from embank.embed.settings import Settings
from embank.errors import EmbeddingFailed, InvalidInput
from embank.testing.models import TEXTS

if TYPE_CHECKING:
    from embank.embed.formats.ctformat import Precision


def request_of(folder: Path, models: Path, precision: Precision = "int8", *, minilm: bool = False) -> LoadRequest:
    return LoadRequest(
        name="minilm" if minilm else folder.name,
        folder=folder,
        known=MINILM if minilm else None,
        precision=precision,
        device="cpu",
        settings=Settings(threads=1),
        models_directory=models,
        budget=Unbudgeted(),
        publisher=Unheard(),
        on_progress=lambda _fraction, _step: None,
    )


@pytest.mark.parametrize(("precision", "least"), [("int8", 0.99), ("float32", 0.99999)])
def test_vectors_agree_with_sentence_transformers(
    loader: Loader, minilm_files: Path, precision: Precision, least: float
) -> None:
    reference = read_reference("minilm")
    assert reference is not None
    texts, stored = reference
    assert np.linalg.norm(stored, axis=1) == pytest.approx(1, abs=1e-5)
    cosines = (loader.get("minilm", precision=precision).embed(texts) * stored).sum(axis=1)
    assert cosines.min() >= least


def test_int8_is_the_same_alone_and_in_any_batch(loader: Loader, minilm_files: Path) -> None:
    """What rounding could amplify: many texts of many lengths. Much tighter than the suite's bound for int8."""
    random = np.random.default_rng(3)
    words = " ".join(TEXTS).split()
    texts = [" ".join(random.choice(words, int(length))) for length in random.integers(1, 120, size=120)]
    model = loader.get("minilm", precision="int8")
    alone = np.concatenate([model.embed([text]) for text in texts])
    assert (model.embed(texts) * alone).sum(axis=1).min() >= 0.9999
    assert (model.embed(texts[::-1])[::-1] * alone).sum(axis=1).min() >= 0.9999


def test_minilm_says_what_it_is(loader: Loader, minilm_files: Path) -> None:
    model = loader.get("minilm", precision="int8")
    assert (model.dimension, model.max_tokens) == (384, 256)
    assert model.fingerprint.startswith("minilm:ct2:int8:384:")
    assert model.fingerprint != loader.get("minilm", precision="float32").fingerprint


def test_text_beyond_the_limit_is_truncated_where_the_tokenizer_says(loader: Loader, minilm_files: Path) -> None:
    model = loader.get("minilm", precision="float32")
    within, beyond, shorter = model.embed(["word " * 254, "word " * 254 + "tail " * 900, "word " * 253])
    assert np.array_equal(within, beyond)
    assert not np.array_equal(within, shorter)


def test_blank_texts_are_the_special_tokens_alone(loader: Loader, minilm_files: Path) -> None:
    empty, blank = loader.get("minilm").embed(["", " \n\t"])
    assert np.array_equal(empty, blank)


def test_the_compute_type_is_the_one_asked_for(minilm_files: Path, models_directory: Path) -> None:
    for precision, name in (("int8", "int8_float32"), ("float32", "float32")):
        engine = ct2.load(request_of(minilm_files, models_directory, precision, minilm=True))  # type: ignore[arg-type]
        assert isinstance(engine, ct2.Ct2Engine)
        assert engine._encoder.compute_type == name
        engine.close()


def test_pooling_by_the_first_token(tmp_path: Path) -> None:
    engine = ct2.load(request_of(make_folder(tmp_path / "tiny", pooling="cls"), tmp_path / "models", "float32"))
    whole = ct2.load(request_of(make_folder(tmp_path / "other", pooling="mean"), tmp_path / "models", "float32"))
    (ids,) = engine.encode(["alpha b c"], "passage").rows
    (cls,), (mean,) = engine.forward([ids]), whole.forward([ids])
    assert cls.shape == mean.shape == (16,)
    assert not np.allclose(cls, mean, atol=1e-2)
    # A text of one token is its own mean.
    assert np.allclose(engine.forward([ids[:1]]), whole.forward([ids[:1]]), atol=1e-6)


def test_a_text_at_the_last_position_is_computed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "tiny", max_position_embeddings=64)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    engine = ct2.load(request_of(folder, tmp_path / "models"))
    (ids,) = engine.encode(["alpha " * 100], "passage").rows
    assert len(ids) == 64
    assert np.isfinite(engine.forward([ids])).all()


def test_bytes_of_a_batch_grow_with_rows_and_width(tmp_path: Path) -> None:
    engine = ct2.load(request_of(make_folder(tmp_path / "tiny"), tmp_path / "models"))
    assert engine.batch_bytes(4, 16) == 4 * engine.batch_bytes(1, 16)
    assert engine.batch_bytes(1, 32) > 2 * engine.batch_bytes(1, 16)


def test_a_closed_engine_holds_nothing_and_says_so(tmp_path: Path) -> None:
    engine = ct2.load(request_of(make_folder(tmp_path / "tiny"), tmp_path / "models"))
    (ids,) = engine.encode(["alpha"], "passage").rows
    assert engine.used_bytes() > 0
    engine.close()
    engine.close()
    assert engine.used_bytes() == 0
    with pytest.raises(EmbeddingFailed, match="closed"):
        engine.forward([ids])
    with pytest.raises(EmbeddingFailed, match="closed"):
        engine.encode(["alpha"], "passage")


def test_dimensions_that_it_was_not_trained_for_are_refused(
    make_loader: Callable[..., Loader], minilm_files: Path
) -> None:
    with pytest.raises(InvalidInput, match="not trained to be cut to 128"):
        make_loader(dimensions=128).get("minilm")
    assert make_loader(dimensions=384).get("minilm").dimension == 384
