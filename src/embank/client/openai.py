"""Wire types of the endpoints that speak as OpenAI's do: embeddings and models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictInt, StrictStr, WithJsonSchema

from embank.client.schemas import Answer, Asked

MOST_INPUTS = 2_048


def _inputs(given: Any) -> Any:
    """A text, texts, a row of tokens, or such rows. One message for each thing wrong, whichever form was meant."""
    if isinstance(given, str):
        if not given:
            raise ValueError("is an empty string: there is nothing to embed")
        return given
    if not isinstance(given, list):
        raise ValueError("must be a string, a list of strings, a list of token ids, or a list of such lists")  # noqa: TRY004 -- what pydantic reports
    if not given:
        raise ValueError("is an empty list: there is nothing to embed")
    if _is_row(given):
        return given
    return _listed(given)


def _listed(given: list[Any]) -> list[Any]:
    if len(given) > MOST_INPUTS:
        raise ValueError(f"has {len(given)} items; at most {MOST_INPUTS} are taken at once")
    kinds = {type(each) for each in given}
    if kinds not in ({str}, {list}):
        raise ValueError("must hold strings only, token ids only, or lists of token ids only")
    for index, each in enumerate(given):
        if not each:
            raise ValueError(f"has an empty item at {index}: there is nothing to embed")
        if isinstance(each, list) and not _is_row(each):
            raise ValueError(f"has an item at {index} that is no list of token ids (whole numbers from 0)")
    return given


def _is_row(given: list[Any]) -> bool:
    return all(type(each) is int and 0 <= each < 1 << 31 for each in given)


class EmbeddingsAsked(Asked):
    """Texts, or rows of the model's own tokens, to be embedded."""

    input: Annotated[
        Any,
        AfterValidator(_inputs),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    {
                        "type": "array",
                        "items": {"type": "string", "minLength": 1},
                        "minItems": 1,
                        "maxItems": MOST_INPUTS,
                    },
                    {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
                    {
                        "type": "array",
                        "items": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
                        "minItems": 1,
                        "maxItems": MOST_INPUTS,
                    },
                ],
                "examples": ["Rivers carry silt.", ["Rivers carry silt.", "Bread rises."]],
            }
        ),
    ]
    model: StrictStr = Field(examples=["minilm"])
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: StrictInt | None = Field(default=None, ge=1)
    """Cut the vectors to their first components and bring them to length 1 again."""
    user: StrictStr | None = None
    """Taken and not used."""
    input_type: Literal["query", "passage"] = "passage"
    """What the texts are embedded as, for models that treat the two differently; not in OpenAI's own."""


class EmbeddingAnswer(Answer):
    """One vector: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class UsageAnswer(Answer):
    """Tokens that were asked for."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(Answer):
    """Vectors in the order of the input."""

    object: Literal["list"] = "list"
    data: list[EmbeddingAnswer]
    model: str
    usage: UsageAnswer


class ModelAnswer(Answer):
    """A model that is served. What stands behind `owned_by` is more than OpenAI tells."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "embank"
    dimension: int | None = None
    max_tokens: int | None = None
    state: str | None = None


class ModelsAnswer(Answer):
    """All that is served."""

    object: Literal["list"] = "list"
    data: list[ModelAnswer]
