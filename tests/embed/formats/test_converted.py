"""Conversion as users meet it: the child, its memory, what is kept, and what happens when something is wrong."""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.embed.tiny_bert import make_folder, make_tensors, write_json

from embank.embed.files.catalog import MINILM, KnownModel
from embank.embed.files.checksum import sha256_of
from embank.embed.files.locate import locate
from embank.embed.formats.converted import CHILD_BYTES, CONVERTER_VERSION
from embank.embed.formats.manifest import read_manifest
from embank.embed.loader import Loader
from embank.embed.settings import Settings
from embank.errors import BudgetExceeded, ModelError, ModelFileError, ModelNotFound
from embank.events.kinds import Event, ModelConversionStarted, ModelConverted
from embank.memory.governor import Governor
from embank.registry import ENGINES, resolve
from embank.system.process import run_child

if TYPE_CHECKING:
    from embank.embed.formats.ctformat import Precision


class Heard:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def publish(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def loader_of(models: Path, heard: Heard, **more: Any) -> Loader:
    # As in a process of its own: with engines that no other loader has open.
    return Loader(
        Settings(directory=models, threads=1), stream=heard, engine_of=lambda name: resolve(ENGINES, name), **more
    )


def folders(models: Path) -> list[str]:
    """Everything in the models folder but lock files."""
    return sorted(path.name for path in models.iterdir() if not path.name.endswith(".lock"))


# --- what a conversion leaves ---------------------------------------------------------------------------------------


def test_a_folder_is_converted_once_and_then_only_opened(tmp_path: Path, models: Path, heard: Heard) -> None:
    folder = make_folder(tmp_path / "tiny")
    with_first = loader_of(models, heard).get(str(folder)).embed(["alpha b c"])
    weights = sha256_of(folder / "model.safetensors")
    assert folders(models) == [f"tiny-{weights[:12]}-int8-v{CONVERTER_VERSION}"]
    manifest = read_manifest(models / folders(models)[0])
    assert manifest.sources["model.safetensors"] == weights
    assert set(manifest.files) == {"model.bin", "config.json", "vocabulary.json", "tokenizer.json"}
    assert np.array_equal(loader_of(models, heard).get(str(folder)).embed(["alpha b c"]), with_first)
    assert [event.precision for event in heard.of(ModelConversionStarted)] == ["int8"]
    (converted,) = heard.of(ModelConverted)
    assert converted.name == "tiny"
    assert 1 << 20 < converted.peak_bytes < CHILD_BYTES


def test_each_precision_is_a_model_of_its_own(tmp_path: Path, models: Path, heard: Heard) -> None:
    folder = make_folder(tmp_path / "tiny")
    loader = loader_of(models, heard)
    prints = {loader.get(str(folder), precision=precision).fingerprint for precision in ("int8", "float32")}
    assert len(prints) == 2
    assert len(folders(models)) == 2


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_the_child_stays_within_what_is_reserved_for_it(
    minilm_files: Path, tmp_path: Path, precision: Precision
) -> None:
    """Measured from outside at 100 Hz and more, on the real model of 90 MB."""
    seen = [0]
    ended = threading.Event()

    def watch(pid: int) -> None:
        while not ended.is_set():
            try:
                status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
            except OSError:
                return
            seen.extend(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon"))
            time.sleep(0.005)

    if not Path("/proc/self/status").exists():
        pytest.skip("anonymous memory is measured through /proc")
    lines: list[str] = []
    watcher: list[threading.Thread] = []

    def on_start(pid: int) -> None:
        watcher.append(threading.Thread(target=watch, args=(pid,)))
        watcher[0].start()

    arguments = ["--source", str(minilm_files), "--target", str(tmp_path), "--precision", precision]
    result = run_child(
        "embank.embed.formats.convert",
        arguments,
        on_line=lines.append,
        environ={"OPENBLAS_NUM_THREADS": "1"},
        timeout_s=120,
        on_start=on_start,
    )
    ended.set()
    watcher[0].join()
    assert result.returncode == 0, result.stderr_tail
    assert len(seen) > 5
    assert max(seen) < CHILD_BYTES
    assert '"done": true' in lines[-1]


def test_interrupted_conversions_leave_nothing_behind(tmp_path: Path, models: Path, heard: Heard) -> None:
    folder = make_folder(tmp_path / "tiny")
    target = f"tiny-{sha256_of(folder / 'model.safetensors')[:12]}-int8-v{CONVERTER_VERSION}"
    stale = models / f".{target}.4242.tmp"
    stale.mkdir(parents=True)
    (stale / "model.bin").write_bytes(b"half")
    loader_of(models, heard).get(str(folder))
    assert folders(models) == [target]


def test_loaders_that_want_the_same_at_once_convert_it_once(tmp_path: Path, models: Path, heard: Heard) -> None:
    folder = make_folder(tmp_path / "tiny")
    with ThreadPoolExecutor(4) as pool:
        vectors = list(pool.map(lambda _: loader_of(models, heard).get(str(folder)).embed(["a"]), range(4)))
    assert all(np.array_equal(vectors[0], other) for other in vectors)
    assert len(heard.of(ModelConverted)) == 1
    assert len(folders(models)) == 1


# --- damage ---------------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: list[Callable[[Path], None]] = [truncate, alter, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["model.bin", "tokenizer.json", "manifest.json"])
def test_a_damaged_conversion_is_made_again(
    models: Path, heard: Heard, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_folder(models.parent / "tiny")
    expected = loader_of(models, heard).get(str(folder)).embed(["alpha"])
    damage(models / folders(models)[0] / name)
    if name == "manifest.json" and damage is alter:
        (models / folders(models)[0] / name).write_text('{"format": 99}')
    with caplog.at_level("WARNING", logger="embank"):
        assert np.array_equal(loader_of(models, heard).get(str(folder)).embed(["alpha"]), expected)
    assert "converting tiny again" in caplog.text
    assert len(heard.of(ModelConverted)) == 2
    assert len(folders(models)) == 1


def known_tiny(folder: Path, **changes: Any) -> KnownModel:
    """A catalogue entry for a made-up model, found in no package."""
    files = {name: sha256_of(folder / name) for name in ("model.safetensors", "config.json", "tokenizer.json")}
    entry = dataclasses.replace(
        MINILM,
        name="tiny",
        aliases=(),
        files=files,
        dimensions=(16,),
        package="package_of_tiny",
        package_folder="model",
        revision="0123456789abcdef",
    )
    return dataclasses.replace(entry, **changes)


@pytest.fixture
def known(tmp_path: Path, models: Path) -> KnownModel:
    """A known model whose files lie where `models pull` puts them."""
    entry = known_tiny(make_folder(models / "tiny-0123456789ab"))
    assert locate("tiny", directory=models, known={"tiny": entry}).folder == models / "tiny-0123456789ab"
    return entry


def test_a_converted_model_needs_no_source(models: Path, heard: Heard, known: KnownModel) -> None:
    expected = loader_of(models, heard, known={"tiny": known}).get("tiny").embed(["alpha"])
    shutil.rmtree(models / "tiny-0123456789ab")
    assert np.array_equal(loader_of(models, heard, known={"tiny": known}).get("tiny").embed(["alpha"]), expected)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_conversion_without_source_is_refused(
    models: Path, heard: Heard, known: KnownModel, damage: Callable[[Path], None]
) -> None:
    loader_of(models, heard, known={"tiny": known}).get("tiny")
    shutil.rmtree(models / "tiny-0123456789ab")
    damage(models / folders(models)[0] / "model.bin")
    with pytest.raises(ModelFileError, match=r"model\.bin .*source is not here: .*embank models pull tiny"):
        loader_of(models, heard, known={"tiny": known}).get("tiny")


def test_neither_source_nor_conversion(models: Path, heard: Heard, known: KnownModel) -> None:
    shutil.rmtree(models / "tiny-0123456789ab")
    with pytest.raises(ModelNotFound, match="embank models pull tiny"):
        loader_of(models, heard, known={"tiny": known}).get("tiny")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_source_that_is_not_the_published_one_is_refused(
    models: Path, heard: Heard, known: KnownModel, name: str
) -> None:
    alter(models / "tiny-0123456789ab" / name)
    with pytest.raises(ModelFileError, match=rf"{name} is not the file that the authors .* published"):
        loader_of(models, heard, known={"tiny": known}).get("tiny")
    assert folders(models) == ["tiny-0123456789ab"]


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_source_is_refused_by_name(tmp_path: Path, models: Path, heard: Heard, part: float) -> None:
    folder = make_folder(tmp_path / "tiny")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: int(weights.stat().st_size * part)])
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        loader_of(models, heard).get(str(folder))
    assert folders(models) == []


def test_missing_weights_are_named(tmp_path: Path, models: Path, heard: Heard) -> None:
    folder = make_folder(tmp_path / "tiny")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"model\.safetensors can't be read"):
        loader_of(models, heard).get(str(folder))


