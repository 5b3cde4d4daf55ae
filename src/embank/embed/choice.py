"""`engine = "auto"`: which engine and precision compute a model fastest here, within the memory and quality asked for.

Measured once for a model on a machine, each candidate in a process of its own (`embank.embed.trial`), and remembered
beside the models until the processor, the threads, the model's files or an engine's version change. What is asked for,
quality and memory, is applied to what is remembered: another wish needs no new measuring.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from embank.embed.files.locate import identity
from embank.embed.formats.verify import read_reference
from embank.embed.trial import FAILED_STATUS
from embank.errors import BudgetExceeded, ModelError
from embank.memory import hygiene
from embank.system.files import Files
from embank.system.log import get_logger
from embank.system.process import run_child

if TYPE_CHECKING:
    from embank.embed.files.locate import Located
    from embank.embed.model import Precision, Vectors
    from embank.embed.settings import Settings

_log = get_logger(__name__)

FILE = "choices.json"
_FORMAT = 1
_TIMEOUT_S = 300.0
_LASTING = {"InvalidInput", "DeviceNotFound", "MissingExtra"}
# Of batch sizes that are about as fast, the smallest: it takes the least memory.
_AS_FAST = 0.97


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine with a precision, and the distributions that must be installed for it (import name -> package)."""

    engine: str
    precision: Precision
    needs: Mapping[str, str] = field(default_factory=dict)

    def is_installed(self) -> bool:
        return all(find_spec(name) is not None for name in self.needs)


_CT2 = {"ctranslate2": "ctranslate2"}
_ONNX = {"onnxruntime": "onnxruntime", "onnx": "onnx"}
_OPENVINO = {"openvino": "openvino", "onnx": "onnx"}
_TORCH = {"torch": "torch", "sentence_transformers": "sentence-transformers"}

CANDIDATES: tuple[Candidate, ...] = (
    Candidate("ct2", "int8", _CT2),
    Candidate("ct2", "float32", _CT2),
    Candidate("onnx", "int8", _ONNX),
    Candidate("onnx", "float32", _ONNX),
    Candidate("openvino", "bfloat16", _OPENVINO),
    Candidate("openvino", "float32", _OPENVINO),
    Candidate("torch", "bfloat16", _TORCH),
    Candidate("torch", "float32", _TORCH),
)
"""What is tried for a model of the BERT family. A candidate that this machine can't run says so in its trial."""


class Batch(NamedTuple):
    """What a candidate did with batches of `tokens` padded tokens."""

    tokens: int
    texts_per_s: float
    growth_bytes: int


