"""What a chain, a group or a chord sends first, and the handle it gives. Design, sections 2 to 4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gtask.canvas import Group
from gtask.errors import ConfigurationError, StoreRequired
from gtask.flows import MAX_NESTING, start
from gtask.group_result import GroupResult
from gtask.message import CANVAS, SignatureData
from gtask.plans import handle_of
from gtask.publish import Sending
from gtask.result import AsyncResult
from gtask.sendable import Canvas
from gtask.signatures import Signature, lay_out
from gtask.unique import unique_key
from gtask.waiting import NO_STORE

if TYPE_CHECKING:
    from gtask.app import App


@dataclass
class Layout:
    """What a canvas sends: the calls that start, and the handle of what comes out in the end.

    `alone` are the members with `unique=`, each of which is sent by itself: its signature, and its place among the
    results of a group.
    """

    sendings: list[Sending] = field(default_factory=list)
    handle: AsyncResult[Any] | GroupResult[Any] | None = None
    alone: list[tuple[Signature[Any], GroupResult[Any], int]] = field(default_factory=list)


def lay_out_canvas(app: App, canvas: Canvas) -> Layout:
    """Makes ids for all steps, and what is sent first; raises as `Canvas.delay` does."""
    _check_nesting(canvas)
    canvas.check_arguments()
    layout = Layout()
    layout.handle = _add(app, layout, canvas)
    return layout


def _check_nesting(canvas: Canvas, depth: int = 0) -> None:
    for node in canvas.flow:
        if isinstance(node, Group):
            if depth >= MAX_NESTING:
                raise ConfigurationError(f"Groups are nested deeper than {MAX_NESTING}; flatten them.")
            for member in node.members:
                if not isinstance(member, Signature):
                    _check_nesting(member, depth + 1)


def _add(app: App, layout: Layout, canvas: Canvas) -> AsyncResult[Any] | GroupResult[Any]:
    flow = canvas.flow
    if len(flow) == 1 and isinstance(flow[0], Group):
        # Nothing waits for all of its members, so each goes its own way.
        members = flow[0].members
        alone = {place: _lonely(member) for place, member in enumerate(members)}
        results = [_blank(app) if alone[place] else _add(app, layout, one) for place, one in enumerate(members)]
        group: GroupResult[Any] = GroupResult(app, results)
        layout.alone += [(step, group, place) for place, step in alone.items() if step is not None]
        return group
    if len(flow) > 1:
        _refuse_shared(flow, "a step of a chain")
        if app.store is None and any(isinstance(node, Group) for node in flow[:-1]):
            raise StoreRequired(f"A chord's results meet in the result store. {NO_STORE}")
    elif isinstance(flow[0], Signature):
        return _add_one(app, layout, flow[0])
    nodes = lay_out(flow)
    handles: dict[str, AsyncResult[Any]] = {}
    handle = _handle(app, nodes, None, (), handles)
    now, firsts = app.now(), start(nodes)
    for first in firsts:
        sending = app.publisher.prepare(first.step, now, first.rest, chord=first.chord)
        if len(firsts) > 1:
            # Several begin it together, so none of them is the whole's first: its end stands for it.
            sending.message.headers.setdefault("root", _end(nodes, handle))
        if sending.due is not None and first.step.id in handles:
            handles[first.step.id]._due = sending.due
        layout.sendings.append(sending)
    return handle


def _add_one(app: App, layout: Layout, step: Signature[Any]) -> AsyncResult[Any]:
    """A signature that nothing follows, as most members of groups are: it need not become a flow first."""
    data = step.data(step.new_id())
    handle = handle_of(app, data.task, data.id, data.options, None)
    sending = app.publisher.prepare(data, app.now())
    if sending.due is not None:
        handle._due = sending.due
    layout.sendings.append(sending)
    return handle


def _end(nodes: Sequence[Any], handle: AsyncResult[Any] | GroupResult[Any]) -> str:
    """The id that stands for a flow which begins with a group: its result's, or that of what follows the group."""
    return handle.id if isinstance(handle, AsyncResult) else SignatureData.from_list(nodes[1]).id


def _lonely(member: Canvas) -> Signature[Any] | None:
    """A member that is a call with `unique=`, which has its own way to be sent."""
    return member if isinstance(member, Signature) and unique_key([member]) is not None else None


def _blank(app: App) -> AsyncResult[Any]:
    return AsyncResult(app, "")


def _refuse_shared(flow: Sequence[Any], what: str) -> None:
    for node in flow:
        if isinstance(node, Group):
            for member in node.members:
                _refuse_shared(member.flow, "a member of a chord, or of a group in a chain")
        elif node.options.get("unique", node.task.config.unique) not in (None, False):
            raise ConfigurationError(f"{node.task.name} has unique=, so it cannot be {what}: its result is shared.")


def _handle(
    app: App,
    nodes: Sequence[Any],
    parent: AsyncResult[Any] | GroupResult[Any] | None,
    before: tuple[AsyncResult[Any], ...],
    found: dict[str, AsyncResult[Any]],
) -> AsyncResult[Any] | GroupResult[Any]:
    """The handle of a flow's end. Each has what stands before it for its parent; `found` gets those of all steps."""
    handle = parent
    for place, node in enumerate(nodes):
        if isinstance(node, dict):
            members = [_handle(app, member, parent, before, found) for member in node["group"]]
            group: GroupResult[Any] = GroupResult(app, members, parent)
            handle, before = group, tuple(group.leaves())
        elif place and node[0] == CANVAS and place == len(nodes) - 1 and isinstance(nodes[place - 1], dict):
            break  # it ends a member that the user has ended with a group
        else:
            one = handle_of(app, node[0], node[5], node[3], parent)
            one._before = before
            handle, before = one, (one,)
            found[one.id] = one
        parent = handle
    assert handle is not None
    return handle
