"""The packets that a job server sends, made as cheaply as they can be. Pure. Protocol reference, sections 2 and 4."""

from __future__ import annotations

from struct import Struct
from typing import Final

from gtask.protocol.codec import encode_response
from gtask.protocol.packets import RESPONSE_MAGIC, PacketType

NO_JOB: Final = encode_response(PacketType.NO_JOB)
NOOP: Final = encode_response(PacketType.NOOP)

_HEADER: Final = Struct(">4sII")
_pack: Final = _HEADER.pack

CREATED: Final = int(PacketType.JOB_CREATED)
ASSIGN: Final = int(PacketType.JOB_ASSIGN)
ASSIGN_UNIQ: Final = int(PacketType.JOB_ASSIGN_UNIQ)
ASSIGN_ALL: Final = int(PacketType.JOB_ASSIGN_ALL)
FAIL: Final = int(PacketType.WORK_FAIL)


def packet(type: int, *args: bytes) -> bytes:
    """A packet of this type; the arguments are known to be good."""
    body = b"\0".join(args)
    return _pack(RESPONSE_MAGIC, type, len(body)) + body


def created(handle: bytes) -> bytes:
    """JOB_CREATED."""
    return _pack(RESPONSE_MAGIC, CREATED, len(handle)) + handle


def fail(handle: bytes) -> bytes:
    """WORK_FAIL, without the NUL that gearmand adds to some."""
    return _pack(RESPONSE_MAGIC, FAIL, len(handle)) + handle


def error(code: str, text: str) -> bytes:
    """ERROR."""
    return encode_response(PacketType.ERROR, code.encode(), text.encode())


TOO_LONG_UNIQUE: Final = error("ARGUMENT_TOO_LARGE", "Unique value too large")
TOO_LONG_FUNCTION: Final = error("ARGUMENT_TOO_LARGE", "Function name too large")
TOO_LONG_HANDLE: Final = error("ARGUMENT_TOO_LARGE", "Handle too large")
TOO_LONG_REDUCER: Final = error("ARGUMENT_TOO_LARGE", "Reducer name too large")
NUL_IN_NAME: Final = error("INVALID_PACKET", "A name may not hold a NUL byte")
BAD_TIME: Final = error("INVALID_PACKET", "The time is no number of seconds this server can keep")
QUEUE_FULL: Final = error("QUEUE_ERROR", "Job queue is full")
MEMORY_FULL: Final = error("QUEUE_ERROR", "Job queue is full: jobs take all the memory they may (--max-memory)")
TOO_MANY_FUNCTIONS: Final = error("QUEUE_ERROR", "There are as many functions as there may be (--max-functions)")
TOO_MANY_CALLERS: Final = error("QUEUE_ERROR", "Too many callers wait for this job already")
QUEUE_ERROR: Final = error("QUEUE_ERROR", "QUEUE_ERROR")
NOT_EXPECTED: Final = error("INVALID_COMMAND", "Command not expected")
UNKNOWN_OPTION: Final = error("UNKNOWN_OPTION", "Server does not recognize given option")
RESULT_NOT_FOUND: Final = error("JOB_NOT_FOUND", "Job given in work result not found")
JOB_NOT_FOUND: Final = error("JOB_NOT_FOUND", "Job does not exist on server")
EXCEPTION_NOT_FOUND: Final = error("JOB_NOT_FOUND", "An exception was received for a job that does not exist")
