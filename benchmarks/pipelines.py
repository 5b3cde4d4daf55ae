"""The same work by different pipelines, each in a process of its own: `python -m benchmarks.pipelines NAME …`.

NAME is one of `embank`, `onnxruntime` (plain ONNX Runtime, an unbounded dict of vectors as cache, HNSW by FAISS),
`fastembed-chroma`, `sentence-transformers-chroma`. Arguments: NAME CORPUS QUERIES ROOM MODEL, where CORPUS holds a JSON
object `{"id", "text"}` a line, QUERIES one a line, ROOM is an empty folder and MODEL the folder of the model's files
(unused by Embank, which has its own).

The work: passages are added 100 at a time; after each hundred come ten searches, of questions that recur (the earlier
ones more often). Then every document is got again by its id and compared, and 50 of them are searched for by their own
text, and must be among the first 20. The passages are read from a file as they are needed: what is held is the
pipeline's. The last line printed is one JSON object.

Embank is given 95 % of whatever limit it finds itself in, and is the only one that knows of it. The others embed in
batches of 32; Chroma and FAISS have their defaults (HNSW of 32 links). A peer's environment has no Embank: what is
imported at the top, all of them have.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

AT_ONCE = 100
SEARCHES = 10
SAMPLE = 50
DEPTH = 20
SHARE = "95%"
_BATCH = 32
_THREADS = 2


class Pipeline(Protocol):
    """What takes part."""

    def add(self, ids: Sequence[str], texts: Sequence[str]) -> None: ...

    def search(self, query: str, k: int) -> list[str]: ...

    def get(self, ids: Sequence[str]) -> list[str]: ...

    def count(self) -> int: ...

    def close(self) -> None: ...


class Embank:
    """A bank on disk."""

    def __init__(self, room: Path, model: Path) -> None:  # noqa: ARG002 -- it has its own files
        from embank.memory import hygiene

        hygiene.apply()
        import embank

        self._bank = embank.open(room / "pipeline.bank", memory=SHARE, own_process=True)
        self._notes = self._bank.collection("passages")

    def add(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        self._notes.add([{"id": name, "text": text} for name, text in zip(ids, texts, strict=True)])

    def search(self, query: str, k: int) -> list[str]:
        return [hit.id for hit in self._notes.search(query, k=k)]

    def get(self, ids: Sequence[str]) -> list[str]:
        return [document.text for document in self._notes.get(ids)]

    def count(self) -> int:
        return self._notes.count()

    def close(self) -> None:
        self._bank.close()


class OnnxRuntime:
    """As it is written by hand: a session with its defaults, mean pooling, a dict as cache, vectors in a graph."""

    def __init__(self, room: Path, model: Path) -> None:  # noqa: ARG002 -- it keeps all in memory
        import faiss
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _THREADS
        self._session = onnxruntime.InferenceSession(str(model / "model.onnx"), options)
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._tokenizer.enable_truncation(256)
        self._tokenizer.enable_padding()
        faiss.omp_set_num_threads(_THREADS)
        self._index = faiss.IndexHNSWFlat(384, 32, faiss.METRIC_INNER_PRODUCT)
        self._cache: dict[str, Vectors] = {}
        self._texts: dict[str, str] = {}
        self._ids: list[str] = []

    def add(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        self._index.add(self._embed(texts))
        self._ids.extend(ids)
        self._texts.update(zip(ids, texts, strict=True))

    def search(self, query: str, k: int) -> list[str]:
        _, found = self._index.search(self._embed([query]), k)
        return [self._ids[number] for number in found[0] if number >= 0]

    def get(self, ids: Sequence[str]) -> list[str]:
        return [self._texts[name] for name in ids]

    def count(self) -> int:
        return int(self._index.ntotal)

    def close(self) -> None:
        pass  # nothing of it is kept

    def _embed(self, texts: Sequence[str]) -> Vectors:
        import numpy as np

        missing = [text for text in dict.fromkeys(texts) if text not in self._cache]
        for at in range(0, len(missing), _BATCH):
            batch = missing[at : at + _BATCH]
            encoded = self._tokenizer.encode_batch(batch)
            ids = np.array([each.ids for each in encoded], np.int64)
            mask = np.array([each.attention_mask for each in encoded], np.int64)
            (states,) = self._session.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": mask})
            weights = mask[:, :, None].astype(np.float32)
            means = (states * weights).sum(axis=1) / weights.sum(axis=1)
            means /= np.linalg.norm(means, axis=1, keepdims=True)
            # Copied, so that a row does not keep its whole batch.
            self._cache.update((text, row.copy()) for text, row in zip(batch, means, strict=True))
        return np.stack([self._cache[text] for text in texts])


class InChroma:
    """Vectors of some library, kept by Chroma on disk."""

    def __init__(self, room: Path, embed: Callable[[Sequence[str]], Vectors]) -> None:
        import chromadb

        self._embed = embed
        settings = chromadb.config.Settings(anonymized_telemetry=False)
        client = chromadb.PersistentClient(str(room / "chroma"), settings=settings)
        self._passages = client.create_collection(
            "passages", metadata={"hnsw:space": "cosine"}, embedding_function=None
        )

    def add(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        self._passages.add(ids=list(ids), documents=list(texts), embeddings=self._embed(texts))

    def search(self, query: str, k: int) -> list[str]:
        found = self._passages.query(query_embeddings=self._embed([query]), n_results=k, include=["distances"])
        return list(found["ids"][0])

    def get(self, ids: Sequence[str]) -> list[str]:
        found = self._passages.get(ids=list(ids), include=["documents"])
        texts = dict(zip(found["ids"], found["documents"] or [], strict=True))
        return [texts[name] for name in ids]

    def count(self) -> int:
        return int(self._passages.count())

    def close(self) -> None:
        pass  # it has no such thing; what was added is on the disk


def _fastembed(room: Path, model: Path) -> Pipeline:
    import numpy as np
    from fastembed import TextEmbedding

    embedder = TextEmbedding("sentence-transformers/all-MiniLM-L6-v2", specific_model_path=str(model), threads=_THREADS)
    return InChroma(
        room, lambda texts: np.array(list(embedder.embed(list(texts), batch_size=_BATCH)), dtype=np.float32)
    )


def _sentence_transformers(room: Path, model: Path) -> Pipeline:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(_THREADS)
    embedder = SentenceTransformer(str(model), device="cpu")
    return InChroma(room, lambda texts: embedder.encode(list(texts), batch_size=_BATCH, normalize_embeddings=True))


PIPELINES: dict[str, Callable[[Path, Path], Pipeline]] = {
    "embank": Embank,
    "onnxruntime": OnnxRuntime,
    "fastembed-chroma": _fastembed,
    "sentence-transformers-chroma": _sentence_transformers,
}


def windows(corpus: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Ids and texts, so many at a time."""
    with corpus.open() as lines:
        while window := list(itertools.islice(lines, AT_ONCE)):
            rows = [json.loads(line) for line in window]
            yield [row["id"] for row in rows], [row["text"] for row in rows]


