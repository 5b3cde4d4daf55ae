"""A load generator that takes little of the processor that it measures, as its parent holds it.

A process of its own (`benchmarks.loading`). Clients wait for their answer before they ask again, or requests are sent
at a rate, come what may. What it could do at most is told by asking a server that does nothing, beside which it runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

BEGUN = "begun"
"""What it says when the requests of a turn are ready and their sending begins."""
_REST_S = 0.3
"""Between two turns: what the one before left to be done is done."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one turn is: `clients` ask for `seconds`, or until each body of the file was sent once where that is 0.

    With a `rate`, so many requests a second are sent, on `clients` connections at most.
    """

    port: int
    path: str
    bodies: str
    """A file with a JSON list of bodies, as text. A later turn goes on with those that were not sent yet."""
    again: bool = False
    """Whether to begin anew when all were sent."""
    clients: int = 1
    seconds: float = 0.0
    answers: str = ""
    """Where to write the answers, as a JSON list in the order of the bodies."""
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of it. `cpu_s` is the generator's own processor time; times are of answers with 200.

    `answered` came with 200 within `seconds`; `refused` are 429 and 503 with a Retry-After, `failed` any other answer,
    `unanswered` had none.
    """

    requests: int
    answered: int
    refused: int
    failed: int
    unanswered: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_s: float

    @property
    def rate(self) -> float:
        """Answers with 200 a second."""
        return self.answered / self.seconds


class Load:
    """The generator."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.loading"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, work: Work) -> Turn:
        """One turn. `RuntimeError` where an answer was none, or the bodies ran out."""
        self.begin(work)
        turn = self.end()
        if turn.answered < turn.requests:
            raise RuntimeError(f"{turn.requests - turn.answered} of {turn.requests} requests to {work.path} failed")
        time.sleep(_REST_S)
        return turn

    def begin(self, work: Work) -> None:
        """Have a turn begun: requests are sent from now on."""
        if self._process.stdin is None:
            raise RuntimeError("the generator has no pipes")
        self._process.stdin.write(json.dumps(asdict(work)) + "\n")
        self._process.stdin.flush()
        if json.loads(self._line()) != BEGUN:
            raise RuntimeError("the load generator did not begin")

    def end(self) -> Turn:
        """What came of the turn that was begun, once it is over."""
        return Turn(**json.loads(self._line()))

    def _line(self) -> str:
        if self._process.stdout is None:
            raise RuntimeError("the generator has no pipes")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load generator ended with {self._process.wait()}")
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=30)
