"""The bounds of what is encoded and decoded. Design, section 5: bounded before anything is built."""

from __future__ import annotations

from typing import Final

MAX_SIZE: Final = 64 * 1024 * 1024
"""Bytes that one encoded value may have, unless the caller says otherwise; a packet's default bound too."""

MAX_DEPTH: Final = 64
"""Containers that may lie in each other, counted from the outside; a tuple or a set counts as one."""

MAX_COLLISIONS: Final = 1000
"""Hashes that may be equal in one set, or in one map whose keys are not text.

Numbers can be chosen so that all hash alike, which makes building a set of a million of them take hours.
"""
