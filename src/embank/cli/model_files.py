"""`embank models pull`, `update`, `outdated` and `prune`: models come, are renewed, and go."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embank.cli import errors, output
from embank.cli.options import Invocation, age_s, configured
from embank.errors import InvalidInput, ModelNotFound
from embank.registry import nearest
from embank.system.size import Size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embank.embed.files.hub import Hub
    from embank.embed.files.inventory import ModelFiles
    from embank.embed.files.prune import Plan
    from embank.embed.files.pull import OnPull, PulledModel, PullProgress
    from embank.embed.settings import Settings

Endpoint = Annotated[
    str | None, typer.Option(metavar="URL", help="A mirror of the hub; else HF_ENDPOINT, else the hub itself.")
]


@configured
def pull(
    invocation: Invocation,
    *,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A name that `embank models list` shows, or a repository OWNER/NAME.")
    ],
    revision: Annotated[
        str | None, typer.Option(metavar="REVISION", help="A branch, tag or commit; it is pinned to its commit.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(metavar="NAME", help="What it is for: onnx and openvino take the ONNX export.")
    ] = None,
    endpoint: Endpoint = None,
) -> None:
    """Download a model: pinned to a commit, and checked against its published checksums; it goes on where it ended.

    [bold]embank models pull minilm[/bold]

    [bold]embank models pull intfloat/e5-small-v2 --revision main[/bold]
    """
    embed = invocation.config().section("embed")
    from embank.embed.files.catalog import KNOWN, find_known
    from embank.embed.files.locate import models_directory
    from embank.embed.files.prune import limit_bytes
    from embank.embed.files.pull import pull as download
    from embank.embed.files.pulled import as_repository

    model = find_known(name)
    if model is None and as_repository(name) is None:
        guess = nearest(name, KNOWN)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ModelNotFound(
            f"unknown model {name!r}: known are {', '.join(KNOWN)}; a repository of the hub is written as "
            f"OWNER/NAME{hint}",
            name=name,
            known=list(KNOWN),
        )
    directory = models_directory(embed.directory)
    with _downloading(name, quiet=invocation.as_json) as told:
        pulled = download(
            model or name,
            directory=directory,
            hub=_hub(embed, endpoint, as_user=model is None or revision is not None),
            revision=revision,
            form="onnx" if engine in ("onnx", "openvino") else None,
            limit_bytes=limit_bytes(embed, directory),
            on_progress=told,
        )
    _tell_pulled(invocation, pulled, name=name)


@configured
def update(
    invocation: Invocation,
    *,
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="A pulled repository.")],
    endpoint: Endpoint = None,
) -> None:
    """Get the newest revision of a pulled repository. The one before stays until it is pruned.

    [bold]embank models update intfloat/e5-small-v2[/bold]
    """
    embed = invocation.config().section("embed")
    from embank.embed.files.locate import models_directory
    from embank.embed.files.prune import limit_bytes
    from embank.embed.files.revisions import update as renew

    directory = models_directory(embed.directory)
    with _downloading(name, quiet=invocation.as_json) as told:
        pulled = renew(
            name,
            directory=directory,
            hub=_hub(embed, endpoint),
            limit_bytes=limit_bytes(embed, directory),
            on_progress=told,
        )
    _tell_pulled(invocation, pulled, name=name)


@configured
def outdated(
    invocation: Invocation,
    *,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Only these.")] = None,
    endpoint: Endpoint = None,
) -> None:
    """Ask the hub whether models have newer revisions: one request a model, only when this is asked.

    [bold]embank models outdated[/bold]
    """
    embed = invocation.config().section("embed")
    from embank.embed.files.locate import models_directory
    from embank.embed.files.revisions import outdated as compare

    found = compare(models_directory(embed.directory), _hub(embed, endpoint), names=names or ())
    if invocation.as_json:
        output.write_json({"models": [{**asdict(each), "meaning": each.meaning} for each in found]})
        return
    if not found:
        output.say("no model that came from a hub is here")
        return
    made = output.table("model", "here", "hub", "", "")
    for each in found:
        newest = None if each.newest is None else each.newest[:12]
        output.add_row(made, each.repository, each.revision[:12], newest, each.standing, each.meaning)
    output.show(made)


@configured
def prune(
    invocation: Invocation,
    *,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME...]", help="Exactly these: names, OWNER/NAME[@COMMIT], folders."),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="What was not used for so long: 30d, 12h, 8w.")
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Least recently used first, until so much is left.")
    ] = None,
    damaged: Annotated[bool, typer.Option("--damaged", help="What is damaged, too.")] = False,
    hub_cache: Annotated[
        bool, typer.Option("--hub-cache", help="The Hugging Face cache's models instead of Embank's own.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove models from the disk; never what a process uses, a package's, or a folder of yours.

    Without a name: what interrupted downloads and conversions left, revisions that a newer one replaced, and then the
    least recently used until embed.directory_limit holds. On a terminal it asks first; elsewhere it wants --yes.

    [bold]embank models prune --older-than 30d --dry-run[/bold]

    [bold]embank models prune intfloat/e5-small-v2 --yes[/bold]
    """
    embed = invocation.config().section("embed")
    from embank.embed.files.hubcache import list_cached, remove_cached
    from embank.embed.files.inventory import list_files
    from embank.embed.files.locate import models_directory
    from embank.embed.files.prune import carry_out, limit_bytes, plan

    directory = models_directory(embed.directory)
    if hub_cache and not (names or older_than or to):
        raise InvalidInput("--hub-cache: say what is to go: a NAME, --older-than or --to")
    limit = None if hub_cache else limit_bytes(embed, directory)
    made = plan(
        list_cached() if hub_cache else list_files(directory, check=damaged),
        names=names or (),
        older_than_s=None if older_than is None else age_s(older_than),
        to_bytes=limit if to is None else _size_bytes(to),
        damaged=damaged,
        now_s=time.time(),
    )
    if made.removals and not dry_run and not yes:
        _ask(made)
    done = None if dry_run else carry_out(made, remove=remove_cached if hub_cache else None)
    kept = [(each, "in use") for each in made.in_use] if done is None else done.kept
    went = made.removals if done is None else done.removed
    if invocation.as_json:
        output.write_json(
            {
                "directory": None if hub_cache else str(directory),
                "dry_run": dry_run,
                "removed": [{**_facts(each.files), "why": each.why} for each in went],
                "kept": [{**_facts(each), "why": why} for each, why in kept],
                "freed_bytes": sum(each.files.bytes for each in went),
                "bytes_before": made.bytes_before,
                "over_bytes": made.over_bytes,
            }
        )
    else:
        for each in went:
            output.say(f"{'would remove' if dry_run else 'removed'} {_line(each.files)}: {each.why}")
        for files, why in kept:
            output.say(f"kept {_line(files)}: {why}")
        freed = sum(each.files.bytes for each in went)
        left = made.bytes_before - freed
        output.say(f"{output.size(freed)} {'would be ' if dry_run else ''}freed, {output.size(left)} left")
    if made.over_bytes:
        raise typer.Exit(errors.REFUSED)  # the goal can't be met, since the rest is in use


