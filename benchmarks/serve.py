"""The service against others, over HTTP: `python -m benchmarks.serve --json [PART …] [--documents N] [--pairs N]`.

embeddings  one short text a request, none asked for twice (glosses of WordNet), by 1 and by 16 clients; the same model,
            all-MiniLM-L6-v2, each as its server runs it: int8 here, float32 there. The peer is Infinity's server where
            it starts, else fastembed behind FastAPI; the other is measured as well
search      over N glosses of WordNet, 117,659 if not told otherwise, by the vectors of its words, the same for both:
            nothing is embedded, and neither loads a model. Chroma's server as `chroma run` starts it, its collection's
            parameters its own

*_ratio_vs_peer, *_ratio_vs_chroma   requests/s over theirs, the lesser of 1 and of 16 clients
*_p99_ratio…                         the 99th percentile of the time that an answer takes over theirs, the greater
*_memory_ratio…                      what the server's tree held at most (anonymous and shared) over theirs
search_recall_above_chroma_pp        recall@10 less theirs, in percentage points
*_low, *_high                        95 % interval of the median over the pairs (bootstrap)
*_cpu_ratio…                         processor time of the server for a request over theirs, the greater
mapped_mb, in detail                 the tree's PSS at the end: with files that are mapped, which the system may drop

Both servers run at the same time, and are asked in turn, so that what else the machine does hits both alike. The load
generator (`benchmarks.load`) is a process of its own beside them; `detail` says what it took, and how many requests a
second it makes of a server that does nothing. Embank's budget is 256 MB, and it keeps no answers of searches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import servers, servesearch
from benchmarks.embedded import corpus, say
from benchmarks.load import Load, Turn, Work
from benchmarks.report import Mark, interval, publish
from benchmarks.rivals import onnx_folder
from benchmarks.servers import Server

MARKS = {
    "embeddings_ratio_vs_peer": Mark(">=", 1.5),
    "embeddings_p99_ratio_vs_peer": Mark("<=", 1.0),
    "embeddings_memory_ratio_vs_peer": Mark("<=", 0.5),
    "search_ratio_vs_chroma": Mark(">=", 2.0),
    "search_memory_ratio_vs_chroma": Mark("<=", 0.25),
    "search_recall_above_chroma_pp": Mark(">=", 0.0),
}
CLIENTS = (1, 16)
BUDGET = "256MB"
MB = 1e6
_WARM_S = 1.5
_TEXTS = 100_000
_COMPARED = 64

Figures = dict[str, float | None]


@dataclass
class Arm:
    """One server, what it is asked, and what came of each turn by the number of clients."""

    server: Server
    bodies: Path
    again: bool = False
    """Whether bodies are sent anew when all were: for what keeps no answers."""
    mapped_bytes: int = 0
    """Of the server after the last turn."""
    turns: dict[int, list[Turn]] = field(default_factory=lambda: {clients: [] for clients in CLIENTS})
    cpu_ms: dict[int, list[float]] = field(default_factory=lambda: {clients: [] for clients in CLIENTS})

    def work(self, clients: int, seconds: float, *, answers: str = "", bodies: Path | None = None) -> Work:
        """A turn to be done."""
        again = self.again and bool(seconds)
        return Work(self.server.port, self.server.path, str(bodies or self.bodies), again, clients, seconds, answers)

    def turn(self, load: Load, clients: int, seconds: float) -> None:
        """Have one done, and keep what came of it."""
        before_s = self.server.cpu_s()
        made = load.run(self.work(clients, seconds))
        self.turns[clients].append(made)
        self.cpu_ms[clients].append(1e3 * (self.server.cpu_s() - before_s) / made.requests)
        self.mapped_bytes = self.server.mapped_bytes()

    def told(self) -> dict[str, Any]:
        """Medians over the turns."""
        return {
            "peak_mb": self.server.peak_bytes / MB,
            "mapped_mb": self.mapped_bytes / MB,
            **{
                f"{clients}_clients": {
                    "requests_per_s": statistics.median(each.rate for each in turns),
                    "p50_ms": statistics.median(each.p50_ms for each in turns),
                    "p99_ms": statistics.median(each.p99_ms for each in turns),
                    "cpu_ms_per_request": statistics.median(self.cpu_ms[clients]),
                    "generator_cpu_share": sum(each.cpu_s for each in turns) / sum(each.seconds for each in turns),
                }
                for clients, turns in self.turns.items()
            },
        }


def in_turn(load: Load, arms: Sequence[Arm], *, pairs: int, seconds: float) -> None:
    """Ask all servers in turn, `pairs` times, the first another each time."""
    for clients in CLIENTS:
        for arm in arms:
            load.run(arm.work(clients, _WARM_S))
        for number in range(pairs):
            for arm in arms if number % 2 == 0 else reversed(arms):
                arm.turn(load, clients, seconds)


def compared(name: str, peer: str, ours: Arm, theirs: Arm) -> Figures:
    """The ratios of one server to another: of each number of clients the less favourable."""
    figures: Figures = {}

    def put(key: str, of: Callable[[Arm, int], list[float]], worst: Callable[..., int]) -> None:
        ratios = {
            clients: [own / other for own, other in zip(of(ours, clients), of(theirs, clients), strict=True)]
            for clients in CLIENTS
        }
        for clients, each in ratios.items():
            figures[f"{key}_{clients}"] = statistics.median(each)
        decides: int = worst(CLIENTS, key=lambda clients: figures[f"{key}_{clients}"])
        figures[key] = figures[f"{key}_{decides}"]
        figures[f"{key}_low"], figures[f"{key}_high"] = interval(ratios[decides])

    put(f"{name}_ratio_vs_{peer}", lambda arm, clients: [turn.rate for turn in arm.turns[clients]], min)
    put(f"{name}_p99_ratio_vs_{peer}", lambda arm, clients: [turn.p99_ms for turn in arm.turns[clients]], max)
    put(f"{name}_cpu_ratio_vs_{peer}", lambda arm, clients: arm.cpu_ms[clients], max)
    figures[f"{name}_memory_ratio_vs_{peer}"] = ours.server.peak_bytes / theirs.server.peak_bytes
    return figures


def ceiling(load: Load, arm: Arm, room: Path) -> dict[str, float]:
    """Requests a second that the generator makes of a server that does nothing, with the same bodies and answers."""
    answer = room / "one.json"
    one = room / "one-body.json"
    one.write_text(json.dumps(json.loads(arm.bodies.read_text())[:1]))
    load.run(arm.work(1, 0, answers=str(answer), bodies=one))
    with servers.idle(len(json.loads(answer.read_text())[0].encode()), room) as server:
        idle = Arm(server, arm.bodies, again=True)
        return {f"{clients}_clients": load.run(idle.work(clients, 1.0)).rate for clients in CLIENTS}


def embeddings(given: argparse.Namespace, room: Path) -> tuple[Figures, dict[str, Any]]:
    """`/v1/embeddings` against whoever else serves it."""
    texts = corpus().texts[:_TEXTS]
    bodies, first = room / "texts.json", room / "first.json"
    bodies.write_text(json.dumps([json.dumps({"input": text, "model": "minilm"}) for text in texts]))
    first.write_text(json.dumps(json.loads(bodies.read_text())[-_COMPARED:]))
    figures: Figures = {}
    detail: dict[str, Any] = {"text_characters_mean": statistics.mean(map(len, texts))}
    with ExitStack() as running:
        load = running.enter_context(Load())
        own = running.enter_context(servers.embank(room / "embed.bank", room, f"memory.budget={BUDGET}"))
        arms = {"embank": Arm(own, bodies)}
        for name, start in _PEERS.items():
            try:
                server = start(room)
            except RuntimeError as error:
                say(str(error))
                server = None
            if server is not None:
                arms[name] = Arm(running.enter_context(server), bodies)
        rows = {}
        for name, arm in arms.items():
            load.run(arm.work(1, 0, answers=str(room / f"{name}.json"), bodies=first))
            rows[name] = _vectors(room / f"{name}.json")
        detail["generator_ceiling_per_s"] = ceiling(load, arms["embank"], room)
        in_turn(load, list(arms.values()), pairs=given.pairs, seconds=given.seconds)
        peers = [name for name in _PEERS if name in arms]
        for name in peers:
            figures |= compared("embeddings", name, arms["embank"], arms[name])
            figures[f"embeddings_cosine_to_{name}_min"] = float((rows["embank"] * rows[name]).sum(axis=1).min())
        chosen = {key: value for key, value in figures.items() if peers and f"_vs_{peers[0]}" in key}
        figures = {key.replace(f"_vs_{peers[0]}", "_vs_peer"): value for key, value in chosen.items()} | figures
        detail |= {"peer": peers[0] if peers else None, **{name: arm.told() for name, arm in arms.items()}}
    return figures or {"embeddings_ratio_vs_peer": None}, {"embeddings": detail}


_PEERS: Mapping[str, Callable[[Path], Server | None]] = {
    "infinity": servers.infinity,
    "fastembed": lambda room: servers.fastembed(onnx_folder(room), room),
}


def _vectors(answers: Path) -> Any:
    """Of answers to one text each, brought to length 1."""
    rows = np.array([json.loads(each)["data"][0]["embedding"] for each in json.loads(answers.read_text())])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def search(given: argparse.Namespace, room: Path) -> tuple[Figures, dict[str, Any]]:
    """Searches by vector against Chroma's server."""
    lot = servesearch.Lot(given.documents)
    peer = lot.chroma(room)
    if peer is None:
        return {"search_ratio_vs_chroma": None}, {}
    with ExitStack() as running:
        load = running.enter_context(Load())
        theirs = Arm(running.enter_context(peer), lot.asked_of_chroma(room), again=True)
        settings = (f"memory.budget={BUDGET}", "cache.results=false", "http.warm=false")
        own = servers.embank(lot.bank(), room, *settings, path=servesearch.SEARCH)
        ours = Arm(running.enter_context(own), lot.asked_of_embank(room), again=True)
        recalls = {}
        for arm, read in ((ours, servesearch.ids_of_embank), (theirs, servesearch.ids_of_chroma)):
            answers = room / f"{arm.server.name}.json"
            load.run(arm.work(4, 0, answers=str(answers)))
            recalls[arm.server.name] = lot.recall([read(json.loads(each)) for each in json.loads(answers.read_text())])
        most = ceiling(load, ours, room)
        in_turn(load, [ours, theirs], pairs=given.pairs, seconds=given.seconds)
        figures: Figures = {"search_documents": len(lot.corpus.texts)}
        figures |= compared("search", "chroma", ours, theirs)
    figures["search_recall"] = recalls["embank"]
    figures["search_recall_chroma"] = recalls["chroma"]
    figures["search_recall_above_chroma_pp"] = 100 * (recalls["embank"] - recalls["chroma"])
    detail = {"corpus": lot.corpus.name, "documents": len(lot.corpus.texts), "generator_ceiling_per_s": most}
    return figures, {"search": {**detail, "embank": ours.told(), "chroma": theirs.told()}}


