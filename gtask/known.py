"""Whether anybody knows a task any more: the job servers, the store, or one that has to end before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gtask.errors import GtaskError
from gtask.states import Outcome, State

if TYPE_CHECKING:
    from gtask.result import AsyncResult

ASKED: Final = 64
"""Tasks before one that are asked about, at most; when none of them is known, others may be."""


def is_unknown(handle: AsyncResult[Any], limit: float | None) -> bool:
    """Whether nobody knows the task, nor one that has to end before; no when that cannot be told for certain.

    The job servers have `limit` seconds to answer each question.
    """
    pending, asked, left = [handle], {handle.id}, ASKED
    try:
        while pending and left:
            one, left = pending.pop(), left - 1
            if one.app.state_on_servers(one.id, limit, certain=True) is not State.UNKNOWN:
                return False
            outcome = one._look() if one._stored else None
            if _is_known(one, handle, outcome):
                return False
            pending += _behind(one, outcome, asked)
    except GtaskError:
        return False
    return not pending


async def ais_unknown(handle: AsyncResult[Any], limit: float | None) -> bool:
    """`is_unknown` for async code."""
    pending, asked, left = [handle], {handle.id}, ASKED
    try:
        while pending and left:
            one, left = pending.pop(), left - 1
            if await one.app.astate_on_servers(one.id, limit, certain=True) is not State.UNKNOWN:
                return False
            outcome = await one._alook() if one._stored else None
            if _is_known(one, handle, outcome):
                return False
            pending += _behind(one, outcome, asked)
    except GtaskError:
        return False
    return not pending


def _is_known(one: AsyncResult[Any], handle: AsyncResult[Any], outcome: Outcome | None) -> bool:
    # One before that has ended has submitted what follows: that is what nobody knows then.
    return outcome is not None and (one is handle or not outcome.ready)


def _behind(one: AsyncResult[Any], outcome: Outcome | None, asked: set[str]) -> list[AsyncResult[Any]]:
    """The handles before one that has not ended, those that were not asked about yet."""
    new = [] if outcome is not None else [handle for handle in one._before if handle.id not in asked]
    asked.update(handle.id for handle in new)
    return new
