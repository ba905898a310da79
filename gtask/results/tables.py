"""Marks, claims, places, tokens and counters in a SQLite file. Everything inside the caller's transaction.

Times are Unix times in seconds.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from gtask.results.base import Mark, Marks
from gtask.results.keyed import Acquire, Claim, Count, Keyed, Release, Take, Unclaim, Value, next_full

MAX_MARKS: Final = 10_000
"""Marks that are read at once."""

TABLES: Final = """
CREATE TABLE era (era TEXT NOT NULL);
INSERT INTO era VALUES (lower(hex(randomblob(8))));
CREATE TABLE marks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    terminate INTEGER NOT NULL,
    expires REAL NOT NULL
);
CREATE INDEX marks_expires ON marks (expires);
CREATE TABLE places (key TEXT NOT NULL, holder TEXT NOT NULL, expires REAL NOT NULL, PRIMARY KEY (key, holder));
CREATE INDEX places_expires ON places (expires);
CREATE TABLE tokens (key TEXT NOT NULL PRIMARY KEY, expires REAL NOT NULL);
CREATE INDEX tokens_expires ON tokens (expires);
CREATE TABLE counters (key TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL, expires REAL NOT NULL);
CREATE INDEX counters_expires ON counters (expires);
"""
"""An `era` begins with the file: a number of a mark means something in its own era only."""

SWEPT: Final = ("results", "claims", "marks", "places", "tokens", "counters")

_CLAIM: Final = """
INSERT INTO claims (key, id, expires) VALUES (?1, ?2, ?3)
ON CONFLICT (key) DO UPDATE SET id = ?2, expires = ?3
WHERE claims.expires <= ?4
OR EXISTS (SELECT 1 FROM results WHERE results.id = claims.id AND results.ready AND results.expires > ?4)
"""

_MARK: Final = """
INSERT OR REPLACE INTO marks (id, terminate, expires)
SELECT ?1, max(?2, coalesce(max(terminate), 0)), max(?3, coalesce(max(expires), 0)) FROM marks WHERE id = ?1
"""

_COUNT: Final = """
INSERT INTO counters (key, value, expires) VALUES (?1, 1, ?2)
ON CONFLICT (key) DO UPDATE SET value = CASE WHEN expires > ?3 THEN value + 1 ELSE 1 END, expires = ?2
RETURNING value
"""


def answer(db: sqlite3.Connection, ask: Keyed, now: float) -> Value:
    """Answers a question about a key."""
    match ask:
        case Claim(key, id, ttl):
            db.execute(_CLAIM, (key, id, now + ttl, now))
            return str(db.execute("SELECT id FROM claims WHERE key = ?", (key,)).fetchone()[0])
        case Unclaim(key, id):
            db.execute("DELETE FROM claims WHERE key = ? AND id = ?", (key, id))
        case Acquire(key, holder, most, ttl):
            return _acquire(db, key, holder, most, now + ttl, now)
        case Release(key, holder):
            db.execute("DELETE FROM places WHERE key = ? AND holder = ?", (key, holder))
        case Take(key, rate, burst):
            return _take(db, key, 1.0 / rate, burst, now)
        case Count(key, ttl):
            ((value,),) = db.execute(_COUNT, (key, now + ttl, now)).fetchall()
            return int(value)
    return 0


def _acquire(db: sqlite3.Connection, key: str, holder: str, most: int, expires: float, now: float) -> int:
    held = "UPDATE places SET expires = ? WHERE key = ? AND holder = ? AND expires > ?"
    if db.execute(held, (expires, key, holder, now)).rowcount:
        return 1
    ((taken,),) = db.execute("SELECT count(*) FROM places WHERE key = ? AND expires > ?", (key, now)).fetchall()
    if taken >= most:
        return 0
    db.execute("INSERT OR REPLACE INTO places (key, holder, expires) VALUES (?, ?, ?)", (key, holder, expires))
    return 1


def _take(db: sqlite3.Connection, key: str, each: float, burst: int, now: float) -> float:
    row = db.execute("SELECT expires FROM tokens WHERE key = ?", (key,)).fetchone()
    full, wait = next_full(row[0] if row else 0.0, each, burst, now)
    if not wait:
        db.execute("INSERT OR REPLACE INTO tokens (key, expires) VALUES (?, ?)", (key, full))
    return wait


def mark(db: sqlite3.Connection, id: str, terminate: bool, expires: float) -> None:
    """Marks a task as revoked, under a new number: one that is marked already is read once more."""
    db.execute(_MARK, (id, terminate, expires))


def marks_after(db: sqlite3.Connection, cursor: str, now: float) -> Marks:
    """The marks behind a cursor, ``era:number``."""
    ((era,),) = db.execute("SELECT era FROM era").fetchall()
    before, _, text = cursor.partition(":")
    number = int(text) if before == era and text.isascii() and text.isdigit() and len(text) < 19 else 0
    found: list[Mark] = []
    query = "SELECT number, id, terminate FROM marks WHERE number > ? AND expires > ? ORDER BY number LIMIT ?"
    for last, id, terminate in db.execute(query, (number, now, MAX_MARKS)):
        found.append(Mark(id, bool(terminate)))
        number = last
    return Marks(found, f"{era}:{number}")


def newest(db: sqlite3.Connection) -> int:
    """The number of the newest mark that is kept, 0 without any."""
    ((number,),) = db.execute("SELECT coalesce(max(number), 0) FROM marks").fetchall()
    return int(number)


def sweep(db: sqlite3.Connection, now: float, limit: int) -> bool:
    """Drops up to `limit` rows of each table whose time is over; whether there may be more."""
    more = False
    for table in SWEPT:
        found = f"SELECT rowid FROM {table} WHERE expires <= ? LIMIT ?"
        more |= db.execute(f"DELETE FROM {table} WHERE rowid IN ({found})", (now, limit)).rowcount >= limit
    return more
