"""What `embank demo` measured, whether it was enough, and how it is told."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embank.cli import errors, output

if TYPE_CHECKING:
    from embank.pipeline import IngestReport
    from embank.records import Hit

LEAST_DOCUMENTS = 7_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What one question brought, and the seconds from asking to having it."""

    question: str
    seconds: float
    hits: list[Hit]


@dataclass(slots=True)
class Outcome:
    """What was measured. Bytes are anonymous + shared of the process tree; `seconds` cover indexing alone."""

    documents: int
    report: IngestReport
    answers: list[Answer]
    budget_bytes: int
    peak_bytes: int
    samples: int
    before_release_bytes: int
    after_release_bytes: int
    conversion_seconds: float | None
    seconds: float
    total_seconds: float = 0.0

    @property
    def texts_per_second(self) -> float:
        return self.report.chunks / self.seconds if self.seconds > 0 else 0.0

    @property
    def shortfall(self) -> tuple[int, str] | None:
        """The exit code and the reason where this run fell short of what it promises."""
        if self.peak_bytes > self.budget_bytes:
            over = f"the peak of {output.size(self.peak_bytes)} broke the budget of {output.size(self.budget_bytes)}"
            return errors.MEMORY, over
        if self.documents < LEAST_DOCUMENTS:
            few = f"only {self.documents:,} documents were indexed, at least {LEAST_DOCUMENTS:,} were to be expected"
            return errors.UNEXPECTED, few
        return None

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "documents": self.documents,
            "passages": self.report.chunks,
            "texts_per_second": self.texts_per_second,
            "index_seconds": self.seconds,
            "total_seconds": self.total_seconds,
            "conversion_seconds": self.conversion_seconds,
            "budget_bytes": self.budget_bytes,
            "peak_bytes": self.peak_bytes,
            "samples": self.samples,
            "before_release_bytes": self.before_release_bytes,
            "after_release_bytes": self.after_release_bytes,
            "released_bytes": self.before_release_bytes - self.after_release_bytes,
            "report": self.report.as_dict(),
            "answers": [asdict(answer) for answer in self.answers],
        }


def show_answer(answer: Answer) -> None:
    """A question with its hits."""
    from rich.text import Text

    head = Text(answer.question, style="bold")
    head.append(f"  {output.duration(answer.seconds)}", style="dim")
    lines = [head]
    for hit in answer.hits:
        line = Text(f"  {hit.score:5.2f}  ", no_wrap=True, overflow="ellipsis")
        line.append(output.one_line(hit.id, 44).ljust(44), style="cyan")
        lines.append(line.append(f"  {_first_words(hit.text)}", style="dim"))
    output.show(*lines, "")


def _first_words(text: str) -> str:
    """The first line of the documentation, which stands behind the name and an empty line."""
    _, _, documentation = text.partition("\n\n")
    return output.one_line((documentation or text).strip().partition("\n")[0], 72)


def show_summary(outcome: Outcome, keep: Path | None) -> None:
    """The figures, and what to try next."""
    report = outcome.report
    within = "within" if outcome.peak_bytes <= outcome.budget_bytes else "OVER"
    given_back = outcome.before_release_bytes - outcome.after_release_bytes
    before, after, budget = map(
        output.size, (outcome.before_release_bytes, outcome.after_release_bytes, outcome.budget_bytes)
    )
    made = output.table("", "measured", "")
    rows: list[tuple[str, str, str]] = [
        ("documents", f"{outcome.documents:,}", f"{report.unchanged:,} of them unchanged" if report.unchanged else ""),
        ("passages embedded", f"{report.chunks:,}", f"{outcome.texts_per_second:,.0f} texts/s"),
        ("indexing", output.duration(outcome.seconds), f"{output.duration(outcome.total_seconds)} in all"),
        (
            "peak memory",
            output.size(outcome.peak_bytes),
            f"{within} the budget of {budget}, whole process tree, {outcome.samples:,} samples",
        ),
        (
            "given back",
            output.size(given_back),
            f"{before} → {after} by bank.release()",
        ),
    ]
    if outcome.conversion_seconds is not None:
        rows.insert(2, ("model converted", output.duration(outcome.conversion_seconds), "once; the next run finds it"))
    for row in rows:
        output.add_row(made, *row)
    output.show(made)
    bank = f" -b {shlex.quote(str(keep))}" if keep is not None else ""
    lines = ["Now your own:", "  embank index ~/notes", '  embank search "what did we decide about backups"']
    if keep is not None:
        lines += ["", "Or ask this one on:", f'  embank search "open a file as text"{bank}']
    output.say(*lines)
