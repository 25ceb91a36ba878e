"""From a bare transport to a muxed connection: noise, then yamux or mplex. No other protocols are
supported."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import trio

from kernel_proc.p2p import mplex, noise, yamux
from kernel_proc.p2p._libp2p import ID
from kernel_proc.p2p.buffered import BufferedTransport, ByteStream
from kernel_proc.p2p.connections import Connections, HostConnection
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.mplex import Mplex
from kernel_proc.p2p.multistream import answer_select, select_one_of
from kernel_proc.p2p.muxer import Muxer
from kernel_proc.p2p.noise import NoiseSecurity
from kernel_proc.p2p.output import Count
from kernel_proc.p2p.yamux import Yamux

MUXERS: Mapping[str, type[Muxer]] = {yamux.PROTOCOL: Yamux, mplex.PROTOCOL: Mplex}
"""In order of preference."""


@dataclass(frozen=True, slots=True)
class Upgrader:
    """Turn bare transports into connections, whichever side opened them."""

    connections: Connections
    security: NoiseSecurity
    limits: HostLimits
    count: Count
    run: Callable[[HostConnection], Awaitable[None]]
    """Serve a registered connection to its end."""

    async def upgrade(self, stream: ByteStream, *, outbound: bool, expected: ID | None) -> Muxer:
        """Secure and mux `stream` within the time limit. Any exception means that the handshake failed."""
        with trio.fail_after(self.limits.handshake_timeout):
            transport = BufferedTransport(stream)
            if outbound:
                await select_one_of(transport, (noise.PROTOCOL,))
            else:
                await answer_select(transport, (noise.PROTOCOL,))
            channel = await self.security.handshake(transport, initiator=outbound, expected=expected)
            if outbound:
                protocol = await select_one_of(channel, tuple(MUXERS))
            else:
                protocol = await answer_select(channel, MUXERS)
            return MUXERS[protocol](channel, outbound=outbound, limits=self.limits, count=self.count)
