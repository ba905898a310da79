"""Counting the members of chords in a SQLite file. Design, section 4.

Each member is counted once, whoever hands it in how often. The one that completes the chord gets the body's job, and
gets it again when it is handed in again: whoever was to submit it may have died in between. Once the body has a
result nobody gets it any more. The body is kept by itself, since it may be large and is looked at once.
"""

from __future__ import annotations

import logging
import sqlite3
from typing import Final

import msgpack

from gtask.results.joins import Body, Join, complete
from gtask.signing import Keyring
from gtask.states import Record, State
from gtask.types import Submission

log = logging.getLogger("gtask.results")

TABLES: Final = """
CREATE TABLE joins (
    chord TEXT NOT NULL PRIMARY KEY,
    size INTEGER NOT NULL,
    body BLOB NOT NULL,
    arrived INTEGER NOT NULL DEFAULT 0,
    completed_by INTEGER,
    expires REAL NOT NULL
);
CREATE INDEX joins_expires ON joins (expires);
CREATE TABLE members (
    chord TEXT NOT NULL,
    position INTEGER NOT NULL,
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (chord, position)
);
"""

BODIES: Final = """
CREATE TABLE bodies (chord TEXT NOT NULL PRIMARY KEY, body BLOB NOT NULL);
INSERT INTO bodies (chord, body) SELECT chord, body FROM joins;
ALTER TABLE joins DROP COLUMN body;
"""
"""What a later version of the file changes: a chord may be there before its body."""

_JOIN: Final = """
INSERT INTO joins (chord, size, expires) VALUES (?1, ?2, ?3)
ON CONFLICT (chord) DO UPDATE SET expires = max(expires, ?3)
RETURNING size, arrived, completed_by
"""


def hand_in(
    db: sqlite3.Connection, join: Join, expires: float, now: float, keys: Keyring | None = None
) -> tuple[Submission | None, list[Record]]:
    """Counts a member, inside the caller's transaction: the job to submit now, and the records to keep with it.

    `expires` and `now` are Unix times in seconds; a chord is kept until the last `expires` of its members. With `keys`
    the body is verified, and the job is signed.
    """
    chord, position, _, record, _ = join
    ((size, arrived, completed_by),) = db.execute(_JOIN, (chord, join.size, expires)).fetchall()
    if position >= size:
        log.error("Member %d of the chord %s is not counted: it has %d members.", position, chord, size)
        return None, []
    if join.body is not None:
        db.execute("INSERT OR IGNORE INTO bodies (chord, body) VALUES (?, ?)", (chord, pack_body(join.body)))
    counted = db.execute(
        "INSERT OR IGNORE INTO members (chord, position, id, state, body) VALUES (?, ?, ?, ?, ?)",
        (chord, position, record.id, str(record.state), record.body),
    ).rowcount
    arrived += counted
    if counted and arrived == size:
        completed_by = position
    if counted:
        db.execute("UPDATE joins SET arrived = ?, completed_by = ? WHERE chord = ?", (arrived, completed_by, chord))
    if completed_by != position:
        return None, []
    body = unpack_body(*db.execute("SELECT body FROM bodies WHERE chord = ?", (chord,)).fetchone())
    if db.execute("SELECT 1 FROM results WHERE id = ? AND ready AND expires > ?", (body.id, now)).fetchone():
        return None, []
    members = db.execute("SELECT id, state, body FROM members WHERE chord = ? ORDER BY position", (chord,))
    return follow_up(body, [Record(id, State(state), data) for id, state, data in members], keys, now)


def follow_up(
    body: Body, records: list[Record], keys: Keyring | None, now: float
) -> tuple[Submission | None, list[Record]]:
    """What follows from a complete chord: the job to submit, or the records to keep; also where it cannot be completed.

    `records` are those of the members in their order, `now` is a Unix time in seconds.
    """
    after = complete(body, records, keys, now)
    return (after, []) if isinstance(after, Submission) else (None, after)


def sweep(db: sqlite3.Connection, now: float, limit: int) -> bool:
    """Drops up to `limit` members of chords whose time is over, and chords without members; whether more are left."""
    due = "SELECT chord FROM joins WHERE expires <= ? LIMIT 100"
    found = f"SELECT rowid FROM members WHERE chord IN ({due}) LIMIT ?"
    if db.execute(f"DELETE FROM members WHERE rowid IN ({found})", (now, limit)).rowcount >= limit:
        return True
    db.execute(f"DELETE FROM bodies WHERE chord IN ({due})", (now,))
    return db.execute(f"DELETE FROM joins WHERE chord IN ({due})", (now,)).rowcount >= 100


def pack_body(body: Body | None) -> bytes:
    """A chord's body as a store keeps it; nothing for the one that is still to come."""
    packed: bytes = b"" if body is None else msgpack.packb(tuple(body))
    return packed


def unpack_body(packed: bytes) -> Body:
    """The body that `pack_body` has packed. That of a complete chord is there: its first member has brought it."""
    return Body(*msgpack.unpackb(packed))
