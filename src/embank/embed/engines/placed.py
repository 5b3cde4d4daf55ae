"""A torch model where it stands, and one batch through it: padded, masked, pooled, and in halves where memory runs out.

Does not lock: whoever has it sees to it that it is not taken away under a batch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embank.embed.engines import placement
from embank.errors import EmbeddingFailed
from embank.system.log import get_logger

if TYPE_CHECKING:
    from embank.embed.engine import TokenIds
    from embank.embed.model import Fingerprint, Precision, Vectors

_log = get_logger(__name__)

# Measured in bfloat16: at one width 0.9999999 between alone and in a batch, at any width 0.99997.
_HALF_LENGTH_STEP = 16


@dataclass(slots=True)
class Placed:
    """Modules with their weights on `device`. `most_tokens` is what a batch may have since memory last ran out."""

    modules: Any
    device: str
    precision: Precision
    fingerprint: Fingerprint
    pad_id: int
    max_tokens: int
    most_tokens: int = sys.maxsize

    @property
    def length_step(self) -> int | None:
        """Half precision rounds another width differently, so that a text has one; see `Engine`."""
        return None if self.precision == "float32" else _HALF_LENGTH_STEP

    def batch_bytes(self, rows: int, width: int) -> int:
        """Measured on MiniLM in float32: states eight times, the widest layer three times, and the mask.

        Half precision is reckoned the same: sums and what follows the encoder are in float32. On CUDA that memory is
        the device's; of the process it takes the ids and the answer.
        """
        if self.device.startswith("cuda"):
            return rows * (width * 32 + self.fingerprint.dimension * 8)
        hidden, widest, scores = _sizes(next(self.modules.children()).model.config)
        return rows * width * (32 * hidden + 12 * widest + 8 * scores * width)

    def forward(self, batch: Sequence[TokenIds]) -> Vectors:
        """float32 (rows, dimension), pooled. Owns its memory.

        A batch for which the device has no memory is computed in halves, down to one row; then `EmbeddingFailed`.
        """
        import torch

        width = max(map(len, batch))
        try:
            return self._computed(batch, width)
        except torch.cuda.OutOfMemoryError as error:
            if len(batch) == 1:
                raise EmbeddingFailed(
                    f"{self.device} has no memory for one text of {width} tokens beside the model "
                    f"{self.fingerprint.name!r}: end what else uses the device, set embed.precision to bfloat16, or "
                    f"set embed.device to cpu",
                    model=self.fingerprint.name,
                    device=self.device,
                ) from error
        # Outside of the handler: the error's frames hold what the batch had taken.
        half = (len(batch) + 1) // 2
        self.most_tokens = max(half * width, 1)
        _log.warning("%s is out of memory at %d texts of %d tokens: in halves", self.device, len(batch), width)
        placement.release_cached(self.device)
        return np.concatenate([self.forward(batch[:half]), self.forward(batch[half:])])

    def _computed(self, batch: Sequence[TokenIds], width: int) -> Vectors:
        import torch

        if self.length_step is not None:
            width = min(-(-width // self.length_step) * self.length_step, max(self.max_tokens, width))
        ids = np.full((len(batch), width), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(batch), width), dtype=np.int64)
        for number, row in enumerate(batch):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        with torch.inference_mode():
            features: dict[str, Any] = {
                "input_ids": torch.from_numpy(ids).to(self.device),
                "attention_mask": torch.from_numpy(mask).to(self.device),
            }
            for number, module in enumerate(self.modules.children()):
                features = module(features)
                if number == 0:
                    # What follows is small: in float32 pooling rounds nothing away.
                    features["token_embeddings"] = features["token_embeddings"].float()
            pooled = features["sentence_embedding"].float().cpu().numpy()
        return np.array(pooled, dtype=np.float32)


def _sizes(config: Any) -> tuple[int, int, int]:
    """Width of the states, of the widest layer, and heads whose scores are held (one's, where attention is fused)."""
    hidden = int(getattr(config, "hidden_size", 0) or getattr(config, "d_model", 0) or 1024)
    names = ("intermediate_size", "hidden_dim", "d_ff")
    widest = next((getattr(config, name) for name in names if hasattr(config, name)), 0)
    heads = int(getattr(config, "num_attention_heads", 0) or 16)
    is_fused = getattr(config, "_attn_implementation", "eager") != "eager"
    return hidden, int(widest or 4 * hidden), 1 if is_fused else heads
