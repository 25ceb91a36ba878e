"""Ping 1.0.0: echo 32 bytes, repeatedly. Spec: libp2p/specs/ping."""

from __future__ import annotations

import secrets

from kernel_proc.p2p.api import Stream
from kernel_proc.p2p.stream import MuxedStream

PROTOCOL = "/ipfs/ping/1.0.0"
SIZE = 32


async def serve(stream: Stream) -> None:
    """Echo until the peer ends the stream."""
    while data := await stream.read(65536):
        await stream.write(data)


async def ask(stream: MuxedStream) -> bool:
    """Run one round. Return whether the echo was correct. Raise ConnectionEnded or StreamClosed."""
    question = secrets.token_bytes(SIZE)
    await stream.write(question)
    return await stream.read_exactly(SIZE) == question