def _hub(embed: Settings, endpoint: str | None, *, as_user: bool = True) -> Hub:
    from embank.embed.files.hub import Hub

    return Hub(endpoint, offline=embed.offline, as_user=as_user)


@contextmanager
def _downloading(name: str, *, quiet: bool) -> Iterator[OnPull]:
    from embank.cli.progress import Doing, showing

    doing = Doing(name)
    started_s = time.monotonic()
    before: int | None = None

    def told(step: PullProgress) -> None:
        nonlocal before
        before = step.bytes_done if before is None else before  # what an earlier attempt brought
        seconds = time.monotonic() - started_s
        rate = f"{output.size(round((step.bytes_done - before) / seconds))}/s" if seconds > 0.5 else ""
        amount = f"{output.size(step.bytes_done)} of {output.size(step.bytes_total)}"
        doing.update(step.bytes_done / max(step.bytes_total, 1), " · ".join(filter(None, (step.file, amount, rate))))

    with showing(doing, quiet=quiet):
        yield told


def _tell_pulled(invocation: Invocation, pulled: PulledModel, *, name: str) -> None:
    if invocation.as_json:
        output.write_json(asdict(pulled))
        return
    was = "pulled" if pulled.fetched else "is here already"
    output.say(
        f"{output.plain(name)} {was}: {output.size(pulled.bytes)} at commit {pulled.revision[:12]} in {pulled.folder}"
    )


def _facts(files: ModelFiles) -> dict[str, Any]:
    return {
        "name": files.name,
        "kind": files.kind,
        "folder": str(files.folder),
        "bytes": files.bytes,
        "revision": files.revision,
        "last_used": files.last_used_s,
    }


def _line(files: ModelFiles) -> str:
    return output.plain(f"{files.name} ({files.kind}, {output.size(files.bytes)}) in {files.folder}")


def _ask(made: Plan) -> None:
    """Go on only after a yes."""
    total = output.size(sum(each.files.bytes for each in made.removals))
    what = f"{output.counted(len(made.removals), 'folder')} of models ({total})"
    if not _is_a_terminal():
        raise InvalidInput(f"this removes {what}: say --yes, or --dry-run to see them", matched=len(made.removals))
    for each in made.removals:
        sys.stderr.write(f"{_line(each.files)}: {each.why}\n")
    if not typer.confirm(f"Remove {what}?", err=True):
        raise typer.Exit


def _is_a_terminal() -> bool:
    return sys.stdin.isatty()


def _size_bytes(text: str) -> int:
    if text.strip() in ("0", "0B", "0MB"):
        return 0
    size = Size(text)
    if size.fraction is not None:
        raise InvalidInput(f"--to {text!r}: give bytes, 512MB or 1.5GiB", value=text)
    return size.resolve(0)
