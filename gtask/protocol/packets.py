"""The packets of the Gearman protocol: their numbers and what each carries.

`LAYOUT` is the one table of it. Encoder, decoder, documentation and fuzzers read this table, and nothing else in
gtask knows how a packet is laid out. Protocol reference, section 2.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

HEADER_SIZE = 12
REQUEST_MAGIC = b"\0REQ"
RESPONSE_MAGIC = b"\0RES"


class PacketType(IntEnum):
    """The number of each packet in the header, bytes 4 to 8."""

    CAN_DO = 1
    CANT_DO = 2
    RESET_ABILITIES = 3
    PRE_SLEEP = 4
    NOOP = 6
    SUBMIT_JOB = 7
    JOB_CREATED = 8
    GRAB_JOB = 9
    NO_JOB = 10
    JOB_ASSIGN = 11
    WORK_STATUS = 12
    WORK_COMPLETE = 13
    WORK_FAIL = 14
    GET_STATUS = 15
    ECHO_REQ = 16
    ECHO_RES = 17
    SUBMIT_JOB_BG = 18
    ERROR = 19
    STATUS_RES = 20
    SUBMIT_JOB_HIGH = 21
    SET_CLIENT_ID = 22
    CAN_DO_TIMEOUT = 23
    ALL_YOURS = 24
    WORK_EXCEPTION = 25
    OPTION_REQ = 26
    OPTION_RES = 27
    WORK_DATA = 28
    WORK_WARNING = 29
    GRAB_JOB_UNIQ = 30
    JOB_ASSIGN_UNIQ = 31
    SUBMIT_JOB_HIGH_BG = 32
    SUBMIT_JOB_LOW = 33
    SUBMIT_JOB_LOW_BG = 34
    SUBMIT_JOB_SCHED = 35
    SUBMIT_JOB_EPOCH = 36
    SUBMIT_REDUCE_JOB = 37
    SUBMIT_REDUCE_JOB_BACKGROUND = 38
    GRAB_JOB_ALL = 39
    JOB_ASSIGN_ALL = 40
    GET_STATUS_UNIQUE = 41
    STATUS_RES_UNIQUE = 42


class Packet(NamedTuple):
    """One packet: its type and its arguments, in the order of `LAYOUT`."""

    type: PacketType
    args: tuple[bytes, ...] = ()


class Layout(NamedTuple):
    """What one packet carries.

    `args` names its arguments; all but the last end in a NUL on the wire, the last is the rest of the body. When
    `data` is true the last one is free bytes that may hold NULs. `request` and `response` say which magics it may
    travel under: to the job server, from it, or both.
    """

    args: tuple[str, ...]
    request: bool
    response: bool

    @property
    def data(self) -> bool:
        """Whether the last argument may hold any byte."""
        return bool(self.args) and self.args[-1] == "data"


_T = PacketType
_SUBMIT = ("function", "unique", "data")
_REDUCE = ("function", "unique", "reducer", "aggregator", "data")
_WORK = ("handle", "data")

LAYOUT: dict[PacketType, Layout] = {
    _T.CAN_DO: Layout(("function",), True, False),
    _T.CANT_DO: Layout(("function",), True, False),
    _T.RESET_ABILITIES: Layout((), True, False),
    _T.PRE_SLEEP: Layout((), True, False),
    _T.NOOP: Layout((), False, True),
    _T.SUBMIT_JOB: Layout(_SUBMIT, True, False),
    _T.JOB_CREATED: Layout(("handle",), False, True),
    _T.GRAB_JOB: Layout((), True, False),
    _T.NO_JOB: Layout((), False, True),
    _T.JOB_ASSIGN: Layout(("handle", "function", "data"), False, True),
    _T.WORK_STATUS: Layout(("handle", "numerator", "denominator"), True, True),
    _T.WORK_COMPLETE: Layout(_WORK, True, True),
    _T.WORK_FAIL: Layout(("handle",), True, True),
    _T.GET_STATUS: Layout(("handle",), True, False),
    _T.ECHO_REQ: Layout(("data",), True, False),
    _T.ECHO_RES: Layout(("data",), False, True),
    _T.SUBMIT_JOB_BG: Layout(_SUBMIT, True, False),
    _T.ERROR: Layout(("code", "text"), False, True),
    _T.STATUS_RES: Layout(("handle", "known", "running", "numerator", "denominator"), False, True),
    _T.SUBMIT_JOB_HIGH: Layout(_SUBMIT, True, False),
    _T.SET_CLIENT_ID: Layout(("id",), True, False),
    _T.CAN_DO_TIMEOUT: Layout(("function", "milliseconds"), True, False),
    _T.ALL_YOURS: Layout((), True, False),
    _T.WORK_EXCEPTION: Layout(_WORK, True, True),
    _T.OPTION_REQ: Layout(("option",), True, False),
    _T.OPTION_RES: Layout(("option",), False, True),
    _T.WORK_DATA: Layout(_WORK, True, True),
    _T.WORK_WARNING: Layout(_WORK, True, True),
    _T.GRAB_JOB_UNIQ: Layout((), True, False),
    _T.JOB_ASSIGN_UNIQ: Layout(("handle", "function", "unique", "data"), False, True),
    _T.SUBMIT_JOB_HIGH_BG: Layout(_SUBMIT, True, False),
    _T.SUBMIT_JOB_LOW: Layout(_SUBMIT, True, False),
    _T.SUBMIT_JOB_LOW_BG: Layout(_SUBMIT, True, False),
    _T.SUBMIT_JOB_SCHED: Layout(("function", "unique", "minute", "hour", "mday", "month", "wday", "data"), True, False),
    _T.SUBMIT_JOB_EPOCH: Layout(("function", "unique", "epoch", "data"), True, False),
    _T.SUBMIT_REDUCE_JOB: Layout(_REDUCE, True, False),
    _T.SUBMIT_REDUCE_JOB_BACKGROUND: Layout(_REDUCE, True, False),
    _T.GRAB_JOB_ALL: Layout((), True, False),
    _T.JOB_ASSIGN_ALL: Layout(("handle", "function", "unique", "reducer", "data"), False, True),
    _T.GET_STATUS_UNIQUE: Layout(("unique",), True, False),
    _T.STATUS_RES_UNIQUE: Layout(("unique", "known", "running", "numerator", "denominator", "clients"), False, True),
}
