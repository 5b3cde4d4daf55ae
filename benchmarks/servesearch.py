"""The same documents with the same vectors in a bank and in a server of Chroma, and how well both find them.

Both are filled once and kept under .build/; the vectors are those of `benchmarks.embedded`, the questions its words.
"""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import embank
from benchmarks import servers
from benchmarks.embedded import Float32, corpus, embedded, nearest, say

K = 10
SEARCH = "/collections/wordnet/search"
ROOM = Path(__file__).parents[1] / ".build" / "serve"

_BLOCK = 2_000
_TIE = 1e-3
"""What storing vectors in halved precision changes of a score."""
_CHROMA = "/api/v2/tenants/default_tenant/databases/default_database/collections"


class Lot:
    """So many documents, all if not told how many, and the questions."""

    def __init__(self, documents: int | None) -> None:
        self.corpus = corpus(documents)
        self._vectors, self._asked = embedded(self.corpus)
        ROOM.mkdir(parents=True, exist_ok=True)
        self._name = f"{self.corpus.room.name}-{len(self.corpus.texts)}"

    def bank(self) -> Path:
        """The bank with all of them, their index built."""
        path, done = ROOM / f"{self._name}.bank", ROOM / f"{self._name}.done"
        if not done.exists():
            shutil.rmtree(path, ignore_errors=True)
            with embank.open(path) as bank:
                collection = bank.collection("wordnet")
                for first in range(0, len(self.corpus.texts), _BLOCK):
                    rows = self._rows(first)
                    collection.add([{"id": name, "text": text} for name, text in rows], vectors=self._wide(first))
                say(f"indexed: {collection.vector_index.refresh()}")
            done.touch()
        return path

    def chroma(self, room: Path) -> servers.Server | None:
        """Chroma's server with all of them."""
        folder, done = ROOM / f"{self._name}-chroma", ROOM / f"{self._name}-chroma.done"
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
        server = servers.chroma(folder, room)
        if server is None:
            return None
        if not done.exists():
            configuration = {"hnsw": {"space": "cosine"}}
            made = _told(server.port, _CHROMA, {"name": "wordnet", "configuration": configuration})
            for first in range(0, len(self.corpus.texts), _BLOCK):
                ids, texts = zip(*self._rows(first), strict=True)
                vectors = self._wide(first).tolist()
                told = {"ids": ids, "embeddings": vectors, "documents": texts}
                _told(server.port, f"{_CHROMA}/{made['id']}/add", told)
            done.write_text(made["id"])
            say("Chroma is filled")
            with server:  # what it is asked with has what one has after a restart
                pass
            return self.chroma(room)
        server.path = f"{_CHROMA}/{done.read_text()}/query"
        return server

    def asked_of_embank(self, room: Path) -> Path:
        """Bodies of requests."""
        return self._bodies(room / "embank-asked.json", [{"vector": row.tolist(), "k": K} for row in self._asked])

    def asked_of_chroma(self, room: Path) -> Path:
        """Bodies of requests: texts and distances are asked for, as Embank gives them."""
        include = ["documents", "distances"]
        asked = [{"query_embeddings": [row.tolist()], "n_results": K, "include": include} for row in self._asked]
        return self._bodies(room / "chroma-asked.json", asked)

    def recall(self, found: Sequence[Sequence[int]]) -> float:
        """Recall@10 of answers to all questions, in their order: what scores as well as the tenth counts."""
        least = self._exact[:, -1] - _TIE
        shares = []
        for rows, query, enough in zip(found, self._asked, least, strict=True):
            scores = self._vectors[list(rows)].astype(np.float32) @ query
            shares.append(min(int((scores >= enough).sum()), K) / K)
        return float(np.mean(shares))

    @cached_property
    def _exact(self) -> Float32:
        return nearest(self._vectors, self._asked, K)[1]

    def _rows(self, first: int) -> list[tuple[str, str]]:
        past = min(first + _BLOCK, len(self.corpus.texts))
        return [(str(number), self.corpus.texts[number]) for number in range(first, past)]

    def _wide(self, first: int) -> Float32:
        return self._vectors[first : first + _BLOCK].astype(np.float32)

    def _bodies(self, path: Path, asked: list[dict[str, Any]]) -> Path:
        path.write_text(json.dumps([json.dumps(each) for each in asked]))
        return path


def ids_of_embank(answer: dict[str, Any]) -> list[int]:
    """What was found."""
    return [int(hit["id"]) for hit in answer["hits"]]


def ids_of_chroma(answer: dict[str, Any]) -> list[int]:
    """What was found."""
    return [int(each) for each in answer["ids"][0]]


def _told(port: int, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310 -- this machine's own http
        return json.load(answer)
