"""Settings of commands that go through a running server."""

from __future__ import annotations

from pydantic import Field, SecretStr

from embank.config import Section


class Settings(Section):
    """Whether commands use the server that holds the bank, and what they show it."""

    use_server: bool = Field(default=True, description="commands go through the server that holds the bank")
    key: SecretStr | None = Field(
        default=None, description="API key for a server that does not take the bank's own secret; never shown"
    )
