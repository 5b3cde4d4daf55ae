"""What can be set about cutting documents into passages."""

from __future__ import annotations

from pydantic import Field

from embank.config import Section
from embank.errors import ConfigError

DEFAULT_MAX_TOKENS = 256
"""Passages stay this short even where a model takes more: one vector for a longer text blurs what it is about."""

MIN_TOKENS = 8
"""Less than this leaves no room for a word."""


class Settings(Section):
    """Section `chunk`.

    Without overlap by default: passages end at paragraphs and sentences, so little is cut apart, while an overlap of
    an eighth costs an eighth more of everything that follows (embedding time, vectors, index), and one passage more
    of the same text among the first hits.
    """

    max_tokens: int | None = Field(
        default=None,
        ge=MIN_TOKENS,
        description=f"a passage's most tokens; unset: as many as the model takes, at most {DEFAULT_MAX_TOKENS}",
    )
    overlap_tokens: int = Field(
        default=0, ge=0, description="how much of a passage's end, in whole sentences, the next one repeats at most"
    )

    def tokens(self, model_tokens: int) -> int:
        """The limit in use with a model that takes `model_tokens` (special tokens not counted).

        Raises `ConfigError` when more is set than the model takes: it would silently leave out the rest.
        """
        if self.max_tokens is None:
            return min(model_tokens, DEFAULT_MAX_TOKENS)
        if self.max_tokens > model_tokens:
            raise ConfigError(
                f"chunk.max_tokens is {self.max_tokens}, but the model in use takes {model_tokens}: lower it or leave "
                f"it unset",
                key="chunk.max_tokens",
                value=self.max_tokens,
                model_tokens=model_tokens,
            )
        return self.max_tokens
