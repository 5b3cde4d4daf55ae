"""The program: its commands, its help, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import Abort, Exit

from embank.cli import (
    bench_models,
    cache,
    config,
    demo,
    documents,
    drop,
    errors,
    evaluate,
    hot,
    index,
    ingest,
    keys,
    mcp,
    memory,
    model_files,
    model_use,
    models,
    reduce,
    reembed,
    safety,
    search,
    search_many,
    serve,
    stats,
    transfer,
    tuning,
    upkeep,
)
from embank.cli.groups import DEFAULT, DefaultGroup
from embank.registry import import_path

_HELP = """
Embed text, store it and search it, inside a memory budget that holds.

See it work:  [bold]embank demo[/bold]

Your own:     [bold]embank index ~/notes --include '*.md'[/bold]
              [bold]embank search "what did we decide about backups" -k 5[/bold]
              [bold]embank list --where '{"title": "Plans"}'[/bold]

Set it up:    [bold]embank models list[/bold]
              [bold]embank config show memory[/bold]
"""

_EPILOG = (
    "The bank is --bank, else $EMBANK_BANK, else ./embank.bank; the collection is -c, else default. "
    "Every command takes --json and --help.\n\n"
    "Exit codes: " + "; ".join(errors.exit_code_lines()) + "."
)


class Program(TyperGroup):
    """The group of all commands. Ends in `SystemExit`, whatever happens."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = False,  # noqa: ARG002, FBT001, FBT002 -- the parser's own signature; always off here
        windows_expand_args: bool = True,  # noqa: FBT001, FBT002 -- likewise
        **extra: Any,
    ) -> Any:
        """Run one command; every error is told once and becomes its exit code."""
        arguments = list(sys.argv[1:] if args is None else args)
        as_json = "--json" in arguments
        try:
            code = super().main(
                arguments, prog_name, complete_var, False, windows_expand_args, **{**extra, "obj": as_json}
            )
        except Abort:  # end of input where an answer was asked for
            code = errors.tell(KeyboardInterrupt(), as_json=as_json)
        except typer.TyperException as error:
            code = _usage(error, as_json=as_json)
        raise SystemExit(code if isinstance(code, int) else errors.OK)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the line names; `ctx.obj` says whether a program reads the answer."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except (Exit, Abort, typer.TyperException):
            raise
        except BrokenPipeError as error:
            # Python flushes standard output once more at exit, which would fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Exit(errors.READER_GONE) from error
        except (Exception, KeyboardInterrupt) as error:
            raise Exit(errors.tell(error, as_json=ctx.obj)) from error
        else:
            return result
        finally:
            from embank.system.log import unconfigure

            unconfigure()


def _usage(error: Any, *, as_json: bool) -> int:
    """A wrong command line, told by the parser's own words."""
    if not as_json:
        error.show()
    else:
        errors.tell_failure("UsageError", error.format_message(), code=errors.USAGE, as_json=True)
    return errors.USAGE


def _version(*, asked: bool) -> None:
    if asked:
        typer.echo(f"embank {import_path('embank:__version__')}")
        raise typer.Exit


app = typer.Typer(
    name="embank",
    cls=Program,
    help=_HELP,
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=lambda value: _version(asked=value)
        ),
    ] = False,
) -> None:
    pass


_TRY, _WRITE, _READ, _SET_UP = "See it work", "Put documents in", "Get answers out", "Models and settings"
_KEEP = "Keep it safe"
_SERVE = "Serve it"

app.command("demo", rich_help_panel=_TRY)(demo.demo)
_index = typer.Typer(cls=DefaultGroup)
_index.command(DEFAULT, hidden=True)(ingest.index)
_index.command("show")(index.show)
_index.command("plan")(index.plan)
_index.command("build")(index.build)
_index.command("evaluate")(evaluate.evaluate)
app.add_typer(_index, name="index", rich_help_panel=_WRITE, help=ingest.index.__doc__)
app.command("add", rich_help_panel=_WRITE)(ingest.add)
app.command("reembed", rich_help_panel=_WRITE)(reembed.reembed)
app.command("delete", rich_help_panel=_WRITE)(documents.delete)
app.command("purge", rich_help_panel=_WRITE)(upkeep.purge)
app.command("drop", rich_help_panel=_WRITE)(drop.drop)
app.command("compact", rich_help_panel=_WRITE)(upkeep.compact)
_search = typer.Typer(cls=DefaultGroup)
_search.command(DEFAULT, hidden=True)(search.search)
_search.command("many")(search_many.many)
_search.command("evaluate")(tuning.evaluate)
_search.command("tune")(tuning.tune)
app.add_typer(_search, name="search", rich_help_panel=_READ, help=search.search.__doc__)
app.command("like", rich_help_panel=_READ)(search.like)
app.command("get", rich_help_panel=_READ)(documents.get)
app.command("list", rich_help_panel=_READ)(documents.list_)
app.command("count", rich_help_panel=_READ)(stats.count)
app.command("stats", rich_help_panel=_READ)(stats.stats)
app.command("memory", rich_help_panel=_READ)(memory.memory)
app.command("cache", rich_help_panel=_READ)(cache.cache)
app.command("verify", rich_help_panel=_KEEP)(safety.verify)
app.command("backup", rich_help_panel=_KEEP)(safety.backup)
app.command("restore", rich_help_panel=_KEEP)(safety.restore)
app.command("migrate", rich_help_panel=_KEEP)(safety.migrate)
app.command("export", rich_help_panel=_KEEP)(transfer.export)
app.command("import", rich_help_panel=_KEEP)(transfer.import_)

app.command("serve", rich_help_panel=_SERVE)(serve.serve)
_keys = typer.Typer(no_args_is_help=True, help="Who may come in at `embank serve`.")
_keys.command("add")(keys.add)
_keys.command("list")(keys.list_)
_keys.command("revoke")(keys.revoke)
app.add_typer(_keys, name="keys", rich_help_panel=_SERVE)
app.command("mcp", rich_help_panel=_SERVE)(mcp.mcp)

_models = typer.Typer(no_args_is_help=True, help="Which embedding models there are, and getting one.")
_models.command("list")(models.list_)
_models.command("pull")(model_files.pull)
_models.command("warm")(model_use.warm)
_models.command("convert")(model_use.convert)
_models.command("prune")(model_files.prune)
_models.command("outdated")(model_files.outdated)
_models.command("update")(model_files.update)
_models.command("bench")(bench_models.bench)
app.add_typer(_models, name="models", rich_help_panel=_SET_UP)

_reduce = typer.Typer(no_args_is_help=True, help="Vectors in fewer bytes, and what that does to the answers.")
_reduce.command("evaluate")(reduce.evaluate)
_reduce.command("fit")(reduce.fit)
_reduce.command("apply")(reduce.apply)
app.add_typer(_reduce, name="reduce", rich_help_panel=_WRITE)

_hot = typer.Typer(no_args_is_help=True, help="The documents that are read most, and the copy of them.")
_hot.command("show")(hot.show)
_hot.command("rebuild")(hot.rebuild)
app.add_typer(_hot, name="hot", rich_help_panel=_READ)

_config = typer.Typer(no_args_is_help=True, help="Settings and where they come from.")
_config.command("show")(config.show)
app.add_typer(_config, name="config", rich_help_panel=_SET_UP)


def command() -> Any:
    """The program as one object that can be run."""
    return typer.main.get_command(app)
