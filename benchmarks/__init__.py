"""How close gtask comes to bare sockets: `python -m benchmarks.run`; see README.md beside this file."""
