"""Inbound connections, from accept to their end."""

from __future__ import annotations

import logging
from collections import Counter

import trio

from kernel_proc.ip_group import ip_group
from kernel_proc.p2p import addresses, transport
from kernel_proc.p2p.addresses import Endpoint
from kernel_proc.p2p.api import Direction
from kernel_proc.p2p.connections import HostConnection
from kernel_proc.p2p.muxer import Muxer
from kernel_proc.p2p.tls import ServerCertificate
from kernel_proc.p2p.upgrade import Upgrader

log = logging.getLogger(__name__)


class _HalfOpen:
    """A connection in its handshake."""

    __slots__ = ("group", "ip", "scope", "settled")

    def __init__(self, ip: str) -> None:
        self.ip = ip
        self.group = ip_group(ip)
        self.scope = trio.CancelScope()
        self.settled = False


class Acceptor:
    """Take accepted sockets through admission and handshake, and serve their connections."""

    def __init__(self, upgrader: Upgrader, certificate: ServerCertificate | None) -> None:
        self._upgrader = upgrader
        self._connections = upgrader.connections
        self._count = upgrader.count
        self._certificate = certificate
        self._half_open: dict[_HalfOpen, None] = {}

    async def accepted(self, tcp: trio.SocketStream, *, on: str) -> None:
        """Handle one inbound connection; `on`: the transport of its listener. Raise nothing."""
        try:
            await self._serve(tcp, on)
        except Exception:  # last resort for exceptions that no inner boundary caught
            self._count("connection_errors")
            log.exception("inbound connection failed")

    async def _serve(self, tcp: trio.SocketStream, on: str) -> None:
        admission = self._connections.admission
        async with tcp:
            try:
                endpoint = addresses.from_sockaddr(tcp.socket.getpeername(), on)
            except OSError:
                return  # gone before we looked
            refused = admission.admit(endpoint.host)
            if refused is not None and self._abort_oldest(endpoint.host, refused):
                refused = admission.admit(endpoint.host)
            if refused is not None:
                self._count(refused)
                return
            self._count("accepted")
            half_open = _HalfOpen(endpoint.host)
            self._half_open[half_open] = None
            muxer = None
            try:
                with half_open.scope:
                    muxer = await self._handshake(tcp, endpoint)
            finally:
                self._settle(half_open)
            del half_open  # not to be kept for as long as the connection lives
            if muxer is None:
                return
            connection = self._connections.register(muxer, endpoint, Direction.INBOUND)
            if isinstance(connection, HostConnection):
                await self._upgrader.run(connection)

    def _settle(self, half_open: _HalfOpen) -> None:
        if not half_open.settled:
            half_open.settled = True
            del self._half_open[half_open]
            self._connections.admission.settle(half_open.ip)

    def _abort_oldest(self, ip: str, refused: str) -> bool:
        """Abort the oldest handshake in favour of a newcomer. Return whether there was one.

        If an IP is at its limit, one of that IP; otherwise one of the IP with the most handshakes. An honest
        peer finishes within a few round trips, so the oldest handshakes are those that hold slots in silence.
        """
        if refused in ("refused_half_open_ip", "refused_ip"):
            groups = {ip_group(ip)}
        elif refused == "refused_half_open":
            there = Counter(one.group for one in self._half_open)
            most = max(there.values(), default=0)
            groups = {group for group, count in there.items() if count == most}
        else:
            return False
        oldest = next((one for one in self._half_open if one.group in groups), None)
        if oldest is None:
            return False
        self._settle(oldest)
        oldest.scope.cancel()
        self._count("half_open_evicted")
        return True

    async def _handshake(self, tcp: trio.SocketStream, endpoint: Endpoint) -> Muxer | None:
        """Return a muxed connection, or None after counting the failure."""
        problem: object = "timed out"
        with trio.move_on_after(self._upgrader.limits.handshake_timeout):
            try:
                stream = await transport.accept(tcp, endpoint, self._certificate)
                return await self._upgrader.upgrade(stream, outbound=False, expected=None)
            except Exception as error:
                # The peer's bytes went through three libraries: any exception means a failed handshake.
                problem = error
        self._count("handshake_failed")
        log.debug("handshake with %s failed: %r", endpoint.text(), problem)
        return None
