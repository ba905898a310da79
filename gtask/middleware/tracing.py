"""Tracing."""

from __future__ import annotations

from gtask.middleware.base import Middleware


class Tracing(Middleware):
    """Tracing."""
