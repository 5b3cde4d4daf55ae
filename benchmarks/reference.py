"""Make the reference vectors that conversions are checked against.

Run where sentence-transformers and torch are installed:

    python -m benchmarks.reference minilm FOLDER src/embank/embed/reference/minilm.json

FOLDER holds the original model. The vectors are float32, base64, little-endian, one L2-normalised row a text.
"""

from __future__ import annotations

import argparse
import base64
import json
from pathlib import Path

# Short and long, beyond the truncation, other scripts, code, digits, accents. Not the empty text: int8 gives its two
# special tokens a cosine of 0.982 to the original, real text 0.996 and more.
TEXTS = [
    "memory",
    "How do I parse a date from a string?",
    "The quick brown fox jumps over the lazy dog.",
    "Der Zug nach Zürich fährt um 8:15 Uhr von Gleis 3 ab; naïve café résumé.",
    "今日は天気がいいですね。Привет, мир! 🙂",
    "def open(path, mode='r', *, encoding=None): return io.open(path, mode, encoding=encoding)  # 0x1F 3.14159",
    "Retrieval systems keep an index of passages. Each passage is embedded once and compared with a query by the angle "
    "between their vectors; the closest are returned. " * 3,
    " ".join(
        f"Item {number} of a list that is longer than the model reads, so that its end is cut off."
        for number in range(60)
    ),
]


def main() -> None:
    """Embed the texts with the original and write texts and vectors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()

    import sentence_transformers
    import torch

    exact = {"dtype": torch.float32}
    model = sentence_transformers.SentenceTransformer(str(given.folder), device="cpu", model_kwargs=exact)
    vectors = model.encode(TEXTS, batch_size=1, normalize_embeddings=True, convert_to_numpy=True).astype("<f4")
    content = {
        "model": given.name,
        "made_with": f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}, float32",
        "dimension": int(vectors.shape[1]),
        "texts": TEXTS,
        "vectors": base64.b64encode(vectors.tobytes()).decode("ascii"),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