def test_a_missing_tokenizer_is_named(tmp_path: Path, models: Path, heard: Heard) -> None:
    folder = make_folder(tmp_path / "tiny")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelFileError, match=r"no tokenizer: .*tokenizer\.json is missing"):
        loader_of(models, heard).get(str(folder))


def test_another_architecture_is_named(tmp_path: Path, models: Path, heard: Heard) -> None:
    folder = make_folder(tmp_path / "tiny", model_type="mpnet")
    with pytest.raises(ModelFileError, match="architecture 'mpnet'"):
        loader_of(models, heard).get(str(folder))


def test_changed_configuration_makes_another_model(tmp_path: Path, models: Path, heard: Heard) -> None:
    folder = make_folder(tmp_path / "tiny")
    mean = loader_of(models, heard).get(str(folder))
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": "cls"})
    cls = loader_of(models, heard).get(str(folder))
    assert mean.fingerprint != cls.fingerprint
    assert not np.allclose(mean.embed(["alpha b c"]), cls.embed(["alpha b c"]), atol=1e-3)


def test_a_model_that_computes_wrongly_is_refused_and_removed(models: Path, heard: Heard, minilm_files: Path) -> None:
    """Under the name of MiniLM, with MiniLM's tokenizer and configuration, but with other weights."""
    folder = models / "minilm-0123456789ab"
    shutil.copytree(minilm_files, folder)
    content = bytearray((folder / "model.safetensors").read_bytes())
    half = len(content) // 2
    content[half : half + (1 << 22)] = content[half + (1 << 22) : half + (2 << 22)]
    (folder / "model.safetensors").write_bytes(content)
    files = {name: sha256_of(folder / name) for name in MINILM.files}
    entry = dataclasses.replace(MINILM, files=files, revision="0123456789abcdef")
    with pytest.raises(ModelFileError, match=r"is refused: its vectors agree .* to a cosine of") as caught:
        loader_of(models, heard, known={"minilm": entry}).get("minilm")
    assert caught.value.fields["cosine"] < 0.985
    assert folders(models) == ["minilm-0123456789ab"]
    assert heard.of(ModelConverted) == []


