"""The Gearman protocol without a socket: bytes in, events out. Usable alone."""

from __future__ import annotations

from gtask.protocol.client import ClientProtocol
from gtask.protocol.codec import Decoder, encode_request, encode_response
from gtask.protocol.events import (
    Answered,
    Event,
    JobAssigned,
    JobCreated,
    Lost,
    NoJob,
    Noop,
    Refused,
    Ticket,
    WorkComplete,
    WorkData,
    WorkException,
    WorkFail,
    WorkRefused,
    WorkStatus,
    WorkWarning,
)
from gtask.protocol.packets import LAYOUT, Layout, Packet, PacketType
from gtask.protocol.worker import WorkerProtocol

__all__ = [
    "LAYOUT",
    "Answered",
    "ClientProtocol",
    "Decoder",
    "Event",
    "JobAssigned",
    "JobCreated",
    "Layout",
    "Lost",
    "NoJob",
    "Noop",
    "Packet",
    "PacketType",
    "Refused",
    "Ticket",
    "WorkComplete",
    "WorkData",
    "WorkException",
    "WorkFail",
    "WorkRefused",
    "WorkStatus",
    "WorkWarning",
    "WorkerProtocol",
    "encode_request",
    "encode_response",
]
