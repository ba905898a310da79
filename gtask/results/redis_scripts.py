"""What Redis does for the result store in one step: its scripts, and the names of its keys. Design, section 3.

Each script is atomic, so that of many workers one is the first. Times are those of the Redis server.
"""

from __future__ import annotations

from binascii import crc32
from hashlib import sha1
from typing import Final

SHARDS: Final = 256
"""Topics that ready ids are told on. A wait for one id hears a 256th of what becomes ready, and subscribes to one."""

_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

PUT: Final = """
for i = 1, #KEYS do
  local at = 3 * i
  if redis.call('GETRANGE', KEYS[i], 0, 0) ~= '1' then
    redis.call('SET', KEYS[i], ARGV[at], 'PX', ARGV[2])
    if string.sub(ARGV[at], 1, 1) == '1' then
      redis.call('PUBLISH', ARGV[1] .. ARGV[at + 1], ARGV[at + 2])
    end
  end
end
"""
"""KEYS: records. ARGV: the topics' prefix, milliseconds to keep; then for each record value, shard, id."""

CLAIM: Final = """
local owner = redis.call('GET', KEYS[1])
if owner and redis.call('GETRANGE', ARGV[3] .. owner, 0, 0) ~= '1' then
  return owner
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""
"""KEYS: the claim. ARGV: id, milliseconds, the prefix of records."""

UNCLAIM: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
"""

ACQUIRE: Final = (
    _NOW
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
"""
)
"""KEYS: a sorted set of holders by the end of their time. ARGV: holder, most, milliseconds."""

TAKE: Final = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local each, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local full = tonumber(redis.call('GET', KEYS[1]) or '0')
full = math.max(now, math.min(full, now + burst * each))
local wait = full - (burst - 1) * each - now
if wait > 0.000001 then
  return string.format('%.6f', wait)
end
full = full + each
redis.call('SET', KEYS[1], string.format('%.6f', full), 'PX', math.ceil((full - now) * 1000) + 1)
return '0'
"""
"""KEYS: when the bucket is full again. ARGV: seconds for each token, burst. See `gtask.results.keyed.next_full`."""

COUNT: Final = """
local value = redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return value
"""

_PRUNE: Final = (
    _NOW
    + """
local gone
repeat
  gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 1000)
  for _, id in ipairs(gone) do
    redis.call('ZREM', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
    redis.call('SREM', KEYS[3], id)
  end
until #gone == 0
if redis.call('HSETNX', KEYS[4], 'era', ARGV[1]) == 1 then
  redis.call('PEXPIRE', KEYS[4], 86400000)
end
"""
)

MARK: Final = (
    _PRUNE
    + """
local expires = now + ARGV[2]
for i = 5, #ARGV do
  redis.call('ZADD', KEYS[1], redis.call('HINCRBY', KEYS[4], 'last', 1), ARGV[i])
  if tonumber(redis.call('ZSCORE', KEYS[2], ARGV[i]) or '0') < expires then
    redis.call('ZADD', KEYS[2], expires, ARGV[i])
  end
  if ARGV[3] == '1' then
    redis.call('SADD', KEYS[3], ARGV[i])
  end
end
for i = 1, 4 do
  if redis.call('PTTL', KEYS[i]) < tonumber(ARGV[2]) then
    redis.call('PEXPIRE', KEYS[i], ARGV[2])
  end
end
redis.call('PUBLISH', ARGV[4], '')
"""
)
"""KEYS: ids by number, ids by the end of their time, those to be stopped, era and last number.

ARGV: an era, milliseconds, whether to stop, topic; then the ids. The last number is kept with its era, so that neither
is there without the other."""

MARKS: Final = (
    _PRUNE
    + """
local era, from = redis.call('HGET', KEYS[4], 'era'), '0'
if era == ARGV[2] then
  from = ARGV[3]
end
local answer = {era, from}
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. from, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[4])
for i = 1, #found, 2 do
  answer[#answer + 1] = found[i]
  answer[#answer + 1] = redis.call('SISMEMBER', KEYS[3], found[i])
  answer[2] = found[i + 1]
end
return answer
"""
)
"""KEYS: as for MARK. ARGV: an era; era and number of the cursor; how many. The answer: era, number; then id, stop."""

JOIN: Final = """
redis.call('HSETNX', KEYS[1], 'size', ARGV[2])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[5]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
end
local size = tonumber(redis.call('HGET', KEYS[1], 'size'))
if tonumber(ARGV[1]) >= size then
  return {size}
end
if ARGV[3] ~= '' then
  redis.call('HSETNX', KEYS[1], 'body', ARGV[3])
end
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[4]) == 1 then
  if redis.call('HINCRBY', KEYS[1], 'arrived', 1) == size then
    redis.call('HSET', KEYS[1], 'by', ARGV[1])
  end
end
if redis.call('HGET', KEYS[1], 'by') ~= ARGV[1] then
  return {}
end
return {size, redis.call('HGET', KEYS[1], 'body')}
"""
"""KEYS: the chord. ARGV: position, size, body or nothing, member, milliseconds.

The answer: its size where it has no such position, nothing where there is nothing to do, else its size and its body."""

SHA: Final = {
    text: sha1(text.encode(), usedforsecurity=False).hexdigest()
    for text in (PUT, CLAIM, UNCLAIM, ACQUIRE, TAKE, COUNT, MARK, MARKS, JOIN)
}


class Names:
    """The names of keys and topics behind a prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.results = f"{prefix}result:"
        self.ready = f"{prefix}ready:"
        self.everything_ready = f"{prefix}ready:*"
        self.marked = f"{prefix}marked"
        self.marks = [f"{prefix}marks:{name}" for name in ("numbers", "expires", "stop", "last")]

    def result(self, id: str) -> str:
        """The key of a task's record."""
        return self.results + id

    def shard(self, id: str) -> str:
        """The part of the topics that an id belongs to."""
        return str(crc32(id.encode()) % SHARDS)

    def of(self, kind: str, key: str) -> str:
        """The key of what is kept by a key."""
        return f"{self.prefix}{kind}:{key}"
