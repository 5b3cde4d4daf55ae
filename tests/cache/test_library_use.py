"""The example in docs/library.md runs as it stands, around somebody else's model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "library.md"

MODEL = """
import numpy as np

class Model:
    asked = []
    def encode(self, texts):
        self.asked.extend(texts)
        return np.array([[len(text), 1.0, 0.5] for text in texts])

model = Model()
"""

CHECKS = """
assert model.asked == ["Rivers carry silt.", "Glaciers carve valleys."], model.asked
assert embed(["Rivers carry silt."]).tolist() == [[18.0, 1.0, 0.5]]
assert dict(governor.snapshot().consumers)["embedding cache"] == cache.used_bytes() > 0
"""


def test_the_example_runs() -> None:
    example, *_ = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    told = subprocess.run(
        [sys.executable, "-c", MODEL + example + CHECKS], capture_output=True, text=True, check=False, timeout=60
    )
    assert told.returncode == 0, told.stderr
    hit_rate, real_bytes = told.stdout.split()
    assert float(hit_rate) == 1 / 3
    assert int(real_bytes) > 10_000_000
