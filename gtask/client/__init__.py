"""Clients of job servers: jobs in, answers out, over sockets that are kept and made again."""

from __future__ import annotations

from gtask.client.admin import AdminClient, AsyncAdminClient
from gtask.client.aio import AsyncClient
from gtask.client.base import Submitted
from gtask.client.blocking import Client
from gtask.client.foreground import AsyncForegroundJob, ForegroundJob

__all__ = [
    "AdminClient",
    "AsyncAdminClient",
    "AsyncClient",
    "AsyncForegroundJob",
    "Client",
    "ForegroundJob",
    "Submitted",
]
