"""Values to bytes and back: msgpack with extensions, JSON, and what annotations say. Design, section 5."""

from __future__ import annotations

from gtask.codecs.annotations import convert
from gtask.codecs.limits import MAX_DEPTH, MAX_SIZE
from gtask.codecs.packed import pack, unpack
from gtask.codecs.text import from_json, to_json

__all__ = ["MAX_DEPTH", "MAX_SIZE", "convert", "from_json", "pack", "to_json", "unpack"]
