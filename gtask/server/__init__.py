"""The embedded job server: gearmand's protocol in pure Python, with its queue in SQLite. Design, section 8."""

from gtask.server.listener import JobServer
from gtask.server.tls import ServerTLS

__all__ = ["JobServer", "ServerTLS"]
