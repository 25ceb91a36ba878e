"""AutoNAT 1.0.0, service: dial peers back, within limits, only at the IP address from which they came."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ipc_schema.protobuf import ProtobufError
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Host, P2pError, PeerIdText, Stream
from kernel_proc.protocols.framing import MessageReader, StreamFrameError, encode_frame
from kernel_proc.protocols.ratelimit import Allowance
from kernel_proc.reachability.autonat_codec import (
    MAX_MESSAGE,
    PROTOCOL,
    DialRequest,
    DialResponse,
    DialStatus,
    decode_request,
    encode_response,
)
from kernel_proc.reachability.dialled import direct_connection

# The limits of go-libp2p, but for the addresses.
PERIOD: Final = 60.0
PER_PEER: Final = 3
TOTAL: Final = 30
MAX_ADDRESSES: Final = 4
"""Ports of one IP address, which no honest peer has many of. With TOTAL it limits the sockets that peers
can make us hold at a time, for as long as a dial takes."""
DIAL_TIMEOUT: Final = 15.0
READ_TIMEOUT: Final = 10.0

Probe = Callable[[str, float], Awaitable[None]]
"""Dial a multiaddr with peer id, within a deadline, and hang up. Raise P2pError."""


def dial_back_addresses(observed: str, request: DialRequest) -> tuple[str, ...]:
    """Return where to dial: the requested ports, at the IP address at which we see the peer and no other
    (specification, "Security considerations": else we could be made to attack third parties)."""
    _, kind, ip, *_ = observed.split("/")
    found: dict[str, None] = {}
    for address in request.addresses:
        parts = address.split("/p2p/")[0].split("/")
        if len(parts) < 5 or parts[1] != kind or parts[3] != "tcp" or "p2p-circuit" in address:
            continue
        found["/".join(("", kind, ip, *parts[3:]))] = None
    return tuple(found)[:MAX_ADDRESSES]


class AutonatServer:
    """Mounts itself on the host."""

    def __init__(self, host: Host, probe: Probe, registry: Registry) -> None:
        self._host = host
        self._probe = probe
        self._allowance = Allowance(PER_PEER, TOTAL, PERIOD)
        self._count = {
            status: registry.counter("autonat_dial_backs", status=status.name.lower())
            for status in DialStatus
        }
        host.set_stream_handler(PROTOCOL, self._serve, max_per_peer=2)

    async def _serve(self, stream: Stream) -> None:
        body: bytes | None = None
        try:
            with trio.move_on_after(READ_TIMEOUT):
                body = await MessageReader(stream, MAX_MESSAGE).read()
            request = None if body is None else decode_request(body)
        except (StreamFrameError, ProtobufError):
            request = None
        if request is None:
            await stream.reset()
            return
        response = await self._answer(stream.peer_id, request)
        self._count[response.status].add()
        await stream.write(encode_frame(encode_response(response)))

    async def _answer(self, peer_id: PeerIdText, request: DialRequest) -> DialResponse:
        if request.peer_id not in (None, peer_id):
            return DialResponse(DialStatus.BAD_REQUEST, "peer id mismatch")
        observed = direct_connection(self._host, peer_id)
        if observed is None or not ipaddress.ip_address(observed.ip).is_global:
            return DialResponse(DialStatus.DIAL_REFUSED, "refusing to dial a private address")
        targets = dial_back_addresses(observed.address, request)
        if not targets:
            return DialResponse(DialStatus.DIAL_REFUSED, "no dialable addresses")
        if not self._allowance.take(peer_id, trio.current_time()):
            return DialResponse(DialStatus.DIAL_REFUSED, "too many dials")
        return await self._dial(peer_id, targets)

    async def _dial(self, peer_id: PeerIdText, targets: tuple[str, ...]) -> DialResponse:
        reached: list[str] = []
        with trio.move_on_after(DIAL_TIMEOUT) as scope:

            async def attempt(target: str) -> None:
                try:
                    await self._probe(f"{target}/p2p/{peer_id}", DIAL_TIMEOUT)
                except P2pError:
                    return
                reached.append(target)
                scope.cancel()

            async with trio.open_nursery() as nursery:
                for target in targets:
                    nursery.start_soon(attempt, target)
                # A failure takes as long as the slowest: else we would be a scanner of the peer's ports.
                nursery.start_soon(trio.sleep_forever)
        if reached:
            return DialResponse(DialStatus.OK, address=reached[0])
        return DialResponse(DialStatus.DIAL_ERROR, "dial failed")
