"""`embank stats` and `embank count`: what is there and what it weighs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embank.cli import output
from embank.cli.opening import open_bank, open_collection
from embank.cli.options import CollectionName, Invocation, on_bank
from embank.cli.reembed import how_far
from embank.errors import CollectionNotFound

if TYPE_CHECKING:
    from embank.store.protocol import CollectionInfo


@on_bank
def stats(
    invocation: Invocation,
    *,
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", metavar="NAME", help="Only this collection.")
    ] = None,
) -> None:
    """Show what each collection holds and what it weighs on disk.

    [bold]embank stats --json[/bold]
    """
    with open_bank(invocation, "read") as bank:
        infos = [info for info in bank.collections() if collection in (None, info.name)]
        if collection is not None and not infos:
            raise CollectionNotFound(f"there is no collection {collection!r} in {bank.path}", name=collection)
        on_disk = disk_bytes(bank.path)
        found = {info.name: bank.collection(info.name).reembedding() for info in infos}
        under_way = {name: state for name, state in found.items() if state is not None}
    if invocation.as_json:
        output.write_json(
            {
                "bank": str(invocation.bank),
                "collections": [
                    {
                        **info.as_dict(),
                        "vector_bytes": vector_bytes(info),
                        "reembedding": under_way[info.name].as_dict() if info.name in under_way else None,
                    }
                    for info in infos
                ],
                "disk_bytes": on_disk,
            }
        )
        return
    if not infos:
        output.say(f"{invocation.bank} is empty: `embank index` or `embank add` puts documents into it")
        return
    _show(infos, on_disk)
    for name, state in under_way.items():
        output.say(f"{output.plain(name)} is being re-embedded: {how_far(state)}")


@on_bank
def count(invocation: Invocation, *, collection: CollectionName = "default") -> None:
    """Print how many documents a collection holds.

    [bold]embank count -c notes[/bold]
    """
    with open_collection(invocation, collection, "read") as opened:
        documents = opened.count()
    if invocation.as_json:
        output.write_json({"collection": collection, "count": documents})
    else:
        output.say(str(documents))


def _show(infos: list[CollectionInfo], on_disk: dict[str, int]) -> None:
    columns = ("collection", "documents", "passages", "text", "vectors", "model", "changed")
    made = output.table(*columns, numbers=columns[1:5])
    for info in infos:
        fingerprint = (info.fingerprint or "").rpartition(":")[0] or info.fingerprint
        output.add_row(
            made,
            info.name + (" (protected)" if info.protected else ""),
            f"{info.documents:,}",
            f"{info.chunks:,}",
            output.size(info.text_bytes),
            output.size(vector_bytes(info)),
            f"{fingerprint} as {info.dtype}, by {info.metric}" if fingerprint else None,
            output.moment(info.changed),
        )
    parts = ", ".join(f"{name} {output.size(held)}" for name, held in on_disk.items() if name != "total")
    output.show(made)
    output.say(f"on disk {output.size(on_disk['total'])}: {parts}")


def vector_bytes(info: CollectionInfo) -> int:
    """Bytes of a collection's vectors on disk, those of deleted passages included, since slots are never reused."""
    if info.dimension is None:
        return 0
    from embank.store.codec import Codec

    return info.slots * Codec(info.dtype, info.dimension).record.itemsize


def disk_bytes(root: Path) -> dict[str, int]:
    """What each part of a bank's directory takes on the disk, and the total."""
    parts: dict[str, int] = {}
    for folder, _, files in os.walk(root):
        for file in files:
            path = Path(folder, file)
            try:
                held = path.stat().st_blocks * 512
            except FileNotFoundError:  # a writer replaced it meanwhile
                continue
            first = path.relative_to(root).parts[0]
            name = "bank.db" if first.startswith("bank.db") else first
            parts[name] = parts.get(name, 0) + held
    largest_first = dict(sorted(parts.items(), key=lambda part: -part[1]))
    return {**largest_first, "total": sum(parts.values())}
