"""A cross-encoder through ONNX Runtime: a model's folder with `tokenizer.json` and an ONNX file with one logit a pair.

The folder is as sentence-transformers and transformers write them: `model.onnx`, in it or in its `onnx`, and, where
they say how long a pair may be, `config.json` and `tokenizer_config.json`. Pairs are cut at that, the longer side
first, and computed in batches of like lengths, padded and masked, each reserved with the governor before it runs: so a
pair's score is the same alone and beside others, but for the last bits of a sum.

The score is the logit, as it is. The model is opened with the first question, within a reservation, and let go when it
was not used for `embed.keep_alive_s`, or when memory is short.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embank.embed.engines.onnx import OnnxRuntime, import_runtime
from embank.errors import ModelFileError
from embank.memory.governor import Governor
from embank.store.index.protocol import Float32
from embank.system.background import Background
from embank.system.clock import Clock

if TYPE_CHECKING:
    from tokenizers import Encoding

MAX_TOKENS = 512
"""Of a pair, where the model's files don't say."""

_BATCH_TOKENS = 1_024
_BYTES_A_TOKEN = 32 << 10
"""Working memory of a padded token: activations of an encoder of 12 layers and 768 wide were put at less."""
_OPEN_BYTES = 16 << 20
"""The runtime's and the tokenizer's own, beside the weights."""
_CHARACTERS_A_TOKEN = 16
"""More of a text can't matter: it is cut before the tokenizer sees it."""
_FILES = ("model.onnx", "onnx/model.onnx")


class CrossEncoder:
    """See the module; follows `Reranker` and the governor's `Consumer`. Thread-safe."""

    def __init__(self, folder: Path, *, governor: Governor, clock: Clock, keep_alive_s: float | None) -> None:
        """Find the files; nothing is opened yet. Raises `ModelFileError`, and `MissingExtra` without ONNX Runtime."""
        self._runtime = import_runtime()
        self._file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
        self._tokenizer_file = folder / "tokenizer.json"
        if self._file is None or not self._tokenizer_file.is_file():
            raise ModelFileError(
                f"{folder} is no cross-encoder: there must be tokenizer.json, and model.onnx or onnx/model.onnx",
                path=str(folder),
            )
        self.name = f"reranker {folder.name}"
        self._max_tokens = _max_tokens(folder)
        self._bytes = _OPEN_BYTES + self._file.stat().st_size
        self._governor, self._clock, self._keep_alive_s = governor, clock, keep_alive_s
        self._lock = threading.Lock()
        self._opened: tuple[OnnxRuntime, Any] | None = None
        self._in_use, self._used_s = 0, 0.0
        self._thread = Background("embank-reranker-idle", self._rest, clock=clock)
        self._registration = governor.register(self, rung="unload")

    def score(self, query: str, texts: Sequence[str]) -> Float32:
        """The logit of each pair. Raises `BudgetExceeded`, and `ModelFileError` for a model that gives no such."""
        scores = np.empty(len(texts), np.float32)
        if not texts:
            return scores
        session, tokenizer = self._enter()
        try:
            cut = self._max_tokens * _CHARACTERS_A_TOKEN
            pairs = tokenizer.encode_batch([(query[:cut], text[:cut]) for text in texts])
            for places in _batches([len(pair.ids) for pair in pairs]):
                scores[places] = self._logits(session, [pairs[place] for place in places])
        finally:
            self._leave()
        return scores

    def used_bytes(self) -> int:
        return self._bytes if self._opened is not None else 0

    def release(self, wanted_bytes: int) -> int:  # noqa: ARG002 -- it goes whole or not at all
        # Whoever opens or uses it is not to be waited for: it may be the one that asks.
        if not self._lock.acquire(blocking=False):
            return 0
        try:
            return self._let_go()
        finally:
            self._lock.release()

    def rebuild_cost(self) -> float:
        return 0.005  # 90 MB are opened in about half a second

    def close(self) -> None:
        """Let it go, and leave the governor."""
        self._thread.close()
        with self._lock:
            self._let_go()
        self._registration.close()

    def _enter(self) -> tuple[OnnxRuntime, Any]:
        with self._lock:
            if self._opened is None:
                with self._governor.reserve(f"load {self.name}", self._bytes, wait_s=60.0):
                    self._opened = self._open()
            self._in_use += 1
            return self._opened

    def _leave(self) -> None:
        with self._lock:
            self._in_use -= 1
            self._used_s = self._clock.monotonic()
        if self._keep_alive_s is not None:
            self._thread.wake()

    def _rest(self) -> float | None:
        """Let it go where its time has come; else say when that will be."""
        with self._lock:
            if self._opened is None or self._keep_alive_s is None:
                return None
            due_s = self._used_s + self._keep_alive_s
            if self._in_use or self._clock.monotonic() < due_s:
                return due_s if not self._in_use else None
            self._let_go()
            return None

    def _let_go(self) -> int:
        if self._opened is None or self._in_use:
            return 0
        session, _ = self._opened
        self._opened = None
        session.close()
        return self._bytes

    def _open(self) -> tuple[OnnxRuntime, Any]:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(self._tokenizer_file))
        except Exception as error:  # the library raises bare Exception
            raise ModelFileError(f"{self._tokenizer_file} is no tokenizer: {error}") from error
        tokenizer.no_padding()
        tokenizer.enable_truncation(self._max_tokens, strategy="longest_first")
        return OnnxRuntime(Path(str(self._file)), device="cpu", runtime=self._runtime), tokenizer

    def _logits(self, session: OnnxRuntime, pairs: Sequence[Encoding]) -> Float32:
        width = max(len(pair.ids) for pair in pairs)
        with self._governor.reserve(f"compute {self.name}", len(pairs) * width * _BYTES_A_TOKEN, wait_s=60.0):
            ids, mask, kinds = (np.zeros((len(pairs), width), np.int64) for _ in range(3))
            for row, pair in enumerate(pairs):
                ids[row, : len(pair.ids)] = pair.ids
                mask[row, : len(pair.ids)] = 1
                kinds[row, : len(pair.ids)] = pair.type_ids
            answer = np.asarray(session.run(ids, mask, kinds), np.float32)
        if answer.size != len(pairs):
            raise ModelFileError(
                f"{self._file} gives an answer of shape {answer.shape} for {len(pairs)} pairs; a reranker gives one "
                f"logit a pair",
                path=str(self._file),
            )
        return answer.reshape(len(pairs))


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Places of the pairs, the longest first, in batches of at most `_BATCH_TOKENS` padded tokens, or of one pair."""
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda each: (-lengths[each], each)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= _BATCH_TOKENS:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def _max_tokens(folder: Path) -> int:
    """The least of what the model's files say of the length of a text."""
    said = [MAX_TOKENS]
    for name, key in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
        path = folder / name
        if path.is_file():
            try:
                value = json.loads(path.read_text(encoding="utf-8")).get(key)
            except (ValueError, AttributeError) as error:
                raise ModelFileError(f"{path} is damaged: {error}", path=str(path)) from error
            if isinstance(value, int) and value > 0:
                said.append(value)
    return min(said)
