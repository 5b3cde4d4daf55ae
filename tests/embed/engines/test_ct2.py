from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.embed.tiny_bert import make_folder

from embank.embed.engine import LoadRequest, Unbudgeted, Unheard
from embank.embed.engines import ct2
from embank.embed.files.catalog import MINILM
from embank.embed.formats.verify import read_reference
from embank.embed.loader import Loader
from embank.embed.settings import Settings
from embank.errors import DeviceNotFound, EmbeddingFailed, InvalidInput, ModelError
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


# --- on a CUDA device, which a stand-in has ---------------------------------------------------------------------------


class _OnDevice:
    """Memory of a device: numpy sees an object there, as the runtime has it, until it is copied."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def to_device(self, device: Any) -> Any:
        assert device.name == "cpu"
        return self._array


class _Cuda:
    """Computes on the CPU what the runtime would on a device that holds `rows` rows; raises `error` for more."""

    def __init__(self, encoder: Any, rows: int, error: str) -> None:
        self._encoder, self._rows, self._error = encoder, rows, error
        self.asked: list[int] = []

    def forward_batch(self, ids: Any, lengths: Any) -> Any:
        self.asked.append(ids.shape[0])
        if ids.shape[0] > self._rows:
            raise RuntimeError(self._error)
        return SimpleNamespace(last_hidden_state=_OnDevice(self._encoder.forward_batch(ids, lengths).last_hidden_state))

    def unload_model(self) -> None:
        self._encoder.unload_model()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[_Cuda]]:
    """Gives this machine a CUDA device, as far as the engine can see."""

    def give(rows: int = 1000, error: str = "CUDA failed with error out of memory") -> list[_Cuda]:
        opened: list[_Cuda] = []
        open_encoder = ct2._open_encoder

        def opening(folder: Path, compute_type: str, threads: int, device: str) -> Any:
            encoder = open_encoder(folder, compute_type, threads, "cpu")
            if device == "cpu":
                return encoder
            opened.append(_Cuda(encoder, rows, error))
            return opened[-1]

        monkeypatch.setattr(ct2, "_cuda_devices", lambda: 1)
        monkeypatch.setattr(ct2, "_open_encoder", opening)
        return opened

    return give


def tiny_on(device: str, folder: Path) -> Any:
    folder = folder if folder.exists() else make_folder(folder)
    return ct2.load(replace(request_of(folder, folder.parent / "models", "float32"), device=device))


ROWS = [np.array([2, *range(5, 5 + count), 3], dtype=np.int32) for count in (1, 4, 2, 7, 3)]


def test_what_a_device_computed_is_copied_from_it(tmp_path: Path, cuda: Callable[..., list[_Cuda]]) -> None:
    expected = tiny_on("cpu", tmp_path / "tiny")
    vectors = expected.forward(ROWS)
    cuda()
    engine = tiny_on("cuda", tmp_path / "tiny")
    assert engine.device == "cuda:0"
    assert np.array_equal(engine.forward(ROWS), vectors)
    # Of this process's memory it takes what comes back, and no weights.
    assert engine.batch_bytes(8, 32) < expected.batch_bytes(8, 32)
    assert engine.used_bytes() < expected.used_bytes()


@pytest.mark.parametrize(
    "said", ["CUDA failed with error out of memory", "parallel_for failed: cudaErrorInvalidDevice"]
)
def test_a_batch_that_a_device_has_no_room_for_is_halved(
    tmp_path: Path, cuda: Callable[..., list[_Cuda]], said: str
) -> None:
    expected = tiny_on("cpu", tmp_path / "tiny").forward(ROWS)
    opened = cuda(2, said)
    engine = tiny_on("cuda", tmp_path / "tiny")
    engine.batch_tokens = 1000
    assert np.allclose(engine.forward(ROWS), expected, atol=1e-6)
    assert opened[-1].asked == [1, 5, 3, 2, 1, 2]  # the first asks whether it can compute at all
    assert engine.batch_tokens < 30  # later batches are smaller from the start


def test_a_device_without_room_for_one_text_is_named(tmp_path: Path, cuda: Callable[..., list[_Cuda]]) -> None:
    opened = cuda()
    engine = tiny_on("cuda", tmp_path / "tiny")
    opened[-1]._rows = 0
    with pytest.raises(EmbeddingFailed, match=r"cuda:0 has no memory for one text of 3 tokens .* embed\.device to cpu"):
        engine.forward(ROWS)


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        (
            "Library libcublas.so.12 is not found or cannot be loaded",
            DeviceNotFound,
            "can't compute on cuda:0: Library",
        ),
        ("CUDA failed with error out of memory", ModelError, "cuda:0 is full"),
    ],
)
def test_a_model_that_cannot_compute_on_its_device_is_not_ready(
    tmp_path: Path, cuda: Callable[..., list[_Cuda]], said: str, kind: type[Exception], message: str
) -> None:
    cuda(0, said)
    with pytest.raises(kind, match=message):
        tiny_on("cuda", tmp_path / "tiny")


def test_auto_takes_the_processor_where_the_device_cannot_compute(
    tmp_path: Path, cuda: Callable[..., list[_Cuda]], caplog: pytest.LogCaptureFixture
) -> None:
    cuda(0, "Library libcublas.so.12 is not found or cannot be loaded")
    with caplog.at_level(logging.WARNING, "embank"):
        engine = tiny_on("auto", tmp_path / "tiny")
    assert engine.device == "cpu"
    assert "libcublas.so.12" in caplog.text
    assert "computing on the CPU" in caplog.text
    assert np.isfinite(engine.forward(ROWS)).all()


def test_a_device_too_full_to_open_a_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA failed with error out of memory")

    monkeypatch.setattr("ctranslate2.Encoder", full)
    with pytest.raises(ModelError, match="there is no memory on cuda:0 to open"):
        ct2._open_encoder(tmp_path, "float32", 1, "cuda:0")
