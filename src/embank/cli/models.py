"""`embank models list`: which models there are, which are here, what they weigh, and when they were used."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embank.cli import output
from embank.cli.options import Invocation, configured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embank.embed.files.catalog import KnownModel
    from embank.embed.files.inventory import ModelFiles


@configured
def list_(
    invocation: Invocation,
    *,
    check: Annotated[bool, typer.Option("--check", help="Read every file and compare checksums.")] = False,
) -> None:
    """List models: those that Embank knows by name, and everything of models on this disk.

    [bold]embank models list[/bold]
    """
    embed = invocation.config().section("embed")
    from embank.embed.files.catalog import KNOWN
    from embank.embed.files.hubcache import list_cached
    from embank.embed.files.inventory import list_files, own
    from embank.embed.files.locate import models_directory
    from embank.embed.files.prune import limit_bytes

    directory = models_directory(embed.directory)
    limit = limit_bytes(embed, directory)
    files = [*list_files(directory, check=check), *list_cached()]
    total = sum(each.bytes for each in own(files))
    models = [_facts(model, directory, files, chosen=embed.model) for model in KNOWN.values()]
    if invocation.as_json:
        output.write_json(
            {
                "directory": str(directory),
                "total_bytes": total,
                "limit_bytes": limit,
                "models": models,
                "files": [_file_facts(each) for each in files],
            }
        )
        return
    _show_known(models)
    if files:
        _show_files(files)
    within = f" of {output.size(limit)} (embed.directory_limit)" if limit is not None else ""
    output.say(f"converted and pulled models: {output.size(total)}{within} in {_short(str(directory))}")
    output.say("any folder with a BERT-family model in safetensors will do, too: --model FOLDER")


def _show_known(models: Sequence[dict[str, Any]]) -> None:
    made = output.table("model", "dimensions", "tokens", "licence", "where", numbers=["tokens"])
    for facts in models:
        name = f"{facts['name']}{' (chosen)' if facts['chosen'] else ''}\n{facts['title']}"
        dimensions = ", ".join(map(str, facts["dimensions"]))
        where = _short(facts["folder"]) if facts["folder"] else f"not here: {facts['get']}"
        output.add_row(made, _lines(name), dimensions, f"{facts['max_tokens']:,}", facts["license"], where)
    output.show(made)


def _show_files(files: Sequence[ModelFiles]) -> None:
    made = output.table("on this disk", "kind", "engine", "revision", "size", "last used", "state", numbers=["size"])
    for each in files:
        engine = " ".join(filter(None, (each.engine, each.precision))) or None
        revision = None if each.revision is None else f"{each.revision[:12]}{' pinned' if each.pinned else ''}"
        used = None if each.last_used_s is None else _ago(time.time() - each.last_used_s)
        output.add_row(made, each.name, each.kind, engine, revision, output.size(each.bytes), used, _state(each))
    output.show(made)


def _state(files: ModelFiles) -> str:
    words = [
        "in use" if files.in_use else "",
        f"damaged: {files.problem}" if files.problem is not None else "",
        "superseded" if files.superseded else "",
        "not Embank's: left alone" if files.kind == "foreign" else "",
        "left by what was interrupted" if files.kind == "leftover" and not files.in_use else "",
    ]
    return ", ".join(filter(None, words)) or "whole"


def _ago(seconds: float) -> str:
    for name, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{output.counted(int(seconds // length), name)} ago"
    return "now"


def _facts(model: KnownModel, directory: Path, files: Sequence[ModelFiles], *, chosen: str) -> dict[str, Any]:
    from embank.embed.files.locate import find_files

    folder = find_files(model, directory=directory)
    copies = [each for each in files if each.kind == "converted" and each.name == model.name]
    return {
        "name": model.name,
        "title": model.title,
        "engine": model.engine,
        "license": model.license,
        "dimensions": list(model.dimensions),
        "max_tokens": model.max_tokens,
        "chosen": chosen == model.name or chosen in model.aliases,
        "folder": None if folder is None else str(folder),
        "get": f"embank models pull {model.name}" if model.repository else model.install,
        "converted": [_copy_facts(each) for each in copies],
    }


def _copy_facts(copy: ModelFiles) -> dict[str, Any]:
    """A copy in the engine's own format; of a damaged one its `problem`."""
    facts: dict[str, Any] = {"folder": str(copy.folder), "bytes": copy.bytes}
    if copy.problem is not None:
        return {**facts, "precision": "damaged", "problem": copy.problem}
    return {**facts, "precision": copy.precision}


def _file_facts(files: ModelFiles) -> dict[str, Any]:
    return {
        "name": files.name,
        "kind": files.kind,
        "folder": str(files.folder),
        "bytes": files.bytes,
        "engine": files.engine,
        "precision": files.precision,
        "repository": files.repository,
        "revision": files.revision,
        "pinned": files.pinned,
        "last_used": files.last_used_s,
        "in_use": files.in_use,
        "superseded": files.superseded,
        "problem": files.problem,
    }


def _short(path: str) -> str:
    home = str(Path.home())
    return "~" + path[len(home) :] if home != "/" and path.startswith(home + "/") else path


def _lines(text: str) -> Any:
    from rich.text import Text

    return Text(output.plain(text, lines=True))
