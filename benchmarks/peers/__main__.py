"""`python -m benchmarks.peers MODULE`: imports an adapter and holds its conversation; its class is called `Peer`."""

from __future__ import annotations

import importlib
import sys

from benchmarks.peers.speech import talk

if __name__ == "__main__":
    talk(importlib.import_module(sys.argv[1]).Peer)
