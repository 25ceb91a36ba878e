"""Identify in operation: send our identity to each peer, and request that of each new peer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import trio

from kernel_proc.p2p import addresses, identify
from kernel_proc.p2p._errors import ConnectionEnded, NegotiationFailed
from kernel_proc.p2p.api import HostPeer, PeerIdentity, PeerIdText, Stream, StreamClosed
from kernel_proc.p2p.connections import Connections, HostConnection
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.multistream import select_one_of
from kernel_proc.p2p.output import Count
from kernel_proc.p2p.peer_record import seal
from kernel_proc.p2p.stream import MuxedStream

log = logging.getLogger(__name__)


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class SignedRecord:
    """Our signed peer record (libp2p RFC 0003), re-signed only when the addresses change: a signature costs
    more than the rest of identify.

    The sequence number is the signing time in milliseconds, so that it increases across restarts, and at
    least one more than the previous.
    """

    def __init__(self, key: NodeKey, wall_clock_ms: Callable[[], int] = _wall_clock_ms) -> None:
        self._key = key
        self._wall_clock_ms = wall_clock_ms
        self._asked: tuple[str, ...] = ()
        self._record: HostPeer | None = None

    def of(self, listen: Iterable[str]) -> HostPeer | None:
        """Return the record for these addresses; None without addresses, because there is nothing to
        share."""
        listen = tuple(listen)
        if not listen:
            return None
        if self._record is None or listen != self._asked:
            last = 0 if self._record is None else self._record.seq
            self._record = seal(self._key, listen, max(last + 1, self._wall_clock_ms()))
            self._asked = listen
        return self._record


class Introduction:
    """Both sides of identify. `reachable` returns the addresses to send while none are announced."""

    def __init__(
        self,
        key: NodeKey,
        agent: str,
        protocols: Iterable[str],
        connections: Connections,
        limits: HostLimits,
        count: Count,
        *,
        announce: Sequence[str],
        reachable: Callable[[], Sequence[str]],
    ) -> None:
        self._public_key = key.libp2p_key_pair().public_key.serialize()
        self._agent = agent
        self._protocols = protocols
        self._connections = connections
        self._limits = limits
        self._count = count
        self._announce = tuple(announce)
        self._reachable = reachable
        self._own_record = SignedRecord(key)

    def announce(self, announced: Sequence[str]) -> bool:
        """Set the addresses to send; none means the reachable ones. Return whether they changed; `push`
        then notifies connected peers. Raise BadAddress."""
        for address in announced:
            addresses.to_bytes(address)  # raise here, not when the first peer asks
        before, self._announce = self._announce, tuple(announced)
        return before != self._announce

    def own_record(self) -> HostPeer | None:
        """Return the record that others may share."""
        return self._own_record.of(self._announce or self._reachable())

    async def serve(self, stream: Stream) -> None:
        """Answer an identify request."""
        await stream.write(self._message(stream.peer_id))

    def _message(self, peer_id: PeerIdText) -> bytes:
        """Encode our identity, with the address at which we see this peer."""
        remote = next((one.endpoint for one in self._connections.of(peer_id)), None)
        # The name by which we dialled was not observed, and not every peer can read /sni.
        seen = None if remote is None else replace(remote, server_name=None).text()
        listen = self._announce or self._reachable()
        return identify.encode(
            public_key=self._public_key,
            agent=self._agent,
            protocols=self._protocols,
            listen_addresses=listen,
            observed_address=seen,
            record=self._own_record.of(listen),
        )

    async def push(self) -> None:
        """Send our current identity to every connected peer that supports identify push: a record shared by
        others is useless once we have moved.

        Peers are notified one after another; a failure does not stop the round.
        """
        for connection in self._connections.all():
            peer_id = connection.info.peer_id
            identity = self._connections.identity(peer_id)
            if identity is None or identify.PUSH_PROTOCOL not in identity.protocols:
                continue
            try:
                with trio.move_on_after(self._limits.negotiation_timeout):
                    await self._push_to(connection)
            except (StreamClosed, ConnectionEnded, NegotiationFailed) as error:
                log.debug("identify push to %s failed: %s", peer_id, error)
            except Exception as error:  # the boundary for bugs on this connection
                self._connections.failed(connection, error)

    async def _push_to(self, connection: HostConnection) -> None:
        if connection.muxer.ended is not None:
            return
        stream = connection.muxer.open_stream()
        try:
            await select_one_of(stream, (identify.PUSH_PROTOCOL,))
            await stream.write(self._message(connection.info.peer_id))
        finally:
            stream.finish()

    async def serve_push(self, stream: Stream) -> None:
        """Handle an identify push."""
        assert isinstance(stream, MuxedStream)
        try:
            with trio.move_on_after(self._limits.negotiation_timeout):
                self._update_identity(await identify.read(stream, stream.peer_id, self._count))
        except ConnectionEnded as error:
            self._count("identify_failed")
            raise StreamClosed(error.reason) from None

    async def ask(self, connection: HostConnection) -> None:
        """Request the identity of a new connection's peer."""
        problem: object = "timed out"
        try:
            with trio.move_on_after(self._limits.negotiation_timeout):
                stream = connection.muxer.open_stream()
                try:
                    await select_one_of(stream, (identify.PROTOCOL,))
                    identity = await identify.read(stream, stream.peer_id, self._count)
                finally:
                    stream.finish()
                self._update_identity(identity)
                return
        except (StreamClosed, ConnectionEnded, NegotiationFailed) as error:
            problem = error
        if connection.muxer.ended is None:
            self._count("identify_failed")
            log.debug("identify of %s failed: %s", connection.info.peer_id, problem)

    def _update_identity(self, identity: PeerIdentity) -> None:
        """Store an identity, but keep the newer signed record: messages may overtake each other, and a
        push may omit the record."""
        before = self._connections.identity(identity.peer_id)
        if before is not None and before.record is not None:
            new = identity.record
            if new is None or new.seq < before.record.seq:
                identity = replace(identity, record=before.record)
        self._connections.identified(identity)
