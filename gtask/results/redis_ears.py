"""How waits on Redis hear that something is ready: subscriptions, blocking and under asyncio. Design, section 3.

In blocking code each wait has a connection of its own while it lasts. Under asyncio all waits of a loop share one; a
task of that loop reads it while anybody waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Container, Sequence
from typing import TYPE_CHECKING, Any, Final

import anyio

from gtask.errors import ResultError, ResultsUnavailable
from gtask.results.redis_flows import Listen

if TYPE_CHECKING:
    import redis
    import redis.asyncio
    import redis.asyncio.client

ANSWER: Final = 5.0
"""Seconds Redis has to confirm a subscription, and for a sign of life."""

POLL: Final = 30.0
"""Seconds after which the shared connection looks whether anybody still waits."""

Explain = Callable[[Exception], Exception]


def _silent(what: str) -> ResultsUnavailable:
    return ResultsUnavailable(f"Redis has not {what} within {ANSWER:g} s; see whether it runs and what it is doing.")


class Ear:
    """The subscription of one wait in blocking code."""

    def __init__(self, client: redis.Redis) -> None:
        self._pubsub: Any = client.pubsub()  # type: ignore[no-untyped-call]

    def listen(self, listen: Listen) -> None:
        """Subscribes, and returns when that is confirmed."""
        if listen.pattern:
            self._pubsub.psubscribe(*listen.topics)
        else:
            self._pubsub.subscribe(*listen.topics)
        for _ in listen.topics:
            if self._pubsub.get_message(timeout=ANSWER) is None:
                raise _silent("confirmed a subscription")

    def hear(self, ids: Container[bytes] | None, timeout: float) -> bool:
        """See `Hear`. What is no message tells of a new connection, which may have missed some: that counts as well."""
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            message = self._pubsub.get_message(timeout=max(0.0, left))
            if message is not None and (ids is None or "message" not in message["type"] or message["data"] in ids):
                return True
            if left <= 0:
                return False

    def probe(self) -> bool:
        """See `Probe`."""
        self._pubsub.ping()
        if self._pubsub.get_message(timeout=ANSWER) is None:
            raise _silent("answered")
        return True

    def close(self) -> None:
        """Gives the connection back."""
        self._pubsub.close()


class Hub:
    """The subscriptions of all waits of one asyncio loop, over one connection.

    `client` makes connections that nobody repairs unasked: what is said while one is cut would be missed.
    """

    def __init__(self, client: redis.asyncio.Redis, explain: Explain) -> None:
        self._client = client
        self._explain = explain
        self._pubsub: redis.asyncio.client.PubSub | None = None
        self._ears: dict[bytes, set[AsyncEar]] = {}
        self._confirmed: set[bytes] = set()
        self._reader: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def add(self, ear: AsyncEar) -> None:
        """Subscribes to what an ear listens to; that is confirmed later."""
        new = [topic for topic in ear.topics if topic not in self._ears]
        for topic in ear.topics:
            self._ears.setdefault(topic, set()).add(ear)
        pubsub = self._pubsub
        if pubsub is None:
            pubsub = self._pubsub = self._client.pubsub()
        if new:
            try:
                await self._say(pubsub, pubsub.psubscribe if ear.pattern else pubsub.subscribe, new)
            except Exception as error:
                await self._give_up(pubsub, error)
                raise self._cut(error) from error
        if pubsub is self._pubsub and (self._reader is None or self._reader.done()):
            self._reader = asyncio.get_running_loop().create_task(self._read(), name="gtask redis results")

    async def remove(self, ear: AsyncEar) -> None:
        """Unsubscribes from what nobody else listens to."""
        gone = []
        for topic in ear.topics:
            others = self._ears.get(topic)
            if others is not None:
                others.discard(ear)
                if not others:
                    del self._ears[topic]
                    self._confirmed.discard(topic)
                    gone.append(topic)
        pubsub = self._pubsub
        if gone and pubsub is not None:
            try:
                await self._say(pubsub, pubsub.punsubscribe if ear.pattern else pubsub.unsubscribe, gone)
            except Exception as error:
                await self._give_up(pubsub, error)

    def confirmed(self, ear: AsyncEar) -> bool:
        """Whether Redis has confirmed all that an ear listens to."""
        return self._confirmed.issuperset(ear.topics)

    async def ping(self) -> None:
        """Has Redis say something."""
        pubsub = self._pubsub
        if pubsub is not None:
            try:
                await self._say(pubsub, pubsub.ping, ())
            except Exception as error:
                await self._give_up(pubsub, error)
                raise self._cut(error) from error

    async def aclose(self) -> None:
        """Ends the task and the connection."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.wait([reader])
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _say(
        self, pubsub: redis.asyncio.client.PubSub, command: Callable[..., Awaitable[object]], topics: Sequence[bytes]
    ) -> None:
        """Sends a command, one after another; whoever is cancelled in it does not cut the connection of the others."""
        with anyio.CancelScope(shield=True):
            async with self._lock:
                if pubsub is not self._pubsub:
                    raise ResultsUnavailable("The subscription was given up meanwhile.")
                await command(*topics)

    async def _give_up(self, pubsub: redis.asyncio.client.PubSub, error: Exception) -> None:
        if pubsub is self._pubsub:
            self.fail(error)
            with contextlib.suppress(Exception):
                await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _read(self) -> None:
        """Reads for everyone until nobody waits."""
        pubsub = self._pubsub
        assert pubsub is not None
        try:
            while self._ears and self._pubsub is pubsub:
                message = await pubsub.get_message(timeout=POLL)
                if message is not None:
                    self._tell(message)
        except Exception as error:
            if self._pubsub is pubsub:
                self.fail(error)
        else:
            if self._pubsub is pubsub:
                # Whoever comes from here on subscribes over another one.
                self._pubsub = self._reader = None
                self._confirmed.clear()
        finally:
            with contextlib.suppress(Exception):
                await pubsub.aclose()  # type: ignore[no-untyped-call]

    def _tell(self, message: dict[str, Any]) -> None:
        kind, topic = message["type"], message["pattern"] or message["channel"]
        if kind == "pong":
            for ears in self._ears.values():
                for ear in ears:
                    ear.hears(None)
            return
        if kind in ("subscribe", "psubscribe") and topic in self._ears:
            self._confirmed.add(topic)
        for ear in self._ears.get(topic, ()):
            ear.hears(message["data"] if "message" in kind else None)

    def fail(self, error: Exception) -> None:
        """Gives the connection up, and tells all who wait, who will subscribe anew."""
        reader, self._reader = self._reader, None
        if reader is not None and reader is not asyncio.current_task():
            reader.cancel()
        ears, self._ears = self._ears, {}
        self._confirmed.clear()
        self._pubsub = None
        for ear in {ear for group in ears.values() for ear in group}:
            ear.fails(self._cut(error))

    def _cut(self, error: Exception) -> Exception:
        """The error for whoever listens. A connection that is closed while it is used fails in many ways."""
        explained = self._explain(error)
        if isinstance(explained, ResultError) and not isinstance(explained, ResultsUnavailable):
            return ResultsUnavailable(f"The subscription to Redis was cut: {error}.")
        return explained