# --- no room --------------------------------------------------------------------------------------------------------


def test_a_conversion_that_does_not_fit_the_budget_is_not_begun(tmp_path: Path, models: Path, heard: Heard) -> None:
    folder = make_folder(tmp_path / "tiny")
    governor = Governor(1 << 20, baseline_bytes=1 << 40)
    with pytest.raises(BudgetExceeded, match="convert tiny"):
        loader_of(models, heard, governor=governor).get(str(folder))
    assert folders(models) == []


def test_a_folder_that_cant_be_written_is_named(tmp_path: Path, heard: Heard) -> None:
    folder = make_folder(tmp_path / "tiny")
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(ModelFileError, match=r"embed\.directory"):
        loader_of(blocked / "models", heard).get(str(folder))


def test_a_child_that_dies_is_told(tmp_path: Path, models: Path, heard: Heard, monkeypatch: Any) -> None:
    folder = make_folder(tmp_path / "tiny", tensors=make_tensors())
    with monkeypatch.context() as patch:
        # A child that can't import numpy: as on a machine whose installation is broken.
        broken = tmp_path / "broken" / "numpy"
        broken.mkdir(parents=True)
        (broken / "__init__.py").write_text("raise ImportError('numpy is broken here')")
        patch.setenv("PYTHONPATH", str(broken.parent))
        with pytest.raises(ModelError, match=r"converting 'tiny' failed: exit status 1: .*numpy is broken here"):
            loader_of(models, heard).get(str(folder))
    assert folders(models) == []
    assert loader_of(models, heard).get(str(folder)).dimension == 16
