"""The Gearman protocol without a socket: bytes in, events out. Usable alone."""
