"""The models' hub: what a repository holds at a revision, and its files, downloaded where an earlier attempt ended.

Speaks the Hugging Face hub's protocol through its client's session (`HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE` and
proxies are that client's own). The only place in Embank that fetches a model. It sends no usage data, follows no
instruction of a repository but its list of files, and decides nothing about where a model lies.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from embank.errors import HubError, ModelError, ModelFileError, ModelNotFound, OfflineMode
from embank.system.clock import Clock, SystemClock
from embank.system.files import Files

if TYPE_CHECKING:
    from hashlib import _Hash

_READ_BYTES = 1 << 20
_TIMEOUT_S = 30.0
# A connection that breaks off is taken up again so often without a single byte having come, after these pauses.
_PAUSES_S = (1.0, 2.0, 4.0)
_TRANSIENT = {408, 429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class Checksum:
    """What a file must hash to. `git` is the SHA-1 of git's blob: a header with the length, then the content."""

    kind: Literal["sha256", "git"]
    digest: str


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository: its path there, its bytes, and its checksum where the hub tells one."""

    path: str
    bytes: int
    checksum: Checksum | None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository holds at `revision`, which is always a commit, whatever name was asked for."""

    repository: str
    revision: str
    files: Mapping[str, RemoteFile]


class Hub:
    """A hub at `endpoint`; None: the one that the client knows. Thread-safe.

    Every method raises `OfflineMode` where `offline` or the client's own switch says so, `ModelNotFound` for what the
    hub does not have, and `HubError` when it can't be reached, refuses or breaks off. `as_user` sends the user's own
    token where there is one. `files` writes what is downloaded.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        offline: bool = False,
        as_user: bool = True,
        clock: Clock | None = None,
        files: Files | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._offline = offline
        self._as_user = as_user
        self._clock = clock or SystemClock()
        self._files = files or Files()

    def listing(self, repository: str, revision: str) -> Listing:
        """The files of `repository` at a commit, branch or tag. One request."""
        content = self._model(repository, revision, "blobs=true")
        files = {}
        for sibling in content.get("siblings") or []:
            path, size = sibling.get("rfilename"), sibling.get("size")
            if isinstance(path, str) and isinstance(size, int):
                files[path] = RemoteFile(path, size, _checksum(sibling))
        return Listing(repository, _commit(content, repository), files)

    def commit(self, repository: str, revision: str) -> str:
        """The commit that a branch or tag stands at now. One request."""
        return _commit(self._model(repository, revision, "expand=sha"), repository)

    def download(
        self, repository: str, revision: str, file: RemoteFile, to: Path, *, on_bytes: Callable[[int], None]
    ) -> str:
        """Bring `file` to the path `to`, going on where an earlier attempt ended; its hex SHA-256.

        `on_bytes` is told the bytes that are here, first those of the earlier attempt. The file is on the disk when
        this returns. Raises `ModelFileError`, and removes the file, when it is not what its checksum says, and
        `OSError` for the disk's errors; what is here when a connection breaks off stays.
        """
        url = f"{self._address()}/{repository}/resolve/{revision}/{quote(file.path)}"
        what = f"{repository}/{file.path} at revision {revision[:12]}"
        descriptor = self._files.open_append(to)
        try:
            tries = 0
            while (done := os.fstat(descriptor).st_size) != file.bytes:
                if done > file.bytes:
                    self._files.truncate(descriptor, 0)
                    continue
                on_bytes(done)
                try:
                    self._get(url, descriptor, start=done, whole=file.bytes, what=what, on_bytes=on_bytes)
                except _BrokenOff as error:
                    tries = 1 if os.fstat(descriptor).st_size > done else tries + 1
                    if tries > len(_PAUSES_S):
                        raise HubError(
                            f"downloading {what} broke off at {os.fstat(descriptor).st_size:,} of {file.bytes:,} "
                            f"bytes: {error}; the same command goes on from there",
                            file=file.path,
                        ) from error
                    self._clock.sleep(_PAUSES_S[tries - 1])
            on_bytes(file.bytes)
            self._files.sync_data(descriptor)
            return _checked(descriptor, file, to, what)
        finally:
            os.close(descriptor)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _model(self, repository: str, revision: str, query: str) -> dict[str, Any]:
        url = f"{self._address()}/api/models/{repository}/revision/{quote(revision, safe='')}?{query}"
        what = f"{repository} at revision {revision}"
        for pause_s in (*_PAUSES_S, None):
            try:
                content = self._json(url, what)
            except _BrokenOff as error:
                if pause_s is None:
                    raise HubError(
                        f"the hub can't be reached for {what}: {error}; see whether this machine is on the network, "
                        f"and whether HF_ENDPOINT or a proxy is needed",
                        repository=repository,
                    ) from error
                self._clock.sleep(pause_s)
            else:
                return content
        raise AssertionError("unreachable")

    def _json(self, url: str, what: str) -> dict[str, Any]:
        with _told(what):
            answer = _session().get(url, headers=self._headers(), timeout=_TIMEOUT_S)
            _raise_for_status(answer, what)
            try:
                content = answer.json()
            except ValueError:
                content = None
            if not isinstance(content, dict):
                raise HubError(f"the hub answered with what describes no model for {what}", url=url)
            return content

    def _get(
        self, url: str, descriptor: int, *, start: int, whole: int, what: str, on_bytes: Callable[[int], None]
    ) -> None:
        """One request for the rest of a file, written as it comes."""
        headers = {**self._headers(), **({"Range": f"bytes={start}-"} if start else {})}
        with _told(what), _session().stream("GET", url, headers=headers, timeout=_TIMEOUT_S) as answer:
            if answer.status_code >= 400:
                answer.read()
            _raise_for_status(answer, what)
            if start and answer.status_code != 206:  # the hub sends the whole again
                self._files.truncate(descriptor, 0)
                start = 0
            for block in answer.iter_bytes():
                if start + len(block) > whole:
                    self._files.truncate(descriptor, 0)
                    raise HubError(f"the hub sent more than the {whole:,} bytes of {what}", bytes=whole)
                try:
                    self._files.write_at(descriptor, memoryview(block), start)
                except OSError as error:
                    raise _DiskFailed(error) from error
                start += len(block)
                on_bytes(start)
        if start < whole:
            raise _BrokenOff("the connection ended early")

    def _address(self) -> str:
        if self._offline:
            raise OfflineMode(
                "nothing is downloaded and no hub is asked: embed.offline is set (EMBANK_EMBED__OFFLINE=false lifts it)"
            )
        if self._endpoint is not None:
            return self._endpoint.rstrip("/")
        from huggingface_hub import constants

        return constants.ENDPOINT

    def _headers(self) -> dict[str, str]:
        from huggingface_hub import constants, get_token

        # Bytes as they lie on the hub: a compressed answer can't be gone on with, and its length says nothing.
        headers = {"User-Agent": "embank", "Accept-Encoding": "identity"}
        token = get_token() if self._as_user and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else None
        return {**headers, "Authorization": f"Bearer {token}"} if token else headers


class _BrokenOff(Exception):
    """Worth another try: nothing wrong with the request was said."""


class _DiskFailed(Exception):
    """Keeps the disk's `OSError` apart from the transport's."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn what the client and its transport raise into Embank's own words; the disk's errors pass."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        yield
    except (_BrokenOff, ModelError):
        raise
    except _DiskFailed as failed:
        raise failed.error from failed
    except OfflineModeIsEnabled as error:
        raise OfflineMode(f"the hub's client is offline, so {what} can't be had: HF_HUB_OFFLINE is set") from error
    except Exception as error:  # the client lets its transport's errors through, whichever library that is
        lines = str(error).strip().splitlines()
        raise _BrokenOff(lines[0] if lines else type(error).__name__) from error