@dataclass(frozen=True, slots=True)
class Trial:
    """What one candidate did, of the `batches` tried with the best that fits: its rate, its bytes.

    `growth_bytes` is the anonymous memory of a process beyond that of a bare interpreter. `cosine` is the least to the
    reference vectors (None where there is nothing to compare with). `problem` says why there are no figures;
    `is_lasting` whether the same would come out again (a device that is not there, rather than a full disk).
    """

    engine: str
    precision: Precision
    texts_per_s: float = 0.0
    batch_tokens: int = 0
    growth_bytes: int = 0
    load_s: float = 0.0
    device: str = ""
    cosine: float | None = None
    problem: str = ""
    is_lasting: bool = True
    batches: tuple[Batch, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """The trial that was chosen, and all of them, the fastest first. `remembered`: nothing was measured for it."""

    chosen: Trial
    trials: tuple[Trial, ...]
    remembered: bool

    def verdict(self, trial: Trial, *, quality: float, memory_bytes: int | None) -> str:
        """Why a trial was chosen or not, in a word or two."""
        if trial == self.chosen:
            return "chosen"
        return _objection(trial, quality, memory_bytes) or "slower"


OnStep = Callable[[float, str], None]
RunTrial = Callable[[Candidate, Path, OnStep], dict[str, Any]]


def choose(
    located: Located,
    settings: Settings,
    directory: Path,
    *,
    memory_bytes: int | None = None,
    again: bool = False,
    on_step: OnStep = lambda _fraction, _step: None,
    candidates: tuple[Candidate, ...] = CANDIDATES,
    run_trial: RunTrial | None = None,
) -> Choice:
    """The fastest candidate for the model `located` whose cosine is at least `settings.quality` and which fits.

    `memory_bytes` is what there is for it, None without a limit. `again` measures anew. One process measures at a time.
    Raises `ModelError` where no candidate is good enough, `BudgetExceeded` where the good ones are too large; both name
    the nearest.
    """
    key = _key(located, settings, candidates)
    with _locked(directory):
        trials = None if again else _remembered(directory, key)
        remembered = trials is not None
        if trials is None:
            trials = _measure(located, candidates, run_trial or _in_child(located, settings), on_step)
            if all(trial.is_lasting for trial in trials):
                _remember(directory, key, trials)
    trials = sorted((_at_best(trial, memory_bytes) for trial in trials), key=lambda trial: -trial.texts_per_s)
    return Choice(_fastest(located.name, trials, settings.quality, memory_bytes), tuple(trials), remembered)


def _at_best(trial: Trial, memory_bytes: int | None) -> Trial:
    """The trial with the batch that suits it best: of those that fit and are about as fast as any, the smallest."""
    if not trial.batches:
        return trial
    fitting = [batch for batch in trial.batches if memory_bytes is None or batch.growth_bytes <= memory_bytes]
    tried = fitting or [min(trial.batches, key=lambda batch: batch.growth_bytes)]
    fast = max(batch.texts_per_s for batch in tried) * _AS_FAST
    best = min(batch for batch in tried if batch.texts_per_s >= fast)
    return replace(trial, batch_tokens=best.tokens, texts_per_s=best.texts_per_s, growth_bytes=best.growth_bytes)


def _fastest(name: str, trials: list[Trial], quality: float, memory_bytes: int | None) -> Trial:
    """The first of `trials`, which are sorted, that nothing speaks against."""
    worked = [trial for trial in trials if not trial.problem]
    if not worked:
        reasons = "; ".join(f"{trial.engine} {trial.precision}: {trial.problem}" for trial in trials)
        raise ModelError(f"no engine here can compute the model {name!r}: {reasons or 'none is installed'}", name=name)
    good = [trial for trial in worked if _is_good(trial, quality)]
    if not good:
        best = max(worked, key=lambda trial: trial.cosine or 0.0)
        raise ModelError(
            f"no engine here computes {name!r} to a cosine of {quality}: the best is {best.engine} {best.precision} "
            f"with {best.cosine:.4f}; lower embed.quality (EMBANK_EMBED__QUALITY)",
            name=name,
            cosine=best.cosine,
        )
    fitting = [trial for trial in good if memory_bytes is None or trial.growth_bytes <= memory_bytes]
    if not fitting:
        least = min(trial.growth_bytes for trial in good)
        raise BudgetExceeded(
            f"the model {name!r} on its leanest engine",
            wanted_bytes=least,
            available_bytes=memory_bytes or 0,
            budget_bytes=memory_bytes or 0,
        )
    return fitting[0]


def _is_good(trial: Trial, quality: float) -> bool:
    return trial.cosine is None or trial.cosine >= quality


def _objection(trial: Trial, quality: float, memory_bytes: int | None) -> str:
    if trial.problem:
        return trial.problem
    if not _is_good(trial, quality):
        return "below the quality asked for"
    return "too large" if memory_bytes is not None and trial.growth_bytes > memory_bytes else ""


# --- measuring ------------------------------------------------------------------------------------------------------


def _measure(located: Located, candidates: tuple[Candidate, ...], run_trial: RunTrial, on_step: OnStep) -> list[Trial]:
    installed = [candidate for candidate in candidates if candidate.is_installed()]
    trials: list[Trial] = []
    vectors: list[Vectors | None] = []
    with tempfile.TemporaryDirectory(prefix="embank-trial-") as folder:
        for number, candidate in enumerate(installed):
            label = f"trying {candidate.engine} {candidate.precision}"
            on_step(number / len(installed), label)
            file = Path(folder) / f"{number}.npy"
            said = run_trial(
                candidate,
                file,
                lambda fraction, step, number=number, label=label: on_step(  # type: ignore[misc]
                    (number + 0.5 * fraction) / len(installed), f"{label}: {step}"
                ),
            )
            trials.append(_trial_of(candidate, said))
            vectors.append(None if trials[-1].problem else np.load(file))
    on_step(1.0, "done")
    return _compared(located.name, trials, vectors)


def _trial_of(candidate: Candidate, said: Mapping[str, Any]) -> Trial:
    if "problem" in said:
        lasting = said.get("kind") in _LASTING
        return Trial(candidate.engine, candidate.precision, problem=str(said["problem"]), is_lasting=lasting)
    batches = (
        Batch(int(tokens), float(rate), int(said["growth_bytes"][tokens]))
        for tokens, rate in said["texts_per_s"].items()
    )
    return Trial(
        candidate.engine,
        candidate.precision,
        load_s=float(said["load_s"]),
        device=str(said["device"]),
        batches=tuple(batches),
    )


def _compared(name: str, trials: list[Trial], vectors: list[Vectors | None]) -> list[Trial]:
    """The trials with their least cosine to the stored reference, or else to the first one in float32."""
    reference = read_reference(name)
    truth = None if reference is None else reference[1]
    if truth is None:
        full = (each for trial, each in zip(trials, vectors, strict=True) if trial.precision == "float32")
        truth = next((each for each in full if each is not None), None)
    if truth is None:
        return trials
    compared = []
    for trial, each in zip(trials, vectors, strict=True):
        if each is None:
            compared.append(trial)
        elif each.shape != truth.shape:
            problem = f"answers with shape {each.shape} where {truth.shape} was due"
            compared.append(Trial(trial.engine, trial.precision, problem=problem))
        else:
            cosine = float(np.einsum("ij,ij->i", each, truth).min())
            compared.append(replace(trial, cosine=cosine))
    return compared


def _in_child(located: Located, settings: Settings) -> RunTrial:
    place = located.name if located.known is not None else str(located.folder)

    def run(candidate: Candidate, vectors: Path, on_step: OnStep) -> dict[str, Any]:
        last: dict[str, Any] = {}

        def on_line(line: str) -> None:
            try:
                said = json.loads(line)
            except ValueError:
                return  # an engine's own chatter
            if "fraction" in said:
                on_step(float(said["fraction"]), str(said["step"]))
            else:
                last.update(said)

        arguments = {
            "model": place,
            "engine": candidate.engine,
            "precision": candidate.precision,
            "settings": settings.model_dump_json(),
            "vectors": str(vectors),
        }
        result = run_child(
            "embank.embed.trial",
            [part for name, value in arguments.items() for part in (f"--{name}", value)],
            on_line=on_line,
            environ=hygiene.child_environment(),
            timeout_s=_TIMEOUT_S,
        )
        if last.get("done"):
            return last
        if result.returncode == FAILED_STATUS and "error" in last:
            return {"problem": last["error"], "kind": last["kind"]}
        tail = result.stderr_tail.strip().splitlines()
        how = "took too long" if result.timed_out else f"ended with {result.returncode}"
        return {"problem": f"the trial {how}{': ' + tail[-1] if tail else ''}"}

    return run


# --- remembering ----------------------------------------------------------------------------------------------------


def _key(located: Located, settings: Settings, candidates: tuple[Candidate, ...]) -> str:
    """Changes with whatever would change the figures."""
    facts = {
        "format": _FORMAT,
        "model": identity(located),
        "device": settings.device,
        "threads": settings.threads or hygiene.usable_cpus(),
        "processor": _processor(),
        "versions": _versions(candidates),
    }
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _processor() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return [platform.machine(), platform.processor()]
    # Of the first processor only; its speed of this moment is no part of what it is.
    wanted = ("model name", "flags", "Features", "cache size")
    return [next((line for line in lines if line.startswith(name)), "") for name in wanted]


def _versions(candidates: tuple[Candidate, ...]) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in sorted({package for candidate in candidates for package in candidate.needs.values()}):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def _remembered(directory: Path, key: str) -> list[Trial] | None:
    try:
        content = json.loads((directory / FILE).read_bytes())
        return [
            Trial(**{**trial, "batches": tuple(Batch(*batch) for batch in trial["batches"])}) for trial in content[key]
        ]
    except FileNotFoundError:
        return None
    except KeyError:
        return None
    except (OSError, ValueError, TypeError) as error:
        _log.warning("measuring again: %s can't be read: %s", directory / FILE, error)
        return None


def _remember(directory: Path, key: str, trials: list[Trial]) -> None:
    """Only the newest of every key; a folder that can't be written costs another measuring next time, nothing else."""
    path = directory / FILE
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        content = {}
    if not isinstance(content, dict):
        content = {}
    content[key] = [asdict(trial) for trial in trials]
    kept = dict(list(content.items())[-_KEPT:])
    try:
        Files().replace(path, (json.dumps(kept, indent=1) + "\n").encode())
    except OSError as error:
        _log.warning("the engines' figures can't be kept in %s: %s", path, error)


_KEPT = 32
"""Keys that are remembered at most; the oldest go first."""


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One process measures at a time: two at once would only measure each other."""
    try:
        Files().make_directory(directory)
        descriptor = os.open(directory / f".{FILE}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        _log.warning("measuring without a lock: %s: %s", directory, error)
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
