"""The scripts, by subject; importing this registers them all."""

from tests.conformance.scripts import admin, coalescing, disconnects, framing, life, sleeping, times

__all__ = ["admin", "coalescing", "disconnects", "framing", "life", "sleeping", "times"]
