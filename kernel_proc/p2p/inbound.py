"""Inbound connections, from accept to their end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from kernel_proc.p2p import addresses, transport
from kernel_proc.p2p.addresses import Endpoint
from kernel_proc.p2p.api import Direction
from kernel_proc.p2p.connections import Connection, Connections
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.muxer import Count, Muxer
from kernel_proc.p2p.noise import NoiseSecurity
from kernel_proc.p2p.upgrade import upgrade

log = logging.getLogger(__name__)


class Acceptor:
    """Takes accepted sockets through admission and handshake; `run` then serves the connection."""

    def __init__(
        self,
        connections: Connections,
        security: NoiseSecurity,
        limits: HostLimits,
        count: Count,
        run: Callable[[Connection], Awaitable[None]],
    ) -> None:
        self._connections = connections
        self._security = security
        self._limits = limits
        self._count = count
        self._run = run

    async def accepted(self, tcp: trio.SocketStream, *, websocket: bool) -> None:
        """One inbound connection. Nothing that happens in it leaves it."""
        try:
            await self._serve(tcp, websocket=websocket)
        except Exception:  # the boundary of what no inner boundary knows
            self._count("connection_errors")
            log.exception("inbound connection failed")

    async def _serve(self, tcp: trio.SocketStream, *, websocket: bool) -> None:
        admission = self._connections.admission
        async with tcp:
            try:
                endpoint = addresses.from_sockaddr(tcp.socket.getpeername(), websocket=websocket)
            except OSError:
                return  # gone before we looked
            if (refused := admission.admit(endpoint.host)) is not None:
                self._count(refused)
                return
            self._count("accepted")
            try:
                muxer = await self._handshake(tcp, endpoint)
            finally:
                admission.settle(endpoint.host)
            if muxer is None:
                return
            connection = self._connections.register(muxer, endpoint, Direction.INBOUND)
            if isinstance(connection, Connection):
                await self._run(connection)

    async def _handshake(self, tcp: trio.SocketStream, endpoint: Endpoint) -> Muxer | None:
        """A muxed connection, or None after counting the failure."""
        problem: object = "timed out"
        with trio.move_on_after(self._limits.handshake_timeout):
            try:
                stream = await transport.WebSocket.accept(tcp) if endpoint.websocket else tcp
                return await upgrade(
                    stream,
                    self._security,
                    outbound=False,
                    expected=None,
                    limits=self._limits,
                    count=self._count,
                )
            except Exception as error:  # a stranger's bytes went through three libraries: all of it means no
                problem = error
        self._count("handshake_failed")
        log.debug("handshake with %s failed: %r", endpoint.text(), problem)
        return None
