"""Peers that can't live beside Embank's own dependencies: each in an environment of its own, made when first needed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOM = Path(__file__).parents[1] / ".build" / "peers"

PACKAGES = {
    "fastembed": ("fastembed==0.9.1",),
    "infinity": ("torch==2.13.0", "infinity-emb[torch,server]==0.0.78"),
}
"""Engines: what embeds."""

PIPELINES = {
    "onnxruntime": ("onnxruntime==1.32.0", "tokenizers==0.23.3", "faiss-cpu==1.15.1"),
    "fastembed-chroma": ("fastembed==0.9.1", "chromadb==1.5.9"),
    "sentence-transformers-chroma": ("torch==2.13.0", "sentence-transformers==6.2.0", "chromadb==1.5.9"),
}
"""Whole pipelines: what embeds, with what keeps and searches the vectors."""

SERVERS = {
    "fastembed-server": ("fastembed==0.9.1", "fastapi==0.165.0", "uvicorn[standard]==0.54.0", "orjson==3.13.0"),
}
"""What embeds over HTTP, beside Infinity, which brings its own server."""

INDEXES = {
    "chroma": ("chromadb==1.5.9",),
    "lancedb": ("lancedb==0.40.0",),
    "annoy": ("annoy==1.17.3", "numpy==2.4.6"),
    "usearch": ("usearch==2.26.6",),
}
"""What keeps and searches vectors that it is given."""


def python_of(peer: str) -> Path | None:
    """The interpreter of a peer's environment; None where it can't be installed, with the reason on standard error."""
    home = ROOM / peer
    python = home / "bin" / "python"
    if (home / "installed").exists():
        return python
    print(f"installing {peer} into {home} …", file=sys.stderr, flush=True)
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, *(PACKAGES | PIPELINES | INDEXES | SERVERS)[peer]], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        print(f"{peer} can't be installed: {done.stderr.strip()[-300:]}", file=sys.stderr)
        shutil.rmtree(home)
        return None
    (home / "installed").touch()
    return python
