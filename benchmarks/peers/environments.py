"""The peers' virtual environments: made once in a folder of the user's cache, with pinned versions."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES: dict[str, tuple[str, ...]] = {
    "celery": ("celery[redis]==5.7.0", "hiredis==3.5.0", "gevent==26.9.0"),
    "dramatiq": ("dramatiq[redis]==2.2.1", "hiredis==3.5.0", "gevent==26.9.0"),
    "huey": ("huey==3.5.4", "redis==8.1.0", "hiredis==3.5.0", "gevent==26.9.0"),
    "taskiq": ("taskiq[orjson]==0.13.0", "taskiq-redis==1.2.4", "hiredis==3.5.0", "uvloop==0.23.0"),
    # It imports typing_extensions without asking for it.
    "saq": ("saq[redis,hiredis]==0.26.4", "uvloop==0.23.0", "typing_extensions==4.16.0"),
}
"""What is installed for each peer; a changed line makes a new environment."""

INSTALL_LIMIT = 600
"""Seconds that one environment may take."""


class CannotInstall(Exception):
    """A peer cannot be measured here; says why in one sentence."""


def cache_folder() -> Path:
    """Where the environments are, unless an option says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gtask-benchmarks"


def interpreter(peer: str, cache: Path) -> Path:
    """Returns the interpreter of a peer's environment, which is made if it is not there; raises `CannotInstall`."""
    packages = PACKAGES[peer]
    key = hashlib.sha256(" ".join([sys.version, *packages]).encode()).hexdigest()[:12]
    folder = cache / f"{peer}-{key}"
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotInstall(f"{peer} cannot be installed: {error}.") from None
    print(f"Installing {', '.join(packages)} in {folder}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    for command in ([sys.executable, "-m", "venv", str(folder)], pip):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotInstall(f"{peer} cannot be installed: {error}.") from None
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no word"]
            raise CannotInstall(f"{peer} cannot be installed: {last[0]}")
    (folder / "complete").touch()
    return python


def compiled(folder: Path) -> Path:
    """Compiles libgearman's client and worker into a folder and returns the program; raises `CannotInstall`."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise CannotInstall("libgearman is left out: there is no C compiler.")
    source, program = Path(__file__).with_name("libgearman.c"), folder / "libgearman"
    command = [compiler, "-O2", "-Wall", str(source), "-o", str(program), "-lgearman"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT)
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
        raise CannotInstall(f"libgearman is left out: its C source does not compile ({first.strip()}).")
    return program
