"""Settings of the remote models: an OpenAI-compatible endpoint, and how it is asked."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator

from embank.config import Section, Size
from embank.embed.remote.endpoint import read_endpoint


class Settings(Section):
    """Section `remote`: used where `embed.model` is `remote:NAME`."""

    url: str | None = None
    """Base address of the endpoint, such as https://HOST/v1; `/embeddings` is added where it is missing."""

    model: str | None = Field(default=None, min_length=1)
    """The model's name at the endpoint, where `embed.model` is just `remote:`."""

    key: SecretStr | None = None
    """Sent as a bearer token, over https or to this machine only; never shown, logged or stored."""

    dimensions: int | None = Field(default=None, ge=1, le=65536)
    """Ask the endpoint for vectors of so many dimensions; empty: `embed.dimensions`, else its own width."""

    max_tokens: int = Field(default=512, ge=16, le=1 << 20)
    """Tokens that the model takes of a text, so that passages are cut to fit. What is longer is still sent whole: the
    endpoint truncates or refuses it."""

    query_prefix: str = ""
    """Put before every query, where the model wants that."""

    passage_prefix: str = ""
    """Put before every passage, where the model wants that."""

    normalize: bool = True
    """Vectors are made unit vectors here; off: the endpoint must do so, and an answer of another length is refused."""

    batch_texts: int = Field(default=32, ge=1, le=2048)
    """Texts a request: as many as common servers take as they come; raise it where yours takes more."""

    batch_bytes: Size = Size("256KB")
    """Text a request, in bytes of UTF-8; a longer text goes alone."""

    concurrency: int = Field(default=4, ge=1, le=256)
    """Requests under way at the same time, over all threads."""

    requests_per_minute: float | None = Field(default=None, gt=0, le=1e6, allow_inf_nan=False)
    """No more than so many, evenly spaced, those tried again included; empty: as fast as it answers."""

    attempts: int = Field(default=5, ge=1, le=100)
    """How often a request is tried that met 429, 408, 5xx, a time-out or a broken connection."""

    timeout_s: float = Field(default=30.0, gt=0, le=3600, allow_inf_nan=False)
    """A request that was not answered whole in so long is given up, and tried again."""

    deadline_s: float = Field(default=300.0, gt=0, le=86400, allow_inf_nan=False)
    """A call that is not done in so long fails, with every wait and every attempt in it."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None:
            read_endpoint(value)
        return value

    @field_validator("key")
    @classmethod
    def _can_be_sent(cls, value: SecretStr | None) -> SecretStr | None:
        text = "" if value is None else value.get_secret_value().strip()
        if not text:
            return None
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("a key has visible ASCII characters only")
        return SecretStr(text)

    @field_validator("batch_bytes")
    @classmethod
    def _is_no_part(cls, value: Size) -> Size:
        if value.count_bytes is None:
            raise ValueError("give an amount, such as 256KB, not a percentage")
        return value
