from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.embed.tiny_bert import make_folder, write_json

from embank.embed.formats.folder import Description, read_description, read_shape
from embank.errors import ModelFileError


def describe(folder: Path) -> Description:
    return read_description(folder, read_shape(folder))


def test_minilm_describes_itself(minilm_files: Path) -> None:
    assert describe(minilm_files) == Description(dimension=384, max_tokens=256, pooling="mean")


def test_prompts_case_and_cls_are_read(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", pooling="cls")
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": True})
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "ask: ", "document": "doc: "}})
    assert describe(folder) == Description(
        dimension=16, max_tokens=24, pooling="cls", lower_case=True, query_prefix="ask: ", passage_prefix="doc: "
    )


def test_the_default_prompt_stands_in(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    prompts = {"prompts": {"query": "ask: ", "any": "text: "}, "default_prompt_name": "any"}
    write_json(folder / "config_sentence_transformers.json", prompts)
    assert (describe(folder).query_prefix, describe(folder).passage_prefix) == ("ask: ", "text: ")


def test_a_bare_folder_is_pooled_by_mean_at_its_tokenizers_length(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", pooling="cls")
    (folder / "modules.json").unlink()
    (folder / "sentence_bert_config.json").unlink()
    assert describe(folder) == Description(dimension=16, max_tokens=64, pooling="mean")
    write_json(folder / "tokenizer_config.json", {"model_max_length": 48})
    assert describe(folder).max_tokens == 48
    write_json(folder / "tokenizer_config.json", {"model_max_length": 1e30})
    assert describe(folder).max_tokens == 64


def test_length_is_bounded_by_the_positions(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 512})
    assert describe(folder).max_tokens == 64


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mpnet"}, "architecture 'mpnet'"),
        ({"model_type": "distilbert"}, "architecture 'distilbert'"),
        ({"model_type": None}, "architecture None"),
        ({"position_embedding_type": "relative_key"}, "'relative_key' position embeddings"),
        ({"hidden_act": "mish"}, "activation 'mish'"),
        ({"hidden_size": "big"}, "impossible hidden_size 'big'"),
        ({"num_hidden_layers": 0}, "impossible num_hidden_layers 0"),
        ({"num_attention_heads": 3}, "3 attention heads"),
    ],
)
def test_what_is_not_known_is_refused_by_name(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    folder = make_folder(tmp_path / "model", **config)
    with pytest.raises(ModelFileError, match=message) as caught:
        describe(folder)
    assert caught.value.fields["path"] == str(folder / "config.json")


def test_unknown_pooling_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", pooling="max")
    with pytest.raises(ModelFileError, match="pooling pooling_mode_max_tokens"):
        describe(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, r"mean \+ cls"),
        ({}, "pooling none"),
        ({"pooling_mode": "lasttoken"}, "pooling lasttoken"),
        ({"pooling_mode_mean_tokens": True, "include_prompt": False}, "include_prompt"),
    ],
)
def test_pooling_that_is_not_one_known_mode(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    folder = make_folder(tmp_path / "model")
    write_json(folder / "1_Pooling" / "config.json", content)
    with pytest.raises(ModelFileError, match=message):
        describe(folder)


def test_the_newer_pooling_key_is_read(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": "cls"})
    assert describe(folder).pooling == "cls"


def test_an_unknown_module_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    write_json(folder / "modules.json", modules)
    with pytest.raises(ModelFileError, match="module 'Dense'"):
        describe(folder)


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe", b""])
@pytest.mark.parametrize("name", ["config.json", "sentence_bert_config.json", "1_Pooling/config.json"])
def test_damaged_configuration_names_the_file(tmp_path: Path, name: str, content: bytes) -> None:
    folder = make_folder(tmp_path / "model")
    (folder / name).write_bytes(content)
    with pytest.raises(ModelFileError, match=name.replace(".", r"\.")):
        describe(folder)


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"config\.json can't be read: No such file"):
        read_shape(tmp_path)
