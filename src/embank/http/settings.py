"""Settings of the service."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from embank.config import Section
from embank.system.size import Size


class Settings(Section):
    """Where it listens, what it takes, how long it waits, and how much it does at once."""

    host: str = Field(default="127.0.0.1", description="where to listen; wider than loopback needs an API key")
    port: int = Field(default=8080, ge=0, le=65_535, description="0 takes one that is free")
    tls_cert: Path | None = Field(default=None, description="certificate chain (PEM); with http.tls_key, for https")
    tls_key: Path | None = Field(default=None, description="the certificate's private key (PEM)")
    admin_key: SecretStr | None = Field(
        default=None, description="a key of scope admin beside the bank's own, of 32 characters or more; by environment"
    )
    hosts: tuple[str, ...] = Field(
        default=(), description="names it may be called by in a Host header while no key is asked for, beside loopback"
    )
    model_names: tuple[str, ...] = Field(
        default=(), description="further names that /v1/embeddings knows the model by, such as text-embedding-3-small"
    )
    warm: bool = Field(
        default=True,
        description="load the model at the start; else with the first text, where vectors are the callers'",
    )
    backups: Path | None = Field(default=None, description="where backups go; by default BANK-backups beside the bank")

    body_limit: Size = Field(default=Size("16MB"), description="bytes a request's body may have")
    import_limit: Size = Field(default=Size("4GB"), description="bytes a body of /imports may have: it goes to a file")
    header_limit: Size = Field(default=Size("32KB"), description="bytes a request's line and headers may have")
    batch_limit: int = Field(default=1_000, ge=1, le=100_000, description="documents one request may write")
    connections: int = Field(default=1_000, ge=1, description="connections at once; further ones are closed")

    header_wait_s: float = Field(default=10, gt=0, description="seconds for a request's line and headers to come in")
    body_wait_s: float = Field(default=30, gt=0, description="seconds for a request's body to come in")
    request_wait_s: float = Field(default=120, gt=0, description="seconds until a request is answered, or 504")
    keep_alive_s: int = Field(default=15, ge=1, description="seconds an idle connection stays open")
    drain_s: int = Field(default=30, ge=0, description="seconds that requests under way get to end on SIGTERM")

    threads: int = Field(default=8, ge=1, le=256, description="requests worked on at once, but searches")
    searches: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="searches worked on at once; by default half as many as processors: more are slower, all in all",
    )
    waiting: int = Field(default=256, ge=0, description="requests that may wait for a thread; then 429")
    thread_wait_s: float = Field(
        default=2,
        gt=0,
        description="seconds the first in line for one, or for a shared batch, may have waited; then 429",
    )
    coalesce_texts: int = Field(default=32, ge=0, description="requests of so many texts share batches; 0: none do")
    coalesce_wait_s: float = Field(
        default=0.05, ge=0, description="seconds a shared batch is waited for before another is begun beside it"
    )
    jobs: int = Field(default=1, ge=1, le=16, description="long jobs worked on at once")
    jobs_waiting: int = Field(default=16, ge=0, description="long jobs that may wait; then 429")
    jobs_kept: int = Field(default=200, ge=1, description="jobs that are remembered")
    listeners: int = Field(default=16, ge=0, description="clients that may listen to events at once")
    events_kept: int = Field(default=1_024, ge=1, description="events that wait for a client that is slow")

    @field_validator("admin_key")
    @classmethod
    def _long_enough(cls, given: SecretStr | None) -> SecretStr | None:
        if given is None:
            return None
        text = given.get_secret_value().strip()  # files that secrets are kept in end with a newline
        if not re.fullmatch(r"[!-~]{32,256}", text):
            raise ValueError("write 32 to 256 characters of ASCII without blanks")
        return SecretStr(text)
