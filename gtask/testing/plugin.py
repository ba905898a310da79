"""The pytest plugin of gtask: fixtures for job servers, and `require` for programs that a test needs."""

from __future__ import annotations
