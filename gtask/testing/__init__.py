"""What tests of gtask, and of programs that use it, need: real servers and workers as processes.

The fixtures are in `gtask.testing.plugin`, which pytest loads by itself; `require` is in `gtask.testing.requirements`,
apart because it needs pytest.
"""

from __future__ import annotations

from gtask.testing.faults import FaultProxy
from gtask.testing.processes import JobServerProgram, admin, find_program, gearmand, job_server, worker
from gtask.testing.programs import Program, ProgramFailed, free_port, port_is_open, wait_until

__all__ = [
    "FaultProxy",
    "JobServerProgram",
    "Program",
    "ProgramFailed",
    "admin",
    "find_program",
    "free_port",
    "gearmand",
    "job_server",
    "port_is_open",
    "wait_until",
    "worker",
]
