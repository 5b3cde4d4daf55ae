"""Models in the hub client's own cache (`HF_HOME`, `HF_HUB_CACHE`), which other programs fill and use.

Looked at and removed through the client's library only, a whole repository at a time. Whether another program uses one
is not known; of Embank's own processes it is.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from embank.embed.files import inuse
from embank.embed.files.inventory import ModelFiles
from embank.errors import ModelFileError, ModelInUse

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, HFCacheInfo

_REPOSITORY = re.compile(r"\S*/models--[^/\s)]+")


def list_cached(cache: Path | None = None) -> list[ModelFiles]:
    """The model repositories in `cache` (None: where the client keeps it), by name; none where there is no cache.

    The time of last use is the file system's, which many mount options update seldom.
    """
    info = _scan(cache)
    if info is None:
        return []
    found = [_files(repo) for repo in info.repos if repo.repo_type == "model"]
    for warning in info.warnings:
        place = _REPOSITORY.search(str(warning))
        if place is not None:
            folder = Path(place[0])
            name = folder.name.removeprefix("models--").replace("--", "/")
            found.append(ModelFiles(name, "hub-cache", folder, 0, None, in_use=False, problem=str(warning)))
    return sorted(found, key=lambda each: each.name)


def remove_cached(files: ModelFiles, cache: Path | None = None) -> None:
    """Remove one repository with all its revisions, by the library's own strategy.

    Raises `ModelInUse` where a process of Embank has one of them open, `ModelFileError` where it is damaged or stays.
    """
    if files.problem is not None:
        raise ModelFileError(f"the hub's own client can't read it, and so not remove it: {files.problem}")
    info = _scan(cache)
    repo = None if info is None else next((repo for repo in info.repos if repo.repo_path == files.folder), None)
    if info is None or repo is None:
        return  # gone meanwhile
    with contextlib.ExitStack() as held:
        for revision in repo.revisions:
            held.enter_context(inuse.exclusively(revision.snapshot_path, name=files.name))
        # Of this repository alone: the library looks for a commit's hash in all of them, data sets too.
        alone = replace(info, repos=frozenset([repo]))
        alone.delete_revisions(*(revision.commit_hash for revision in repo.revisions)).execute()
    if files.folder.exists():  # the library only logs what it could not remove
        raise ModelFileError(f"{files.folder} could not be removed", path=str(files.folder))


def _scan(cache: Path | None) -> HFCacheInfo | None:
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        return scan_cache_dir(cache)
    except CacheNotFound:
        return None
    except (ValueError, OSError) as error:
        raise ModelFileError(f"the hub client's cache can't be read: {error}") from error


def _files(repo: CachedRepoInfo) -> ModelFiles:
    return ModelFiles(
        name=repo.repo_id,
        kind="hub-cache",
        folder=repo.repo_path,
        bytes=repo.size_on_disk,
        last_used_s=max(repo.last_accessed, repo.last_modified),
        in_use=_in_use([revision.snapshot_path for revision in repo.revisions], repo.repo_id),
        repository=repo.repo_id,
        revision=_shown_revision(repo),
    )


def _shown_revision(repo: CachedRepoInfo) -> str | None:
    """The commit of `main`, or the only one."""
    if "main" in repo.refs:
        return repo.refs["main"].commit_hash
    return next(iter(repo.revisions)).commit_hash if len(repo.revisions) == 1 else None


def _in_use(snapshots: Sequence[Path], name: str) -> bool:
    try:
        for snapshot in snapshots:
            with inuse.exclusively(snapshot, name=name):
                pass
    except ModelInUse:
        return True
    return False
