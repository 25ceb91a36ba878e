"""multistream-select 1.0: negotiate the protocol of a byte stream.

Spec: github.com/multiformats/multistream-select. Used for the security layer, for the muxer, and for every
stream. The initiator sends its header and first proposal in one write, which saves a round trip and is
allowed by the spec.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Protocol

from kernel_proc.p2p import varint
from kernel_proc.p2p._errors import NegotiationFailed, ProtocolViolation

HEADER = "/multistream/1.0.0"
NOT_AVAILABLE = "na"
MAX_MESSAGE = 1024
MAX_PROPOSALS = 32


class Duplex(Protocol):
    """The stream to negotiate over."""

    async def read_exactly(self, count: int) -> bytes: ...
    async def write(self, data: bytes) -> None: ...


def encode_message(text: str) -> bytes:
    """Encode one message: varint length, text, newline."""
    body = text.encode() + b"\n"
    return varint.encode(len(body)) + body


async def read_prefixed(stream: Duplex, limit: int, what: str) -> bytes:
    """Read bytes that follow their length as a varint. Raise ProtocolViolation for more than `limit`."""
    length, shift = 0, 0
    while True:
        byte = (await stream.read_exactly(1))[0]
        length |= (byte & 0x7F) << shift
        if length > limit:
            raise ProtocolViolation(f"{what}: message of {length} bytes or more")
        if byte < 0x80:
            return await stream.read_exactly(length)
        shift += 7
        if shift > 21:
            raise ProtocolViolation(f"{what}: length prefix too long")


async def read_message(stream: Duplex) -> str:
    """Read one message. Raise ProtocolViolation for a length above MAX_MESSAGE, invalid UTF-8 or a missing
    newline."""
    body = await read_prefixed(stream, MAX_MESSAGE, "multistream")
    if body[-1:] != b"\n":
        raise ProtocolViolation("multistream: message without newline")
    try:
        return body[:-1].decode()
    except UnicodeDecodeError:
        raise ProtocolViolation("multistream: message is not UTF-8") from None


async def select_one_of(stream: Duplex, protocols: Sequence[str]) -> str:
    """Propose `protocols` in order. Return the first that the peer accepts.

    Raise NegotiationFailed if it accepts none, ProtocolViolation if it does not speak multistream-select.
    """
    first = True
    for protocol in protocols:
        proposal = encode_message(protocol)
        if first:
            # Header and first proposal together: multistream-select lets the initiator save a round trip.
            await stream.write(encode_message(HEADER) + proposal)
            if await read_message(stream) != HEADER:
                raise ProtocolViolation("multistream: unexpected header")
            first = False
        else:
            await stream.write(proposal)
        answer = await read_message(stream)
        if answer == protocol:
            return protocol
        # Anything but the echo or `na` would leave both sides with different ideas of what follows.
        if answer != NOT_AVAILABLE:
            raise ProtocolViolation("multistream: unexpected response")
    raise NegotiationFailed(f"the peer supports none of {', '.join(protocols)}")


async def answer_select(stream: Duplex, supported: Container[str]) -> str:
    """Answer the initiator's proposals. Return the agreed protocol.

    Raise NegotiationFailed after MAX_PROPOSALS refusals, ProtocolViolation if the peer does not speak
    multistream-select.
    """
    if await read_message(stream) != HEADER:
        raise ProtocolViolation("multistream: unexpected header")
    # Send it at once: many initiators wait for our header before their first proposal.
    await stream.write(encode_message(HEADER))
    for _ in range(MAX_PROPOSALS):
        proposal = await read_message(stream)
        if proposal in supported:
            await stream.write(encode_message(proposal))
            return proposal
        await stream.write(encode_message(NOT_AVAILABLE))
    raise NegotiationFailed("too many proposals")
