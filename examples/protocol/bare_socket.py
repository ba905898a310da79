"""Gearman over a bare socket: gtask.protocol alone, without a client, a worker or an app of gtask.

A worker that turns texts round, and a caller, each in a terminal of its own::

    python -m examples.protocol.bare_socket work reverse
    python -m examples.protocol.bare_socket call reverse "to be reversed"

The protocol objects never touch the socket: what they want to say is in ``data_to_send()``, and what came in goes
through ``receive_data()``, which returns events. So any loop, thread or library can move the bytes.
"""

from __future__ import annotations

import argparse
import socket
import sys

from gtask.protocol import ClientProtocol, Event, WorkerProtocol
from gtask.protocol.events import JobAssigned, Lost, NoJob, Noop, Refused, WorkComplete, WorkException, WorkFail
from gtask.types import Submission


def talk(connection: socket.socket, protocol: ClientProtocol) -> list[Event]:
    """Sends what is to be sent, waits for bytes and returns what they mean."""
    connection.sendall(protocol.data_to_send())
    data = connection.recv(65536)
    return protocol.receive_data(data) if data else protocol.receive_eof()


def call(connection: socket.socket, function: str, workload: bytes) -> bytes:
    """Submits one foreground job and returns its answer; raises `RuntimeError` when there is none."""
    protocol = ClientProtocol()
    protocol.option("exceptions")
    protocol.submit(Submission(function, workload, background=False))
    while True:
        for event in talk(connection, protocol):
            match event:
                case WorkComplete(_, data):
                    return data
                case WorkFail() | Lost() | Refused():
                    raise RuntimeError(f"There is no answer: {event}")
                case WorkException(_, data):
                    raise RuntimeError(data.decode(errors="replace"))


def work(connection: socket.socket, function: str, jobs: int = 0) -> None:
    """Serves a function that turns texts round, for so many jobs (0: until the job server closes the connection)."""
    protocol = WorkerProtocol()
    protocol.can_do(function)
    protocol.grab()
    done = 0
    while not protocol.closed:
        for event in talk(connection, protocol):
            match event:
                case JobAssigned(handle, _, _, workload):
                    try:
                        protocol.complete(handle, workload.decode()[::-1].encode())
                    except UnicodeDecodeError as error:
                        protocol.exception(handle, str(error).encode())
                    done += 1
                    if done == jobs:
                        connection.sendall(protocol.data_to_send())
                        return
                    protocol.grab()
                case NoJob():
                    protocol.pre_sleep()
                case Noop():
                    protocol.grab()


def main() -> None:
    """Calls or works, as the command line says."""
    parser = argparse.ArgumentParser(description="Speaks Gearman over a bare socket.")
    parser.add_argument("--server", default="127.0.0.1:4730", help="host:port of the job server")
    parser.add_argument("what", choices=("call", "work"))
    parser.add_argument("function")
    parser.add_argument("text", nargs="?", default="")
    options = parser.parse_args()
    host, _, port = options.server.rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        if options.what == "call":
            sys.stdout.write(call(connection, options.function, options.text.encode()).decode() + "\n")
        else:
            work(connection, options.function)


if __name__ == "__main__":
    main()
