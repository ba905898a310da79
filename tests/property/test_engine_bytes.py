"""Any bytes at all: a server's connection and the engine take them, and how they are cut does not matter."""

from __future__ import annotations

import struct
from itertools import pairwise

import hypothesis.strategies as st
from hypothesis import given, settings

from gtask.protocol.packets import PacketType
from gtask.protocol.server import Request, ServerProtocol, Violation
from gtask.server.effects import Send
from gtask.server.engine import Engine
from gtask.server.jobs import Peer

MAX_BODY = 64

words = st.sampled_from([b"status", b"cancel job x", b"maxqueue f 1", b"create function f", b"workers", b"show jobs"])
bodies = st.lists(st.sampled_from([b"f", b"u", b"-", b"", b"1", b"exceptions", b"\xff"]), max_size=6).map(b"\0".join)
packets = st.builds(
    lambda magic, number, body: magic + struct.pack(">II", number, len(body)) + body,
    st.sampled_from([b"\0REQ"] * 9 + [b"\0RES"]),
    st.sampled_from(list(PacketType)).map(int) | st.integers(0, 45),
    bodies,
)
lines = words.map(lambda word: word + b"\n")
streams = st.lists(packets | lines | st.binary(max_size=8), max_size=20).map(b"".join)


@st.composite
def cut(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    stream = draw(streams)
    places = sorted(draw(st.sets(st.integers(0, len(stream)), max_size=10)))
    edges = [0, *places, len(stream)]
    return stream, [stream[start:end] for start, end in pairwise(edges)]


def read(pieces: list[bytes]) -> list[Request]:
    protocol = ServerProtocol(MAX_BODY)
    found: list[Request] = []
    for piece in pieces:
        found += protocol.receive_data(piece)
        assert protocol.buffered <= 8192
    return found


@given(cut())
@settings(max_examples=300, deadline=None)
def test_how_a_stream_is_cut_does_not_matter(example: tuple[bytes, list[bytes]]) -> None:
    stream, pieces = example
    assert read(pieces) == read([stream])


@given(st.lists(streams, min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_the_engine_takes_anything_from_anybody(inputs: list[bytes]) -> None:
    engine = Engine()
    peers = [Peer() for _ in inputs]
    for peer in peers:
        engine.connected(peer, 0)
    for _ in range(2):
        for peer, stream in zip(peers, inputs, strict=True):
            requests = read([stream])
            effects = engine.handle_all(peer, requests, 0)
            answered = sum(isinstance(effect, Send) and effect.peer is peer for effect in effects)
            assert answered >= sum(isinstance(request, Violation) and bool(request.code) for request in requests)
    for peer in peers:
        engine.disconnected(peer, 0)
    assert engine.running == 0
    assert all(job.background for job in engine.jobs())
