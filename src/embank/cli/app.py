"""Where the process `embank` begins.

The order matters: the version and a bank's figures are told before anything heavy is imported, and the allocator and
the thread counts are set before numpy and the model's runtime read them.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from embank.registry import import_path


def main() -> NoReturn:
    """Run one command with the arguments of this process and exit with its code (see `embank.cli.errors`)."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--version"]:
        sys.stdout.write(f"embank {import_path('embank:__version__')}\n")
        sys.exit(0)
    if arguments[:1] == ["stats"]:
        from embank.cli import glance

        if glance.answered(arguments[1:]):
            sys.exit(0)
    from embank.memory import hygiene

    hygiene.apply()
    from embank.cli.program import command

    command().main(args=arguments, prog_name="embank")
    sys.exit(0)
