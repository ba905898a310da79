"""The codec under hypothesis: whatever is encoded comes back, however it is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gtask.errors import RemoteProtocolError
from gtask.protocol.client import ClientProtocol
from gtask.protocol.codec import Decoder, encode_request, encode_response
from gtask.protocol.events import Lost
from gtask.protocol.packets import HEADER_SIZE, LAYOUT, REQUEST_MAGIC, RESPONSE_MAGIC, Layout, Packet
from gtask.protocol.worker import WorkerProtocol
from gtask.types import Submission

names = st.binary(max_size=40).map(lambda value: value.replace(b"\0", b""))


def arguments(layout: Layout) -> st.SearchStrategy[tuple[bytes, ...]]:
    """Arguments for one packet: NULs only in the data."""
    return st.tuples(*[st.binary(max_size=300) if name == "data" else names for name in layout.args])


def packets(request: bool) -> st.SearchStrategy[Packet]:
    """Any packet of one direction."""
    kinds = [type for type, layout in LAYOUT.items() if (layout.request if request else layout.response)]
    return st.sampled_from(kinds).flatmap(lambda kind: arguments(LAYOUT[kind]).map(lambda args: Packet(kind, args)))


cuts = st.lists(st.integers(min_value=1, max_value=64), min_size=1, max_size=20)


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cuts `data` into pieces of these sizes, over and over."""
    found = []
    while data:
        for size in sizes:
            found.append(data[:size])
            data = data[size:]
    return [piece for piece in found if piece]


@given(st.booleans(), st.data(), cuts)
def test_packets_survive_the_trip_however_they_are_cut(request: bool, data: st.DataObject, sizes: list[int]) -> None:
    """Encoder and decoder are inverse to each other, for whole streams."""
    sent = data.draw(st.lists(packets(request), max_size=8))
    encode = encode_request if request else encode_response
    stream = b"".join(encode(packet.type, *packet.args) for packet in sent)
    decoder = Decoder(REQUEST_MAGIC if request else RESPONSE_MAGIC)

    assert [packet for piece in pieces(stream, sizes) for packet in decoder.feed(piece)] == sent
    assert decoder.error is None
    assert decoder.buffered == 0


@given(st.lists(st.binary(max_size=60), max_size=10), st.integers(min_value=0, max_value=2000))
def test_any_bytes_are_packets_or_one_error(chunks: list[bytes], limit: int) -> None:
    """Whatever arrives, it is parsed or refused, and what is held back is bounded."""
    decoder = Decoder(RESPONSE_MAGIC, limit)
    for chunk in chunks:
        for packet in decoder.feed(chunk):
            assert len(packet.args) == len(LAYOUT[packet.type].args)
        assert decoder.buffered <= HEADER_SIZE + limit
    assert decoder.error is None or isinstance(decoder.error, RemoteProtocolError)


answers_or_noise = st.one_of(
    packets(request=False).map(lambda packet: encode_response(packet.type, *packet.args)), st.binary(max_size=30)
)


@given(st.lists(answers_or_noise), cuts)
def test_a_conversation_survives_whatever_it_is_told(answers: list[bytes], sizes: list[int]) -> None:
    """A lying job server ends its own conversation at most: each ticket is heard of once, and nothing is raised."""
    for protocol in (ClientProtocol(), WorkerProtocol()):
        tickets = [
            protocol.submit(Submission("f", b"", "u", background=False)),
            protocol.echo(b"x"),
            protocol.get_status_unique("u"),
        ]
        found = [event for piece in pieces(b"".join(answers), sizes) for event in protocol.receive_data(piece)]
        found += protocol.receive_eof()

        assert protocol.closed
        lost = [event.ticket for event in found if isinstance(event, Lost)]
        assert len(lost) == len({id(ticket) for ticket in lost})
        assert all(any(ticket is known for known in tickets) for ticket in lost)
        assert protocol.receive_data(b"more") == []
