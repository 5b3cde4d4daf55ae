"""`embank models list` and `pull`: which models there are, which are here, and how to get one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embank.cli import output
from embank.cli.options import Invocation, configured
from embank.errors import ModelFileError, ModelNotFound
from embank.registry import nearest

if TYPE_CHECKING:
    from embank.embed.catalog import KnownModel


@configured
def list_(invocation: Invocation) -> None:
    """List the models that Embank knows by name: what they are, whether they are here, what they weigh.

    [bold]embank models list[/bold]
    """
    embed = invocation.config().section("embed")
    from embank.embed.catalog import KNOWN
    from embank.embed.locate import models_directory

    directory = models_directory(embed.directory)
    models = [_facts(model, directory, chosen=embed.model) for model in KNOWN.values()]
    if invocation.as_json:
        output.write_json({"directory": str(directory), "models": models})
        return
    made = output.table("model", "dimensions", "tokens", "licence", "where", "converted", numbers=["tokens"])
    for facts in models:
        copies = "\n".join(f"{copy['precision']}: {output.size(copy['bytes'])}" for copy in facts["converted"])
        name = f"{facts['name']}{' (in use)' if facts['chosen'] else ''}\n{facts['title']}"
        dimensions = ", ".join(map(str, facts["dimensions"]))
        where = _short(facts["folder"]) if facts["folder"] else f"not here: {facts['get']}"
        output.add_row(
            made, _lines(name), dimensions, f"{facts['max_tokens']:,}", facts["license"], where, _lines(copies or "–")
        )
    output.show(made)
    output.say(f"converted and pulled models: {_short(str(directory))}")
    output.say("any folder with a BERT-family model in safetensors will do, too: --model FOLDER")


@configured
def pull(
    invocation: Invocation,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that `embank models list` shows.")],
) -> None:
    """Download a model: pinned, and checked against its published checksums. Nothing else is ever downloaded.

    [bold]embank models pull minilm[/bold]
    """
    embed = invocation.config().section("embed")
    from embank.embed.catalog import KNOWN, find_known
    from embank.embed.locate import models_directory
    from embank.embed.pull import pull as download

    model = find_known(name)
    if model is None:
        guess = nearest(name, KNOWN)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ModelNotFound(f"unknown model {name!r}: known are {', '.join(KNOWN)}{hint}", name=name, known=list(KNOWN))
    folder = download(
        model, directory=models_directory(embed.directory), progress=_downloading(quiet=invocation.as_json)
    )
    if invocation.as_json:
        output.write_json({"name": model.name, "folder": str(folder), "bytes": _folder_bytes(folder)})
    else:
        output.say(f"{model.name}: {output.size(_folder_bytes(folder))} in {folder}")


def _facts(model: KnownModel, directory: Path, *, chosen: str) -> dict[str, Any]:
    from embank.embed.locate import find_files

    folder = find_files(model, directory=directory)
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
        "converted": _converted(model, directory),
    }


def _converted(model: KnownModel, directory: Path) -> list[dict[str, Any]]:
    """Copies in the engine's own format; of a damaged one its `problem`."""
    if not directory.is_dir():
        return []
    from embank.embed.manifest import NAME, read_manifest

    copies = []
    for folder in sorted(directory.glob(f"{model.name}-*")):
        if not (folder / NAME).is_file():
            continue
        copy: dict[str, Any] = {"folder": str(folder), "bytes": _folder_bytes(folder)}
        try:
            copies.append({**copy, "precision": read_manifest(folder).precision})
        except ModelFileError as error:
            copies.append({**copy, "precision": "damaged", "problem": error.message})
    return copies


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _downloading(*, quiet: bool) -> Any:
    def tell(file: str, fraction: float) -> None:
        if file and not quiet:
            sys.stderr.write(f"{fraction:4.0%}  {file}\n")
            sys.stderr.flush()

    return tell


def _short(path: str) -> str:
    home = str(Path.home())
    return "~" + path[len(home) :] if home != "/" and path.startswith(home + "/") else path


def _lines(text: str) -> Any:
    from rich.text import Text

    return Text(output.plain(text, lines=True))
