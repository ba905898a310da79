"""Ids and records in pieces that a store can take at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from gtask.results.checks import is_id
from gtask.states import Record

CHUNK: Final = 500
CHUNK_BYTES: Final = 4 * 1024 * 1024
"""Ids or records, and bytes of records, in one piece, unless a single record is larger."""


def chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    """The ids that can be known to a store, without duplicates, in pieces."""
    rest = iter(dict.fromkeys(id for id in ids if is_id(id)))
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def cut(records: Iterable[Record]) -> Iterator[list[Record]]:
    """The records in pieces, in their order."""
    chunk: list[Record] = []
    size = 0
    for record in records:
        if chunk and (len(chunk) >= CHUNK or size + len(record.body) > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(record)
        size += len(record.body)
    if chunk:
        yield chunk


def folded(records: Iterable[Record]) -> list[Record]:
    """One record for each id: the first that is ready, else the last. Sorted, so that batches do not lock crosswise."""
    last: dict[str, Record] = {}
    for record in records:
        if record.id not in last or not last[record.id].ready:
            last[record.id] = record
    return [last[id] for id in sorted(last)]
