"""The torch engine: on the real MiniLM, and on small models of many architectures."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.embed.engines.test_ct2 import request_of
from tests.embed.later import later
from tests.embed.tiny_bert import encode_safetensors, make_folder, make_tensors, write_tokenizer

from embank.embed import batching
from embank.embed.engine import LoadRequest, Unbudgeted, Unheard
from embank.embed.engines import placement, sentence_model, torch_engine
from embank.embed.engines.placed import Placed
from embank.embed.engines.torch_engine import TorchEngine
from embank.embed.engines.weights import Weights
from embank.embed.formats.verify import read_reference
from embank.embed.loader import Loader
from embank.embed.model import Model, Precision
from embank.embed.settings import Settings
from embank.errors import (
    BudgetExceeded,
    DeviceNotFound,
    EmbeddingFailed,
    InvalidInput,
    MissingExtra,
    ModelError,
    ModelFileError,
)
from embank.events.kinds import ModelMoved
from embank.testing.models import TEXTS, ModelContract

torch = later("torch", extra="torch")
st = later("sentence_transformers", extra="torch")
transformers = later("transformers", extra="torch")

CLS, SEP = 2, 3


@pytest.fixture(scope="module")
def torch_loader(make_loader: Callable[..., Loader]) -> Loader:
    return make_loader(engine="torch", threads=1, precision="float32")


@pytest.fixture(scope="module")
def minilm(minilm_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchEngine]:
    """MiniLM in float32. Who moves it moves it back."""
    engine = opened(request_of(minilm_files, tmp_path_factory.mktemp("none"), "float32", minilm=True))
    yield engine
    engine.close()


def opened(request: LoadRequest) -> TorchEngine:
    engine = torch_engine.load(request)
    assert isinstance(engine, TorchEngine)
    return engine


def open_tiny(folder: Path, **changes: Any) -> TorchEngine:
    return opened(replace(request_of(folder, folder.parent / "models", "float32"), **changes))


def embed(engine: TorchEngine, texts: list[str] | tuple[str, ...]) -> Any:
    return batching.embed(engine, texts, "passage", budget=Unbudgeted(), publisher=Unheard())


def tiny(folder: Path, **settings: Any) -> Path:
    """The small BERT as a whole folder that transformers can read, too."""
    make_folder(folder, **settings)
    with_modules("Transformer", "Pooling", "Normalize")(folder)
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), model_max_length=32, **special
    ).save_pretrained(folder)
    write_tokenizer(folder / "tokenizer.json")
    return folder


def tiny_of(folder: Path, config: Any) -> Path:
    """A model of another architecture with weights by chance, pooled by mean."""
    torch.manual_seed(3)
    tiny(folder)
    (folder / "model.safetensors").unlink()
    model = transformers.AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return folder


def by_the_library(folder: Path, rows: list[Any], precision: str = "float32") -> Any:
    """What sentence-transformers answers for token ids, one text at a time."""
    model = st.SentenceTransformer(
        str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": getattr(torch, precision)}
    )
    with torch.inference_mode():
        answers = [
            model({"input_ids": torch.tensor(row[None].astype(np.int64)), "attention_mask": torch.ones(1, len(row))})
            for row in rows
        ]
    return np.concatenate([answer["sentence_embedding"].float().numpy() for answer in answers])


def cosines(some: Any, others: Any) -> Any:
    norms = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    return np.einsum("ij,ij->i", some, others) / norms


# --- what every model does ------------------------------------------------------------------------------------------


class TestTorchFloat32(ModelContract):
    @pytest.fixture
    def model(self, torch_loader: Loader, minilm_files: Path) -> Model:
        return torch_loader.get("minilm", precision="float32")


class TestTorchBfloat16(ModelContract):
    many = 100  # in several batches; float32 has gone the same way with more, in a seventh of the time

    @pytest.fixture
    def model(self, torch_loader: Loader, minilm_files: Path) -> Model:
        return torch_loader.get("minilm", precision="bfloat16")


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "least"), [("float32", 0.999999), ("bfloat16", 0.9999)])
def test_vectors_agree_with_the_reference(
    torch_loader: Loader, minilm_files: Path, precision: Any, least: float
) -> None:
    reference = read_reference("minilm")
    assert reference is not None
    texts, stored = reference
    assert cosines(torch_loader.get("minilm", precision=precision).embed(texts), stored).min() >= least


def test_vectors_agree_with_the_librarys_own_encode(torch_loader: Loader, minilm_files: Path) -> None:
    texts = [*TEXTS, "", "word " * 400]
    plain = st.SentenceTransformer(str(minilm_files), device="cpu", local_files_only=True)
    expected = plain.encode(texts, show_progress_bar=False)
    assert cosines(torch_loader.get("minilm", precision="float32").embed(texts), expected).min() >= 0.99999


def test_half_precision_is_the_same_alone_and_in_any_batch(torch_loader: Loader, minilm_files: Path) -> None:
    random = np.random.default_rng(3)
    words = " ".join(TEXTS).split()
    texts = [" ".join(random.choice(words, int(length))) for length in random.integers(1, 60, size=24)]
    model = torch_loader.get("minilm", precision="bfloat16")
    alone = np.concatenate([model.embed([text]) for text in texts])
    assert cosines(model.embed(texts), alone).min() >= 0.99999
    assert cosines(model.embed(texts[::-1])[::-1], alone).min() >= 0.99999


def test_it_says_what_it_is(minilm: TorchEngine) -> None:
    fingerprint = minilm.fingerprint
    assert (fingerprint.engine, fingerprint.precision, fingerprint.pooling) == ("torch", "float32", "mean")
    assert (fingerprint.dimension, minilm.max_tokens, minilm.device, minilm.lanes) == (384, 256, "cpu", 1)
    assert fingerprint.weights.startswith("53aa51172d14")
    assert torch.get_num_threads() == 1  # as set
    assert minilm.release_cached() == 0
    assert minilm.device_bytes() == 0


POOLINGS = ["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@pytest.mark.parametrize("pooling", [*POOLINGS, ["cls", "max"]])
def test_pooling_is_what_the_model_says(tmp_path: Path, pooling: str | list[str]) -> None:
    folder = tiny(tmp_path / "tiny")
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 16, "pooling_mode": pooling})
    )
    engine = open_tiny(folder)
    rows = engine.encode(["alpha b c d e f", "a", "beta z y x " * 9], "passage").rows
    assert cosines(engine.forward(rows), by_the_library(folder, rows)).min() >= 0.999999
    assert engine.fingerprint.pooling == (pooling if isinstance(pooling, str) else "cls+max")
    assert engine.fingerprint.dimension == (16 if isinstance(pooling, str) else 32)
    engine.close()


def test_a_dense_layer_behind_the_pooling_counts(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "tiny")
    with_modules("Transformer", "Pooling", "Dense", "Normalize")(folder)
    (folder / "9_Dense").mkdir()
    settings = {"in_features": 16, "out_features": 8, "activation_function": "torch.nn.modules.activation.Tanh"}
    (folder / "9_Dense" / "config.json").write_text(json.dumps(settings))
    random = np.random.default_rng(1)
    weight, bias = random.normal(size=(8, 16)).astype(np.float32), random.normal(size=8).astype(np.float32)
    path = folder / "9_Dense" / "model.safetensors"
    path.write_bytes(encode_safetensors({"linear.weight": weight, "linear.bias": bias}))
    engine = open_tiny(folder)
    rows = engine.encode(["alpha b c", "a"], "passage").rows
    assert engine.fingerprint.dimension == 8
    assert cosines(engine.forward(rows), by_the_library(folder, rows)).min() >= 0.999999
    path.write_bytes(encode_safetensors({"linear.weight": weight + 1, "linear.bias": bias}))
    other = open_tiny(folder)
    assert other.fingerprint.weights != engine.fingerprint.weights
    path.write_bytes(encode_safetensors({"linear.weight": weight}))
    with pytest.raises(ModelFileError):
        open_tiny(folder)


SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40}
OTHERS: dict[str, Callable[[], Any]] = {
    "roberta": lambda: transformers.RobertaConfig(**SIZES, max_position_embeddings=40, pad_token_id=1),
    "mpnet": lambda: transformers.MPNetConfig(**SIZES, max_position_embeddings=40, pad_token_id=1),
    "distilbert": lambda: transformers.DistilBertConfig(vocab_size=40, dim=16, hidden_dim=32, n_layers=2, n_heads=4),
    "modernbert": lambda: transformers.ModernBertConfig(
        **SIZES,
        max_position_embeddings=64,
        pad_token_id=0,
        cls_token_id=2,
        sep_token_id=3,
        bos_token_id=2,
        eos_token_id=3,
    ),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, num_key_value_heads=2, max_position_embeddings=64),
    "t5": lambda: transformers.T5Config(
        vocab_size=40, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, decoder_start_token_id=0
    ),
    "nomic_bert": lambda: transformers.NomicBertConfig(**SIZES, max_position_embeddings=64),
}


@pytest.mark.parametrize("architecture", list(OTHERS))
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_other_architectures_agree_with_the_library(tmp_path: Path, architecture: str, precision: Any) -> None:
    folder = tiny_of(tmp_path / architecture, OTHERS[architecture]())
    engine = open_tiny(folder, precision=precision)
    texts = ["alpha b c d e f", "a", "beta z y x " * 9, "q r s"]
    rows = engine.encode(texts, "passage").rows
    least = 0.99999 if precision == "float32" else 0.995
    assert cosines(engine.forward(rows), by_the_library(folder, rows)).min() >= least
    longest = engine.encode(["alpha " * 100], "passage").rows
    assert len(longest[0]) == engine.max_tokens
    assert np.isfinite(engine.forward(longest)).all()
    engine.close()


@pytest.mark.parametrize("layers", [1, 3])
def test_rearranged_weights_must_be_whole_too(tmp_path: Path, layers: int) -> None:
    folder = tiny_of(tmp_path / "nomic", OTHERS["nomic_bert"]())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    with pytest.raises(ModelFileError, match="does not hold the weights of NomicBertModel"):
        open_tiny(folder)


def test_a_model_that_takes_padding_for_text_is_refused(tmp_path: Path) -> None:
    config = transformers.FNetConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, intermediate_size=32, max_position_embeddings=64
    )
    with pytest.raises(ModelFileError, match="takes padding for text"):
        open_tiny(tiny_of(tmp_path / "fnet", config))


def test_weights_that_are_not_in_the_file_are_not_made_up(tmp_path: Path) -> None:
    """BERT's files often lack the pooler's weights: nobody needs them. Anything else must be there."""
    tensors = make_tensors()
    assert not any("pooler" in name for name in tensors)
    first, second = open_tiny(tiny(tmp_path / "one")), open_tiny(tiny(tmp_path / "two"))
    rows = first.encode(["alpha b"], "passage").rows
    assert np.array_equal(first.forward(rows), second.forward(rows))
    del tensors["encoder.layer.1.attention.self.query.bias"]
    with pytest.raises(ModelFileError, match=r"layer\.1\.attention\.self\.query\.bias"):
        open_tiny(tiny(tmp_path / "three", tensors=tensors))


def test_prefixes_and_case_are_the_folders(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "tiny")
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "beta ", "passage": "a "}}')
    engine = open_tiny(folder)
    (query,), (passage,) = engine.encode(["alpha"], "query").rows, engine.encode(["alpha"], "passage").rows
    assert len(query) == len(passage) == 4
    assert query[1] != passage[1]
    assert (engine.fingerprint.query_prefix, engine.fingerprint.passage_prefix) == ("beta ", "a ")
    assert engine.count(["alpha b"]) == [2]


def test_long_texts_are_split_where_asked(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "tiny")
    engine = open_tiny(folder, settings=Settings(threads=1, long_texts="split"))
    encoded = engine.encode(["alpha " * 70, "b"], "passage")
    assert encoded.owners is not None
    assert encoded.owners.tolist() == [0, 0, 0, 1]
    assert engine.fingerprint.long_texts == "split"


# --- what is refused ------------------------------------------------------------------------------------------------


def test_int8_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"float32, bfloat16, float16, not int8: set embed\.precision"):
        open_tiny(tiny(tmp_path / "tiny"), precision="int8")


def test_dimensions_that_it_was_not_trained_for_are_refused(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "tiny")
    with pytest.raises(InvalidInput, match="not trained to be cut to 8"):
        open_tiny(folder, settings=Settings(threads=1, dimensions=8))
    assert open_tiny(folder, settings=Settings(threads=1, dimensions=16)).fingerprint.dimension == 16


@pytest.mark.skipif("torch.cuda.is_available()", reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "tiny")
    with pytest.raises(DeviceNotFound, match="'cuda:1' that the torch engine can compute on; there is cpu"):
        open_tiny(folder, device="cuda:1")
    assert open_tiny(folder, device="auto").device == "cpu"


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def not_finite(folder: Path) -> None:
    tensors = make_tensors()
    tensors["encoder.layer.0.output.dense.weight"][1, 1] = np.nan
    (folder / "model.safetensors").write_bytes(encode_safetensors(tensors))


def configured(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def with_modules(*kinds: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        paths = {"Transformer": "", "Pooling": "1_Pooling"}
        listed = [
            {
                "idx": number,
                "name": str(number),
                "path": paths.get(kind, f"9_{kind}"),
                "type": f"sentence_transformers.models.{kind}",
            }
            for number, kind in enumerate(kinds)
        ]
        (folder / "modules.json").write_text(json.dumps(listed))

    return change


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "the file is truncated"),
        (pickled, r"model\.safetensors is missing.*never pickled"),
        (not_finite, "not finite"),
        (configured(num_hidden_layers=1), r"layer\.1"),
        (configured(num_hidden_layers=3), r"layer\.2"),
        (configured(intermediate_size=48), "another architecture|can't build"),
        (configured(hidden_size=17), "can't build"),
        (configured(model_type="nothing_known"), "can't build"),
        (with_modules("Transformer", "LSTM", "Pooling"), "LSTM"),
        (with_modules("Transformer"), "Pooling|pooling"),
        (without_tokenizer, r"tokenizer"),
    ],
)
def test_damaged_folders_are_refused_by_name(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = tiny(tmp_path / "tiny")
    damage(folder)
    with pytest.raises(ModelFileError, match=message):
        open_tiny(folder)


def test_an_altered_file_of_a_known_model_is_refused(minilm_files: Path, tmp_path: Path) -> None:
    folder = tmp_path / "altered"
    shutil.copytree(minilm_files, folder)
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-4000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="not the file that the authors"):
        opened(request_of(folder, tmp_path, "float32", minilm=True))


@pytest.mark.parametrize(
    ("module", "package"), [("torch", "torch"), ("sentence_transformers", "sentence-transformers")]
)
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"'{package}'.*embank\[torch\]"):
        open_tiny(make_folder(tmp_path / "tiny"))


def test_nothing_is_asked_of_the_network(minilm_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    opened(request_of(minilm_files, tmp_path, "float32", minilm=True)).close()


def test_loading_says_nothing_on_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    open_tiny(tiny(tmp_path / "tiny")).close()
    assert capfd.readouterr() == ("", "")


# --- memory ---------------------------------------------------------------------------------------------------------


class Noted(Unbudgeted):
    def __init__(self, *, refusing: str = "") -> None:
        self.wanted: dict[str, int] = {}
        self._refusing = refusing

    def reserve(
        self, what: str, wanted_bytes: int, *, least_bytes: int | None = None, wait_s: float = 0.0
    ) -> AbstractContextManager[Any]:
        self.wanted[what] = wanted_bytes
        if self._refusing and what.startswith(self._refusing):
            raise BudgetExceeded(what, wanted_bytes=wanted_bytes, available_bytes=0, budget_bytes=1)
        return super().reserve(what, wanted_bytes)


def test_a_load_is_reserved_first(tmp_path: Path, minilm_files: Path) -> None:
    noted = Noted(refusing="load")
    with pytest.raises(BudgetExceeded):
        opened(replace(request_of(minilm_files, tmp_path, "float32", minilm=True), budget=noted))
    assert noted.wanted["load minilm"] >= (minilm_files / "model.safetensors").stat().st_size


def test_used_bytes_are_those_of_the_weights(minilm: TorchEngine, minilm_files: Path) -> None:
    on_disk = (minilm_files / "model.safetensors").stat().st_size
    assert 0.95 * on_disk < minilm.used_bytes() < 1.5 * on_disk


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from /proc")
@pytest.mark.parametrize(("rows", "width"), [(16, 64), (8, 256)])
def test_a_batch_takes_no_more_than_it_says(minilm: TorchEngine, rows: int, width: int) -> None:
    random = np.random.default_rng(2)
    batch = [random.integers(1000, 30000, int(length), dtype=np.int32) for length in [width, *[width - 3] * (rows - 1)]]
    minilm.forward(batch[:1])
    before = peak_bytes(reset=True)
    minilm.forward(batch)
    assert peak_bytes() - before <= minilm.batch_bytes(rows, width) * 1.1
    assert minilm.batch_bytes(rows, width) == rows * minilm.batch_bytes(1, width)


def peak_bytes(*, reset: bool = False) -> int:
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_a_closed_engine_holds_nothing_and_says_so(tmp_path: Path) -> None:
    engine = open_tiny(tiny(tmp_path / "tiny"))
    rows = engine.encode(["alpha"], "passage").rows
    modules = engine._last.modules
    engine.close()
    engine.close()
    assert engine.used_bytes() == 0
    assert placement.held_bytes(modules) == 0  # given back though somebody still has the modules
    for use in (lambda: engine.forward(rows), lambda: engine.encode(["a"], "query"), lambda: engine.move("cpu")):
        with pytest.raises(EmbeddingFailed, match="closed"):
            use()


# --- moving ---------------------------------------------------------------------------------------------------------


class Heard(Unheard):
    def __init__(self) -> None:
        self.events: list[object] = []

    def publish(self, event: object) -> None:
        self.events.append(event)


def test_there_and_back_in_precision_is_exact(tmp_path: Path) -> None:
    heard = Heard()
    engine = open_tiny(tiny(tmp_path / "tiny"), publisher=heard)
    before, name = embed(engine, TEXTS), str(engine.fingerprint)
    steps = [engine.length_step]
    engine.move("cpu", precision="bfloat16")
    assert engine.fingerprint.precision == "bfloat16"
    assert [*steps, engine.length_step] == [None, 16]
    assert not np.array_equal(embed(engine, TEXTS), before)
    engine.move("cpu", precision="float32")
    assert np.array_equal(embed(engine, TEXTS), before)
    assert str(engine.fingerprint) == name
    engine.move("cpu")  # it is there
    moves = [event for event in heard.events if isinstance(event, ModelMoved)]
    assert [move.fingerprint.split(":")[2] for move in moves] == ["bfloat16", "float32"]
    assert (moves[0].was_on, moves[0].device) == ("cpu", "cpu")


def test_a_move_copies_every_tensor_and_leaves_the_old_alone(tmp_path: Path) -> None:
    """There is one device here, so that what `move` does on the way is done by hand."""
    engine = open_tiny(tiny(tmp_path / "tiny"))
    assert engine._placed is not None
    old = engine._placed.modules
    old.get_submodule("0").model.embeddings.twin = old.get_submodule("0").model.embeddings.word_embeddings.weight
    copy = placement.copied_to(old, "cpu")
    embeddings = copy.get_submodule("0").model.embeddings
    assert embeddings.twin is embeddings.word_embeddings.weight
    assert not {each.data_ptr() for each in old.parameters()} & {each.data_ptr() for each in copy.parameters()}
    before = embed(engine, TEXTS)
    placement.discard(copy)
    assert np.array_equal(embed(engine, TEXTS), before)


def test_what_does_not_arrive_is_an_error(tmp_path: Path) -> None:
    engine = open_tiny(tiny(tmp_path / "tiny"))
    assert engine._placed is not None
    with pytest.raises(ModelFileError, match="meta"):
        placement.copied_to(engine._placed.modules, "meta")
    assert all(tensor.is_meta for tensor in placement.skeleton_of(engine._placed.modules).parameters())
    assert np.isfinite(embed(engine, TEXTS)).all()


@pytest.mark.skipif("torch.cuda.is_available()", reason="there is a CUDA device here")
def test_a_failed_move_leaves_the_old_one_working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_tiny(tiny(tmp_path / "tiny"))
    before = embed(engine, TEXTS)
    with pytest.raises(DeviceNotFound):
        engine.move("cuda")
    with pytest.raises(InvalidInput, match="int8"):
        engine.move("cpu", precision="int8")
    with pytest.raises(InvalidInput, match="unknown device"):
        engine.move("meta")
    monkeypatch.setattr(torch_engine, "_cuda_devices", lambda: 1)
    with pytest.raises(ModelError, match=r"can't be moved to cuda:0 as float32.*goes on on cpu"):
        engine.move("cuda")
    with pytest.raises(ModelError, match="can't be moved to cuda:0 as bfloat16"):
        engine.move("cuda", precision="bfloat16")
    assert engine.device == "cpu"
    assert np.array_equal(embed(engine, TEXTS), before)


def test_a_copy_that_computes_something_else_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_tiny(tiny(tmp_path / "tiny"))
    before = embed(engine, TEXTS)
    load_weights = sentence_model.load_weights

    def load_and_spoil(folder: Path, modules: Any, **given: Any) -> int:
        held = load_weights(folder, modules, **given)
        with torch.no_grad():
            modules.get_submodule("0").model.encoder.layer[1].output.LayerNorm.weight.mul_(-1)
        return held

    monkeypatch.setattr(sentence_model, "load_weights", load_and_spoil)
    with pytest.raises(ModelError, match="computes something else"):
        engine.move("cpu", precision="bfloat16")
    assert engine.precision == "float32"
    assert np.array_equal(embed(engine, TEXTS), before)


def test_files_that_changed_since_are_not_mixed_in(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "tiny")
    engine = open_tiny(folder)
    before = embed(engine, TEXTS)
    (folder / "model.safetensors").write_bytes(encode_safetensors(make_tensors(seed=5)))
    with pytest.raises(ModelFileError, match="others than were loaded"):
        engine.move("cpu", precision="bfloat16")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFileError):
        engine.move("cpu", precision="bfloat16")
    assert np.array_equal(embed(engine, TEXTS), before)


def test_a_move_without_room_is_refused(tmp_path: Path) -> None:
    engine = open_tiny(tiny(tmp_path / "tiny"), budget=Noted(refusing="move"))
    with pytest.raises(BudgetExceeded):
        engine.move("cpu", precision="bfloat16")
    assert engine.precision == "float32"


def test_threads_that_embed_while_models_move_and_load_see_whole_ones(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "tiny")
    engine = open_tiny(folder)
    ids = engine.encode(TEXTS, "passage").rows
    exact = engine.forward(ids)
    engine.move("cpu", precision="bfloat16")
    coarse = engine.forward(ids)
    engine.move("cpu", precision="float32")
    ended = threading.Event()

    def ask(_: int) -> list[int]:
        seen = [0, 0]
        while not ended.is_set():
            answer = engine.forward(ids)
            # Each answer is, to the bit, one of the two: nothing in between.
            kind = [np.array_equal(answer, each) for each in (exact, coarse)]
            assert any(kind), cosines(answer, exact)
            seen[kind.index(True)] += 1
        return seen

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, number) for number in range(8)]
        try:
            precisions: tuple[Precision, ...] = ("bfloat16", "float32") * 5
            for precision in precisions:
                engine.move("cpu", precision=precision)
                with pytest.raises(DeviceNotFound):
                    engine.move("cuda:9")
                other = open_tiny(folder)
                assert np.array_equal(other.forward(ids), exact)
                other.close()
        finally:
            ended.set()
        seen = np.array([answer.result() for answer in answers])
    assert (seen.sum(axis=0) > 0).all()
    assert np.array_equal(engine.forward(ids), exact)


# --- a device that runs out of memory -------------------------------------------------------------------------------


def out_of_memory_above(monkeypatch: pytest.MonkeyPatch, rows: int) -> list[int]:
    computed: list[int] = []
    compute = Placed._computed

    def limited(self: Placed, batch: Any, width: int) -> Any:
        computed.append(len(batch))
        if len(batch) > rows:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return compute(self, batch, width)

    monkeypatch.setattr(Placed, "_computed", limited)
    return computed


def test_out_of_memory_halves_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_tiny(tiny(tmp_path / "tiny"))
    texts = [f"alpha {letter} beta" for letter in "abcdefghi"]
    rows = engine.encode(texts, "passage").rows
    expected = engine.forward(rows)
    at_first = engine.batch_tokens
    computed = out_of_memory_above(monkeypatch, 2)
    assert np.allclose(engine.forward(rows), expected, atol=1e-6)
    assert computed == [9, 5, 3, 2, 1, 2, 4, 2, 2]
    assert engine.batch_tokens < at_first  # later batches are smaller from the start
    computed.clear()
    assert cosines(embed(engine, texts), expected).min() >= 0.9999
    assert max(computed) <= 2


def test_out_of_memory_for_one_text_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_tiny(tiny(tmp_path / "tiny"))
    rows = engine.encode(["alpha b", "c"], "passage").rows
    out_of_memory_above(monkeypatch, 0)
    with pytest.raises(EmbeddingFailed, match=r"no memory for one text of 4 tokens.*embed\.device to cpu"):
        engine.forward(rows)
    monkeypatch.undo()
    assert np.isfinite(engine.forward(rows)).all()


def test_what_cuda_takes_of_the_process_is_reserved_first(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: bool(made))
    monkeypatch.setattr(import_module("torch"), "zeros", lambda _, device: made.append(device))
    with pytest.raises(BudgetExceeded, match="begin CUDA for cuda:0"):
        placement.begin("cuda:0", Noted(refusing="begin CUDA"))
    assert not made
    placement.begin("cpu", Unbudgeted())
    placement.begin("cuda:0", Unbudgeted())
    placement.begin("cuda:1", Unbudgeted())  # begun: no room is needed again
    assert made == ["cuda:0"]


def test_weights_for_which_the_device_has_no_memory_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny(tmp_path / "tiny")
    read = Weights.read

    def full(self: Weights, name: str, device: str, dtype: Any) -> Any:
        if "layer.1" in name:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return read(self, name, device, dtype)

    monkeypatch.setattr(Weights, "read", full)
    with pytest.raises(ModelError, match=r"no memory on cpu for the model 'tiny': .*Tried to allocate 2.00 GiB"):
        open_tiny(folder)


def test_the_cache_of_a_device_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's own functions stand in for a device that is not here."""
    reserved = [900, 250]
    emptied: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved.pop(0))
    monkeypatch.setattr(torch.cuda, "device", lambda device: threading.Lock())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append("cache"))
    clear = "_cuda_clearCublasWorkspaces"  # not in torch's builds for the CPU
    monkeypatch.setattr(import_module("torch._C"), clear, lambda: emptied.append("work space"), raising=False)
    assert placement.release_cached("cuda:0") == 650
    assert emptied == ["work space", "cache"]
    assert placement.release_cached("cpu") == 0