PARTS: dict[str, Callable[[argparse.Namespace, Path], tuple[Figures, dict[str, Any]]]] = {
    "embeddings": embeddings,
    "search": search,
}


def _show(detail: Mapping[str, Any]) -> None:
    table = Table(title="medians over the turns")
    for column in (
        "",
        "server",
        "clients",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "CPU ms/request",
        "held MB",
        "generator CPU",
    ):
        table.add_column(column, justify="right")
    for part, told in detail.items():
        for name, arm in told.items():
            if not isinstance(arm, dict) or "peak_mb" not in arm:
                continue
            for clients in CLIENTS:
                row = arm[f"{clients}_clients"]
                cells = [f"{row[key]:,.2f}" for key in ("requests_per_s", "p50_ms", "p99_ms", "cpu_ms_per_request")]
                share = f"{100 * row['generator_cpu_share']:.0f} %"
                table.add_row(part, name, str(clients), *cells, f"{arm['peak_mb']:.0f}", share)
        if "generator_ceiling_per_s" in told:
            most = {key: round(value) for key, value in told["generator_ceiling_per_s"].items()}
            table.caption = f"the generator alone, requests/s: {most}"
    Console(stderr=True, width=160).print(table)


def main() -> None:
    """Measure the parts asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a mark is missed")
    parser.add_argument("--documents", type=int, help="documents to search in; all of WordNet, if not given")
    parser.add_argument("--pairs", type=int, default=7, help="turns of each server with each number of clients")
    parser.add_argument("--seconds", type=float, default=4.0, help="that a turn takes")
    given = parser.parse_args()
    figures: Figures = {}
    detail: dict[str, Any] = {}
    for name in given.parts or PARTS:
        say(f"{name} …")
        with tempfile.TemporaryDirectory(prefix="embank-serve-") as folder:
            measured, more = PARTS[name](given, Path(folder))
        say(json.dumps(measured))  # what follows may take long, or fail
        figures |= measured
        detail |= more
    _show(detail)
    detail |= {"pairs": given.pairs, "seconds": given.seconds, "budget": BUDGET}
    met = publish("serve", figures, MARKS, detail, as_json=given.json)
    sys.exit(given.strict and not met)


if __name__ == "__main__":
    main()