class AsyncEar:
    """The subscription of one wait under asyncio."""

    def __init__(self, hub: Hub, listen: Listen) -> None:
        self._hub = hub
        self.topics = [topic.encode() for topic in listen.topics]
        self.pattern = listen.pattern
        self._ids: Container[bytes] | None = None
        self._heard = asyncio.Event()
        self._any = asyncio.Event()
        self._error: Exception | None = None

    def hears(self, id: bytes | None) -> None:
        """Something was said: an id, or with None something else."""
        self._any.set()
        if id is None or self._ids is None or id in self._ids:
            self._heard.set()

    def fails(self, error: Exception) -> None:
        """The connection is lost."""
        self._error = error
        self._any.set()
        self._heard.set()

    async def listen(self) -> None:
        """Subscribes, and returns when that is confirmed."""
        await self._hub.add(self)
        deadline = time.monotonic() + ANSWER
        while not self._hub.confirmed(self):
            if not await self._wait(self._any, deadline - time.monotonic()):
                raise _silent("confirmed a subscription")
        self._heard.clear()

    async def hear(self, ids: Container[bytes] | None, timeout: float) -> bool:
        """See `Hear`."""
        self._ids = ids
        return await self._wait(self._heard, timeout)

    async def probe(self) -> bool:
        """See `Probe`."""
        self._any.clear()
        await self._hub.ping()
        if not await self._wait(self._any, ANSWER):
            error = _silent("answered")
            self._hub.fail(error)
            raise error
        return True

    async def close(self) -> None:
        """Listens no longer."""
        await self._hub.remove(self)

    async def _wait(self, event: asyncio.Event, timeout: float) -> bool:
        if self._error is None:
            try:
                async with asyncio.timeout(max(0.0, timeout)):
                    await event.wait()
            except TimeoutError:
                return False
            event.clear()
        if self._error is not None:
            raise self._error
        return True