def _session() -> Any:
    from huggingface_hub import get_session

    return get_session()


def _raise_for_status(answer: Any, what: str) -> None:
    """The hub says what is wrong in a header; without a token it says 401 for what it does not have, too."""
    status, code = answer.status_code, answer.headers.get("X-Error-Code")
    if 200 <= status < 300:
        return
    if status in _TRANSIENT:
        raise _BrokenOff(f"the hub answered {status}")
    if code == "GatedRepo":
        raise HubError(
            f"the hub gives {what} only to who agreed to its terms: do that there, and set HF_TOKEN to a token of that "
            f"account",
            status=status,
        )
    if code == "RepoNotFound" or (status == 401 and code is None):
        raise ModelNotFound(
            f"the hub has no {what}, or only for some: if you may have it, set HF_TOKEN to your token", status=status
        )
    if status == 404:
        raise ModelNotFound(f"the hub has no {what}", status=status)
    way = ": set HF_TOKEN to a token that may read it" if status in (401, 403) else ""
    raise HubError(f"the hub refused {what} with status {status}{way}", status=status)


def _commit(content: Mapping[str, Any], repository: str) -> str:
    commit = content.get("sha")
    if not isinstance(commit, str) or len(commit) != 40 or not set(commit) <= set("0123456789abcdef"):
        raise HubError(f"the hub names no commit of {repository}, but {commit!r}", repository=repository)
    return commit


def _checksum(sibling: Mapping[str, Any]) -> Checksum | None:
    """Of a large file its SHA-256; of one that lies in git itself, git's own."""
    lfs, blob = sibling.get("lfs"), sibling.get("blobId")
    if isinstance(lfs, dict) and isinstance(lfs.get("sha256"), str):
        return Checksum("sha256", lfs["sha256"])
    return Checksum("git", blob) if isinstance(blob, str) and lfs is None else None


def _checked(descriptor: int, file: RemoteFile, path: Path, what: str) -> str:
    """The file's SHA-256, once it is what was promised."""
    sha256 = hashlib.sha256()
    git: _Hash = hashlib.sha1(b"blob %d\0" % file.bytes, usedforsecurity=False)  # what git itself says of a file
    offset = 0
    while block := os.pread(descriptor, _READ_BYTES, offset):
        sha256.update(block)
        git.update(block)
        offset += len(block)
    wanted = file.checksum
    if wanted is not None and (found := {"sha256": sha256, "git": git}[wanted.kind].hexdigest()) != wanted.digest:
        path.unlink()
        raise ModelFileError(
            f"the hub's {what} is not the file that was published: its checksum begins {found[:12]}, the published "
            f"one {wanted.digest[:12]}; it was deleted",
            file=file.path,
            wanted=wanted.digest,
            found=found,
        )
    return sha256.hexdigest()
