"""Runs a fuzz target with atheris: ``python -m tests.fuzz.run message --seconds 300``; see README.md beside this file.

It is a program of its own rather than a test: it goes on for as long as it is told, and ends with the first input that
breaks the target's invariant, which it leaves in the folder of the corpus.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from tests.fuzz.targets import TARGETS

HERE = Path(__file__).parent
MAX_LENGTH = 4096
"""Bytes of an input: what is larger finds the same more slowly."""

TIMEOUT = 10
MEMORY = 1024
"""Seconds that one input may take, and MiB that the process may have: more is a finding."""


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60, help="how long to go on (default: 60)")
    parser.add_argument("--corpus", type=Path, help="keep what is found interesting here, and begin with it next time")
    parser.add_argument("input", type=Path, nargs="*", help="run these inputs alone, once each, without atheris")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Runs until the time is over; never returns then, since libFuzzer ends the process."""
    told = arguments(given)
    if told.input:
        fuzz = importlib.import_module(f"tests.fuzz.{told.target}").fuzz
        for path in told.input:
            fuzz(path.read_bytes())
        print(f"{len(told.input)} inputs hold.")
        return 0
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: pip install atheris. Without it `pytest tests/fuzz` runs a short form.")
        return 2
    with atheris.instrument_imports(include=["gtask"]):
        module = importlib.import_module(f"tests.fuzz.{told.target}")
    corpus = told.corpus or Path(tempfile.mkdtemp(prefix=f"gtask-fuzz-{told.target}-"))
    corpus.mkdir(parents=True, exist_ok=True)
    found = sorted((HERE / "found" / told.target).glob("*"))
    for data in [*module.seeds(), *(path.read_bytes() for path in found)]:
        (corpus / sha256(data).hexdigest()[:20]).write_bytes(data)
    print(f"Fuzzing {told.target} for {told.seconds} s, corpus in {corpus}", flush=True)
    options = [
        f"-max_total_time={told.seconds}",
        f"-max_len={MAX_LENGTH}",
        f"-timeout={TIMEOUT}",
        f"-rss_limit_mb={MEMORY}",
        f"-artifact_prefix={corpus}/broken-",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], module.fuzz)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