def work(pipeline: Pipeline, corpus: Path, queries: Sequence[str]) -> dict[str, Any]:
    """Do all of it; what was stored and found."""
    chosen = random.Random(7)
    began = time.perf_counter()
    added = searches = answered = 0
    for ids, texts in windows(corpus):
        pipeline.add(ids, texts)
        added += len(ids)
        for _ in range(SEARCHES):
            query = queries[int(len(queries) * chosen.random() ** 2)]
            answered += bool(pipeline.search(query, 5))
            searches += 1
    worked_s = time.perf_counter() - began
    sample = set(chosen.sample(range(added), min(SAMPLE, added)))
    found = searched = number = 0
    for ids, texts in windows(corpus):
        found += sum(got == text for got, text in zip(pipeline.get(ids), texts, strict=True))
        for name, text in zip(ids, texts, strict=True):
            searched += number in sample and name in pipeline.search(text, DEPTH)
            number += 1
    return {
        "passages": added,
        "stored": pipeline.count(),
        "found": found,
        "searches": searches,
        "answered": answered,
        "sample": len(sample),
        "found_by_search": searched,
        "seconds": worked_s,
    }


def main() -> None:
    """Run one pipeline."""
    name, corpus, queries, room, model = sys.argv[1:]
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    pipeline = PIPELINES[name](Path(room), Path(model))
    done = work(pipeline, Path(corpus), Path(queries).read_text().splitlines())
    pipeline.close()
    print(json.dumps(done), file=answers, flush=True)


if __name__ == "__main__":
    main()
