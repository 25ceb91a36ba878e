"""Circuit relay 2.0, client: dial through a relay, and be dialled through those where we have reserved."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import trio

from ipc_schema.config.addresses import split_circuit
from ipc_schema.protobuf import ProtobufError
from kernel_proc.metrics import Registry, Sample
from kernel_proc.p2p.api import BadAddress, DialError, Direction, P2pError, PeerIdText, Stream, StreamClosed
from kernel_proc.p2p.circuit import StreamTransport
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.protocols.framing import MessageReader, StreamFrameError, encode_frame
from kernel_proc.reachability.circuit_codec import (
    HOP,
    MAX_MESSAGE,
    OK,
    STOP,
    HopReply,
    decode_hop_reply,
    decode_stop_connect,
    encode_hop_connect,
    encode_reserve,
    encode_stop_status,
    status_name,
)
from kernel_proc.reachability.dialled import dialled_peers
from logos_process.logs import fields

log = logging.getLogger(__name__)

RELAYS: Final = 2
"""Relays to reserve at: if one goes, others still reach us."""
PERIOD: Final = 10.0
"""Seconds between looks at the reservations."""
SLACK: Final = 120
"""Seconds before its end when a reservation is renewed (go-libp2p)."""
TIMEOUT: Final = 15.0
PAUSE: Final = 300.0
"""Seconds until a relay that refused is asked again."""
STREAMS: Final = 32


def renewal_is_due(expire: float, now: float) -> bool:
    """Return whether to renew a reservation. Both times are on one monotonic clock."""
    return expire - now < SLACK


class CircuitClient:
    """Mounts itself on the host. `private` says whether others cannot dial us, so that reservations are
    needed; `changed(addresses)` is called when those through relays change."""

    def __init__(
        self,
        host: Libp2pHost,
        private: Callable[[], bool],
        changed: Callable[[tuple[str, ...]], None],
        registry: Registry,
    ) -> None:
        self._host = host
        self._private = private
        self._changed = changed
        self._reserved: dict[PeerIdText, tuple[float, str]] = {}
        self._refused: dict[PeerIdText, float] = {}
        self._announced: tuple[str, ...] = ()
        self._errors = registry.counter("circuit_errors")
        registry.add_source(self._samples)
        host.set_stream_handler(STOP, self._serve, max_per_peer=STREAMS)
        host.circuit_dialler = self.connect

    @property
    def relays(self) -> tuple[PeerIdText, ...]:
        """Where we have a reservation."""
        return tuple(self._reserved)

    # -- be dialled ---------------------------------------------

    async def run(self) -> None:
        """Keep reservations while they are needed, until cancelled."""
        while True:
            await self._look()
            await trio.sleep(PERIOD)

    async def _look(self) -> None:
        now = trio.current_time()
        kept = {
            relay: one
            for relay, one in self._reserved.items()
            if self._private() and self._host.is_connected(relay) and one[0] > now
        }
        self._reserved = kept
        if self._private():
            for relay in [relay for relay, (expire, _) in kept.items() if renewal_is_due(expire, now)]:
                await self._reserve(relay)
            for relay in self._candidates():
                if len(self._reserved) >= RELAYS:
                    break
                await self._reserve(relay)
        addresses = tuple(address for _, address in self._reserved.values())
        if addresses != self._announced:
            self._announced = addresses
            log.info("our addresses through relays have changed", extra=fields(relays=len(addresses)))
            self._changed(addresses)

    def _candidates(self) -> list[PeerIdText]:
        """Choose among the peers that we have dialled: their address is one that works."""
        now = trio.current_time()
        self._refused = {relay: until for relay, until in self._refused.items() if until > now}
        return [
            relay
            for relay in dialled_peers(self._host, HOP)
            if relay not in self._reserved and relay not in self._refused
        ]

    async def _reserve(self, relay: PeerIdText) -> None:
        try:
            reply, stream, _ = await self._ask(relay, encode_reserve())
            await stream.close()
            if reply.status != OK:
                raise DialError(status_name(reply.status))
            # HOP names a wall-clock time (circuit-v2, "Reservation"). It is read against our own wall clock
            # once; after that a step of the clock must neither end a reservation nor keep one alive.
            remaining = reply.expire - time.time()
            if remaining <= 0:
                raise DialError("the reservation has ended already")
        except (P2pError, StreamFrameError, ProtobufError) as error:
            self._errors.add()
            self._refused[relay] = trio.current_time() + PAUSE
            log.debug("no reservation at %s: %s", relay, error)
            return
        # The one that we dialled at its own address: the port of another is not one that listens.
        for one in self._host.connections():
            if one.peer_id == relay and one.direction is Direction.OUTBOUND and not one.is_relayed:
                self._reserved[relay] = (
                    trio.current_time() + remaining,
                    f"{one.address}/p2p/{relay}/p2p-circuit",
                )

    async def _serve(self, stream: Stream) -> None:
        """Take a circuit that a relay announces, if we have reserved there."""
        reader = MessageReader(stream, MAX_MESSAGE)
        try:
            with trio.fail_after(TIMEOUT):
                body = await reader.read()
                peer_id = decode_stop_connect(body or b"")
                # Only a relay where we hold a reservation may open circuits to us (circuit-v2, Stop
                # protocol).
                if stream.peer_id not in self._reserved:
                    raise ProtobufError("a circuit through a relay where nothing is reserved")
                await stream.write(encode_frame(encode_stop_status(OK)))
        except (StreamFrameError, ProtobufError, trio.TooSlowError) as error:
            self._errors.add()
            log.debug("bad circuit from %s: %s", stream.peer_id, error)
            await stream.reset()
            return
        await self._host.serve_circuit(StreamTransport(stream, reader.take_rest()), stream.peer_id, peer_id)

    # -- dial ---------------------------------------------------

    async def connect(self, address: str, deadline: float) -> PeerIdText:
        """Dial through a relay. Raise BadAddress or DialError."""
        split = split_circuit(address)
        if split is None:
            raise BadAddress(f"{address} is not <relay>/p2p/<its peer id>/p2p-circuit/p2p/<peer id>")
        place, peer_id = split
        if self._host.is_connected(peer_id):
            return peer_id
        with trio.move_on_after(deadline):
            relay = await self._host.connect(place, deadline=deadline)
            try:
                reply, stream, rest = await self._ask(relay, encode_hop_connect(peer_id))
            except (P2pError, StreamFrameError, ProtobufError) as error:
                raise DialError(f"{peer_id} through {relay}: {error}") from None
            if reply.status != OK:
                await stream.reset()
                raise DialError(f"{peer_id} through {relay}: {status_name(reply.status)}")
            # After STATUS:OK the stream itself is the connection to the peer, secured end to end: the relay
            # cannot read it (circuit-v2, Hop protocol). The peer may have spoken already: `rest`.
            await self._host.dial_circuit(StreamTransport(stream, rest), relay, peer_id)
            return peer_id
        raise DialError(f"{address}: timed out after {deadline:g} s")

    async def _ask(self, relay: PeerIdText, request: bytes) -> tuple[HopReply, Stream, bytes]:
        """Return the reply, the stream, and what came after the reply. Raise P2pError, StreamFrameError or
        ProtobufError."""
        stream = await self._host.open_stream(relay, (HOP,))
        answered = False
        try:
            with trio.move_on_after(TIMEOUT):
                await stream.write(encode_frame(request))
                reader = MessageReader(stream, MAX_MESSAGE)
                body = await reader.read()
                if body is None:
                    raise StreamClosed("the relay closed the stream without a reply")
                reply = decode_hop_reply(body)
                answered = True
                return reply, stream, reader.take_rest()
            raise StreamClosed(f"no reply within {TIMEOUT:g} s")
        finally:
            if not answered:
                with trio.CancelScope(shield=True):
                    await stream.reset()

    def _samples(self) -> list[Sample]:
        return [("circuit_reservations", {}, len(self._reserved))]
