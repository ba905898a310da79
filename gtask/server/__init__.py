"""The embedded job server: gearmand's protocol in pure Python, with its queue in SQLite. Design, section 8."""

from gtask.server.listener import JobServer

__all__ = ["JobServer"]
