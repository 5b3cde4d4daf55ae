"""Converted models on disk: found, checked, made when missing, made again when damaged.

A converted model lives in `<models>/<name>-<weights>-<precision>-v<converter>/`, complete or not there: it is made in
a folder beside it, by a child process whose memory is reserved first, checked against reference vectors, and renamed
into place. Processes that want the same one at the same time wait for each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embank.embed.files.checksum import sha256_of
from embank.embed.files.locate import advice, check_files, not_here
from embank.embed.files.prune import keep_within, limit_bytes
from embank.embed.formats.folder import TOKENIZER, WEIGHTS
from embank.embed.formats.manifest import NAME, Manifest, check_converted, read_manifest
from embank.embed.formats.recipe import Recipe, joined
from embank.errors import ModelError, ModelFileError
from embank.events.kinds import ModelConversionStarted, ModelConverted
from embank.memory import hygiene
from embank.system.files import Files
from embank.system.log import get_logger
from embank.system.process import ChildResult, run_child

if TYPE_CHECKING:
    from embank.embed.engine import LoadRequest

_log = get_logger(__name__)

CONVERTER_VERSION = 2
BINARY_VERSION = 6
# Measured: 22 MB anonymous at most, interpreter and numpy included, whatever the model's size; see the tests.
CHILD_BYTES = 32 << 20
_TIMEOUT_S = 1800.0

CT2 = Recipe(
    engine="ct2",
    form="ct2",
    converter_version=CONVERTER_VERSION,
    binary_version=BINARY_VERSION,
    child_bytes=lambda _: CHILD_BYTES,
)

# Configuration files that decide what the vectors are: a change in one makes another model.
_SMALL_SOURCES = (
    "config.json",
    TOKENIZER,
    "tokenizer_config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)

Verify = Callable[[Path, Manifest], None]
"""Opens a model just converted and raises `ModelFileError` when it computes wrongly."""


@dataclass(frozen=True, slots=True)
class _Child:
    files: dict[str, Any]
    facts: dict[str, Any]
    peak_bytes: int


def ensure_converted(request: LoadRequest, *, verify: Verify, recipe: Recipe = CT2) -> tuple[Path, Manifest]:
    """The folder and manifest of the converted model that `request` asks for, checked; `recipe` is the engine's.

    Raises `ModelNotFound` when neither source nor converted model is here, `ModelFileError` when the source is
    damaged, not of the published checksum, of another architecture, or when the folder can't be written,
    `BudgetExceeded` when the conversion does not fit the budget.
    """
    request.on_progress(0.0, "checking files")
    weights = _weights_sha256(request, recipe)
    target = request.models_directory / recipe.stem(request.name, joined(weights), request.precision)
    found = _usable(request, target)
    if found is None:
        with _locked(target):
            found = _usable(request, target)  # another process may have made it meanwhile
            if found is None:
                found = _make(request, target, weights, verify=verify, recipe=recipe)
    return target, found


def needed_sources(request: LoadRequest) -> list[Path]:
    """The folders besides the converted copy that opening the model again would need."""
    return [request.folder] if request.known is None and request.folder is not None else []


def _weights_sha256(request: LoadRequest, recipe: Recipe) -> dict[str, str]:
    """By file: of a known model the published one, which the conversion checks; of a folder what is there now."""
    if request.known is not None:
        return {request.known.weights: request.known.files[request.known.weights]}
    if request.folder is None:
        raise ModelFileError(f"the model {request.name!r} has no folder", name=request.name)
    return recipe.weights(request.folder)


def _usable(request: LoadRequest, target: Path) -> Manifest | None:
    """The manifest of a converted model that is there, whole and made from these sources; None: make it.

    A damaged one is an error where there are no sources to make it anew.
    """
    if request.anew and request.folder is not None:
        return None
    if not target.is_dir():
        if request.folder is None and request.known is not None:
            raise not_here(request.known)
        return None
    try:
        manifest = read_manifest(target)
        check_converted(target, manifest)
    except ModelFileError as error:
        if request.folder is None:
            way = f": {advice(request.known)}" if request.known is not None else ""
            raise ModelFileError(f"{error.message}, and its source is not here{way}", **error.fields) from error
        _log.warning("converting %s again: %s", request.name, error)
        return None
    if request.known is None and request.folder is not None:
        small = {name: digest for name, digest in manifest.sources.items() if name in _SMALL_SOURCES}
        if small != _small_sources(request.folder):
            _log.info("converting %s again: its configuration or tokenizer changed", request.name)
            return None
    return manifest


def _make(
    request: LoadRequest, target: Path, weights: Mapping[str, str], *, verify: Verify, recipe: Recipe
) -> Manifest:
    folder = request.folder
    if folder is None:
        raise ModelFileError(f"the model {request.name!r} has no source to convert", name=request.name)
    if request.known is not None:
        check_files(request.known, folder)
    started_s = time.perf_counter()
    request.publisher.publish(ModelConversionStarted(request.name, request.precision))
    temporary = _fresh_folder(target)
    try:
        child = _convert(request, folder, temporary, recipe)
        shape, description = recipe.describe(folder, child.facts)
        manifest = Manifest(
            name=request.name,
            precision=request.precision,
            converter_version=recipe.converter_version,
            binary_version=recipe.binary_version,
            sources={**weights, **_small_sources(folder)},
            files=child.files,
            shape=shape,
            description=description,
            engine=recipe.engine,
            weights="" if WEIGHTS in weights else joined(weights),
        )
        Files().replace(temporary / NAME, manifest.encoded())
        request.on_progress(0.75, "comparing with reference vectors")
        verify(temporary, manifest)
        _check_limit(request, manifest)
        _put_in_place(temporary, target)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    seconds = time.perf_counter() - started_s
    request.publisher.publish(ModelConverted(request.name, seconds, child.peak_bytes))
    _log.info("converted %s to %s in %.1f s", request.name, request.precision, seconds)
    keep_within(
        request.models_directory,
        limit_bytes(request.settings, request.models_directory),
        keep=[target, *needed_sources(request)],
        publisher=request.publisher,
    )
    return manifest


def _check_limit(request: LoadRequest, manifest: Manifest) -> None:
    """What is larger than all models together may be is not kept."""
    limit = limit_bytes(request.settings, request.models_directory)
    size = sum(int(facts["bytes"]) for facts in manifest.files.values())
    if limit is not None and size > limit:
        raise ModelFileError(
            f"{request.name!r} in {request.precision} has {size:,} bytes, more than the {limit:,} that all models "
            f"together may take: raise embed.directory_limit (EMBANK_EMBED__DIRECTORY_LIMIT)",
            wanted_bytes=size,
            limit_bytes=limit,
        )


def _convert(request: LoadRequest, source: Path, temporary: Path, recipe: Recipe) -> _Child:
    """Run the child within reserved memory, and take its answer or its error."""
    last: dict[str, Any] = {}

    def on_line(line: str) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            _log.warning("the converting child printed what is no JSON: %.200s", line)
            return
        if "fraction" in said:
            request.on_progress(0.05 + 0.7 * said["fraction"], f"converting {said['step']}")
        else:
            last.update(said)

    precision = recipe.precision or request.precision
    arguments = ["--source", str(source), "--target", str(temporary), "--precision", precision, "--form", recipe.form]
    with request.budget.reserve(f"convert {request.name}", recipe.child_bytes(source), wait_s=60.0):
        result = run_child(
            "embank.embed.formats.convert",
            arguments,
            on_line=on_line,
            environ={
                **hygiene.child_environment(mmap_threshold_bytes=hygiene.LEAN_THRESHOLD_BYTES),
                # The child's work is reading and rounding; a matrix library's threads would only take memory.
                "OPENBLAS_NUM_THREADS": "1",
                "OMP_NUM_THREADS": "1",
            },
            timeout_s=_TIMEOUT_S,
        )
    if "error" in last:
        raise ModelFileError(str(last["error"]), **last.get("fields", {}))
    if result.returncode != 0 or "done" not in last:
        raise ModelError(f"converting {request.name!r} failed: {_how_it_ended(result)}", name=request.name)
    return _Child(last["files"], last["facts"], int(last["peak_bytes"]))


def _how_it_ended(result: ChildResult) -> str:
    if result.timed_out:
        return f"it took longer than {_TIMEOUT_S:.0f} s"
    lines = result.stderr_tail.strip().splitlines()
    detail = f": {lines[-1]}" if lines else ""
    status = result.returncode
    return f"the child was ended by signal {-status}{detail}" if status < 0 else f"exit status {status}{detail}"


def _small_sources(folder: Path) -> dict[str, str]:
    return {name: sha256_of(folder / name) for name in _SMALL_SOURCES if (folder / name).is_file()}


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold the lock of one converted model. The lock file stays: removing it would let two hold it."""
    try:
        Files().make_directory(target.parent)
        descriptor = os.open(target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _fresh_folder(target: Path) -> Path:
    """An empty folder beside the target. Whatever an interrupted conversion left is removed: its lock is held here."""
    try:
        for stale in target.parent.glob(f".{target.name}.*.tmp"):
            shutil.rmtree(stale, ignore_errors=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        temporary.mkdir(mode=0o700)
    except OSError as error:
        raise _unwritable(target, error) from error
    return temporary


def _put_in_place(temporary: Path, target: Path) -> None:
    files = Files()
    files.sync_directory(temporary)
    if target.exists():
        # A damaged one. Moved away first, so that the target is never half of it.
        old = target.with_name(f".{target.name}.old.tmp")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        temporary.rename(target)
    files.sync_directory(target.parent)


def _unwritable(target: Path, error: OSError) -> ModelFileError:
    return ModelFileError(
        f"the converted model can't be written to {target.parent}: {error.strerror or error}: make room there or set "
        f"embed.directory (EMBANK_EMBED__DIRECTORY)",
        path=str(target.parent),
    )
