"""Flows: what is still to come of a canvas, as plain data in the headers of its messages. Design, sections 2 and 5.

A flow is a list of nodes. A node is a signature (the list that `SignatureData.to_list` gives) or a group: a map
``{"group": [flow, ...]}`` of flows that run side by side. In the header ``chain`` a flow stands backwards, the next
node last. The header ``chord`` of a message says where its outcome is handed in when its flow has come to its end: a
map with the chord's ``id``, the member's ``index`` and their number ``size``. What follows the group is brought by the
first member alone, ``index`` 0, so that it travels once and not with each of them: the ``body``, a flow, and if the
flow with that group is a member of another chord, that one's place under ``chord``. (Messages of an earlier gtask,
which may still be in a queue, have both with every member.)

The flows that are sent have a form that leaves nothing to decide on the way: what follows a group is a signature,
and so is the end of each member of a group that is followed by something. Where the user has written none there stands
one of `CANVAS`, which returns its argument. The ids of all signatures are made by the caller, so that a job that is
handed out again submits what follows under the same ids.

Pure. Whatever comes from the wire is checked before anything is made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from gtask.errors import DecodeError
from gtask.message import SignatureData

MAX_NESTING: Final = 32
"""Groups inside each other, at most."""

MAX_MEMBERS: Final = 100_000
"""Members of one group that something follows or that follows something, at most: as many as a chord may have."""


class First(NamedTuple):
    """One signature whose turn has come: what follows it, backwards as in the header ``chain``, and where it counts."""

    step: SignatureData
    rest: list[Any]
    chord: dict[str, Any] | None


class Place(NamedTuple):
    """A member's place in a chord: the header ``chord``, checked."""

    id: str
    position: int
    size: int
    body: SignatureData | None
    """The body, which the first member brings, and no other has to."""

    rest: list[Any]
    """What follows the body, backwards."""

    chord: Any
    """The place of the flow that the chord itself stands in."""


def start(flow: Sequence[Any], args: tuple[Any, ...] = (), chord: Any = None, depth: int = 0) -> list[First]:
    """What is to be sent when a flow's turn comes: its first signature, or those of all members of its first group.

    `args` are put in front of their arguments, unless they are immutable. `chord` is where the flow's own outcome is to
    be handed in. Raises `DecodeError` for what is no flow.
    """
    if not flow:
        raise DecodeError("A flow without a node cannot be started.")
    node, *rest = flow
    if not isinstance(node, dict):
        step = SignatureData.from_list(node)
        if args and not step.immutable:
            step = replace(step, args=(*args, *step.args))
        return [First(step, rest[::-1], chord)]
    members = members_of(node, depth)
    if not rest:
        if chord is not None:
            raise DecodeError("A group ends a member of a chord, and nothing follows it that could be handed in.")
        return [first for member in members for first in start(member, args, None, depth + 1)]
    place: dict[str, Any] = {"id": SignatureData.from_list(rest[0]).id, "size": len(members)}
    follows: dict[str, Any] = {"body": rest} if chord is None else {"body": rest, "chord": chord}
    found: list[First] = []
    for index, member in enumerate(members):
        found += start(member, args, {**place, "index": index, **(follows if index == 0 else {})}, depth + 1)
    return found


def members_of(node: Any, depth: int = 0) -> list[list[Any]]:
    """The flows of a group that stands in `depth` others; raises `DecodeError` where it is none."""
    members = node.get("group") if isinstance(node, dict) else None
    if not isinstance(members, list) or not members or len(node) != 1:
        raise DecodeError("A node of a flow is neither a signature nor a group of flows.")
    if len(members) > MAX_MEMBERS:
        raise DecodeError(
            f"A group with {len(members)} members is part of a chain or a chord, where {MAX_MEMBERS} is the limit; let "
            "each member do more (`task.chunks`)."
        )
    if depth >= MAX_NESTING:
        raise DecodeError(f"Groups are nested deeper than {MAX_NESTING}, which is the limit.")
    if not all(isinstance(member, list) and member for member in members):
        raise DecodeError("A member of a group is no flow.")
    return members


def flow_of(plain: Any) -> list[Any]:
    """The flow of a link: a link is a signature, a group, or a flow."""
    if isinstance(plain, list) and plain and not isinstance(plain[0], str):
        return plain
    return [plain]


def signatures(flow: Iterable[Any], depth: int = 0) -> Iterator[SignatureData]:
    """All signatures of a flow, in its order; raises `DecodeError` for what is no flow."""
    for node in flow:
        if isinstance(node, dict):
            for member in members_of(node, depth):
                yield from signatures(member, depth + 1)
        else:
            yield SignatureData.from_list(node)


def rest_of(headers: dict[str, Any]) -> list[Any]:
    """The flow that follows a task, from its headers, the next node first."""
    rest = headers.get("chain")
    if rest is None:
        return []
    if not isinstance(rest, list):
        raise DecodeError("What follows a task is no list.")
    return rest[::-1]


def place_of(chord: Any) -> Place:
    """Reads the header ``chord``; raises `DecodeError` where it is none as gtask sends it."""
    match chord:
        case {"id": str(id), "index": int(index), "size": int(size), "body": [first, *rest]} if type(index) is int:
            place = Place(id, index, size, SignatureData.from_list(first), rest[::-1], chord.get("chord"))
        case {"id": str(id), "index": int(index), "size": int(size)} if (
            type(index) is int and index > 0 and "body" not in chord
        ):
            place = Place(id, index, size, None, [], None)
        case _:
            raise DecodeError(f"The header 'chord' is none as gtask sends it: {chord!r:.100}.")
    if not 0 <= index < size <= MAX_MEMBERS or (place.body is not None and place.body.id != id):
        raise DecodeError("A place in a chord has numbers or ids that do not fit together.")
    return place
