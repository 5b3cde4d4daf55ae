"""Install one pinned requirements file into the environment that runs this, and tell of it in one line.

pip's own output is a line or more a package, or nothing at all for half a minute with `--quiet`. This shows one line
that moves on a terminal and two lines elsewhere; when pip fails, all that it said is printed.

The files name everything that is needed, so pip resolves nothing (`--no-deps`); where they carry hashes, pip refuses
whatever differs. Byte code is left to the first import, which compiles only what is used.

Usage: install.py FILE TITLE [--with-dependencies]
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

PIP = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]

FROM_SOURCE = "annoy"
"""What is published as source alone, and compiled here."""


def pinned(path: Path) -> int:
    """How many packages the file pins, those for other platforms included."""
    return sum(1 for line in path.read_text().splitlines() if line[:1].isalnum())


def install(path: Path, title: str, *, with_dependencies: bool) -> int:
    """Run pip on the file; answer its exit code."""
    command = [*PIP, "--no-compile", "--only-binary=:all:", f"--no-binary={FROM_SOURCE}", "--requirement", str(path)]
    if not with_dependencies:
        command.append("--no-deps")
    total, seen = pinned(path), 0
    alive = sys.stdout.isatty()
    began = time.monotonic()
    said: list[str] = []
    if not alive:
        print(f"installing {title} (pinned packages: {total}) ...", flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        for line in pip.stdout or ():
            said.append(line)
            first, _, rest = line.strip().partition(" ")
            if first in ("Collecting", "Requirement", "Ignoring"):
                seen += 1
            if alive and first in ("Collecting", "Installing"):
                step = rest.split(" ")[0] if first == "Collecting" else "unpacking"
                told = f"installing {title}: {seen}/{total} {step}"[: shutil.get_terminal_size().columns - 1]
                print(f"\r\033[K{told}", end="", flush=True)
    if alive:
        print("\r\033[K", end="")
    if pip.returncode:
        print("".join(said), end="")
        print(f"installing {title} failed", file=sys.stderr)
    else:
        print(f"installed {title} in {time.monotonic() - began:.0f} s", flush=True)
    return pip.returncode


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--with-dependencies"]
    file, name = arguments
    sys.exit(install(Path(file), name, with_dependencies="--with-dependencies" in sys.argv))
