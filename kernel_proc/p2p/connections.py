"""The live connections of a host by peer, the peers' identities, and the listeners of both."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from kernel_proc.ip_group import ip_group
from kernel_proc.p2p.addresses import Endpoint
from kernel_proc.p2p.admission import Admission
from kernel_proc.p2p.api import Direction, HostEvents, PeerConnection, PeerIdentity, PeerIdText
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.muxer import Muxer
from kernel_proc.p2p.output import Count

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class HostConnection:
    """A live connection and its muxer."""

    info: PeerConnection
    endpoint: Endpoint
    muxer: Muxer
    pinging: bool = False
    gone: trio.Event = field(default_factory=trio.Event)


class Connections:
    """Register connections within the limits, and notify the listeners.

    `peer_connected` is called for the first connection of a peer, `peer_disconnected` when its last one has
    ended. Simultaneous dialling results in two connections; both are kept.
    """

    def __init__(self, own_id: PeerIdText, limits: HostLimits, count: Count) -> None:
        self.admission = Admission(limits)
        self._own_id = own_id
        self._count = count
        self._listeners: list[HostEvents] = []
        self._peers: dict[PeerIdText, list[HostConnection]] = {}
        self._identities: dict[PeerIdText, PeerIdentity] = {}
        self._ended_traffic = (0, 0)
        self._limits = limits
        self._overdrawn: dict[str, float] = {}
        """By IP group, when a connection was last cut off for useless frames: who returns at once does not
        get a fresh allowance."""

    # -- queries ---------------------------------------------------------

    def __contains__(self, peer_id: object) -> bool:
        return peer_id in self._peers

    def all(self) -> list[HostConnection]:
        """Return all connections as a new list."""
        return [connection for group in self._peers.values() for connection in group]

    def of(self, peer_id: PeerIdText) -> Sequence[HostConnection]:
        """Return the connections of one peer, oldest first."""
        return tuple(self._peers.get(peer_id, ()))

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes received and sent by all connections since the start, ended ones included."""
        live = [connection.muxer.traffic for connection in self.all()]
        received, sent = self._ended_traffic
        return received + sum(one[0] for one in live), sent + sum(one[1] for one in live)

    # -- registration ---------------------------------------------------

    def register(self, muxer: Muxer, endpoint: Endpoint, direction: Direction) -> HostConnection | str:
        """Register a connection that has passed its handshake, or return why it must be closed."""
        peer_id = muxer.peer_id
        if peer_id == self._own_id:
            self._count("refused_peer")
            return "connection to this node itself"
        inbound = direction is Direction.INBOUND
        if (refused := self.admission.establish(peer_id, endpoint.host, inbound=inbound)) is not None:
            self._count(refused)
            return "too many connections"
        info = PeerConnection(peer_id, endpoint.text(), endpoint.host, direction, trio.current_time())
        if (cut_off := self._overdrawn.get(ip_group(info.ip))) is not None:
            muxer.resume_allowance(trio.current_time() - cut_off)
        connection = HostConnection(info, endpoint, muxer)
        group = self._peers.setdefault(peer_id, [])
        group.append(connection)
        if len(group) == 1:
            self._emit(lambda listener: listener.peer_connected(info))
        return connection

    def unregister(self, connection: HostConnection) -> None:
        """Remove an ended connection. With a peer's last one, its identity is forgotten."""
        info, peer_id = connection.info, connection.info.peer_id
        group = self._peers[peer_id]
        group.remove(connection)
        received, sent = connection.muxer.traffic
        self._ended_traffic = self._ended_traffic[0] + received, self._ended_traffic[1] + sent
        self.admission.release(peer_id, info.ip, inbound=info.direction is Direction.INBOUND)
        if connection.muxer.overdrawn:
            self._note_overdrawn(ip_group(info.ip))
        connection.gone.set()
        if not group:
            del self._peers[peer_id]
            self._identities.pop(peer_id, None)
            reason = connection.muxer.ended or "closed"
            cause = connection.muxer.ended_cause
            self._emit(lambda listener: listener.peer_disconnected(peer_id, reason, cause))

    def _note_overdrawn(self, group: str) -> None:
        now, limits = trio.current_time(), self._limits
        regained = now - limits.idle_frames / limits.idle_frame_rate
        for other in [other for other, at in self._overdrawn.items() if at <= regained]:
            del self._overdrawn[other]
        self._overdrawn[group] = now

    def failed(self, connection: HostConnection, error: Exception) -> None:
        """End a connection because of an internal error; the host continues."""
        self._count("connection_errors")
        log.error("connection with %s failed", connection.info.peer_id, exc_info=error)
        connection.muxer.end(f"internal error: {error!r}")

    async def close(self, peer_id: PeerIdText, reason: str) -> None:
        """Close all connections of a peer and wait until they have ended."""
        closing = self.of(peer_id)
        for connection in closing:
            connection.muxer.end(reason)
        for connection in closing:
            await connection.gone.wait()
        await trio.lowlevel.checkpoint()

    # -- identities -----------------------------------------------------

    def identity(self, peer_id: PeerIdText) -> PeerIdentity | None:
        """Return the latest identity of a connected peer."""
        return self._identities.get(peer_id)

    def identified(self, identity: PeerIdentity) -> None:
        """Store the identity of a connected peer and notify the listeners."""
        if identity.peer_id in self._peers:
            self._identities[identity.peer_id] = identity
            self._emit(lambda listener: listener.peer_identified(identity))

    # -- listeners -----------------------------------------------------

    def add_listener(self, events: HostEvents) -> None:
        """Notify `events` from now on."""
        self._listeners.append(events)

    def _emit(self, call: Callable[[HostEvents], None]) -> None:
        for listener in self._listeners:
            try:
                call(listener)
            except Exception:  # a bug in a listener must not cost the connection
                self._count("listener_errors")
                log.exception("host event listener %r failed", listener)
