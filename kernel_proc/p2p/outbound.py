"""Outbound connections, from the dial to their end."""

from __future__ import annotations

import ssl
from contextlib import AbstractContextManager, nullcontext

import trio

from kernel_proc.p2p import addresses, tls, transport
from kernel_proc.p2p.addresses import Endpoint
from kernel_proc.p2p.api import BadAddress, DialError, Direction, P2pError, PeerIdText
from kernel_proc.p2p.upgrade import Upgrader


class Dialler:
    """Dial, and serve each new connection, in `nursery` while there is one."""

    def __init__(self, own_id: PeerIdText, upgrader: Upgrader) -> None:
        self.nursery: trio.Nursery | None = None
        self._own_id = own_id
        self._upgrader = upgrader
        self._connections = upgrader.connections
        self._dialling: dict[PeerIdText, trio.Lock] = {}
        self._tls: ssl.SSLContext | None = None

    async def connect(self, address: str, deadline: float) -> PeerIdText:
        """Dial, or return at once if connected. Concurrent calls for one peer share a dial. Raise
        BadAddress or DialError."""
        endpoint = addresses.parse(address)
        with self._reserve(endpoint):
            if endpoint.peer_id is None:
                return await self._dial(endpoint, deadline)
            peer_id = endpoint.peer_id.to_base58()
            if peer_id == self._own_id:
                raise BadAddress(f"{address} is this node")
            lock = self._dialling.setdefault(peer_id, trio.Lock())
            try:
                async with lock:
                    if peer_id in self._connections:
                        return peer_id
                    return await self._dial(endpoint, deadline)
            finally:
                if not lock.locked():
                    self._dialling.pop(peer_id, None)

    async def probe(self, address: str, deadline: float) -> None:
        """Dial, complete the handshake and hang up, also if connected. Raise BadAddress or DialError."""
        endpoint = addresses.parse(address)
        with trio.move_on_after(deadline):
            tcp: trio.SocketStream | None = None
            try:
                stream, tcp = await transport.dial(endpoint, await self._client_tls(endpoint))
                await self._upgrader.upgrade(stream, outbound=True, expected=endpoint.peer_id)
            except P2pError:
                raise
            except Exception as error:  # see _dialled
                raise DialError(f"{endpoint.text()}: handshake failed: {error}") from None
            finally:
                if tcp is not None:
                    await trio.aclose_forcefully(tcp)
            return
        raise DialError(f"{endpoint.text()}: timed out after {deadline:g} s")

    def _reserve(self, endpoint: Endpoint) -> AbstractContextManager[None]:
        """Reserve a slot at the address from the start, so that inbound connections from there cannot use
        it up meanwhile. The address behind a DNS name is only known, and counted, once connected."""
        named = endpoint.kind not in ("ip4", "ip6")
        return nullcontext() if named else self._connections.admission.dialling(endpoint.host)

    async def _dial(self, endpoint: Endpoint, deadline: float) -> PeerIdText:
        if self.nursery is None:
            raise DialError("the host is not running")
        if not self._connections.admission.can_dial():
            raise DialError("connection limit reached")
        with trio.move_on_after(deadline):
            result = await self.nursery.start(self._dialled, endpoint)
            if isinstance(result, Exception):
                raise result
            return str(result)
        raise DialError(f"{endpoint.text()}: timed out after {deadline:g} s")

    async def _client_tls(self, endpoint: Endpoint) -> ssl.SSLContext | None:
        if endpoint.transport == "/wss" and self._tls is None:
            # Reading the authorities of the system takes tens of milliseconds.
            self._tls = await trio.to_thread.run_sync(tls.client_context)
        return self._tls

    async def _dialled(
        self, endpoint: Endpoint, *, task_status: trio.TaskStatus[PeerIdText | Exception]
    ) -> None:
        """Run one outbound connection from dial to end; `started` with the peer id or the error."""
        tcp: trio.SocketStream | None = None
        try:
            try:
                stream, tcp = await transport.dial(endpoint, await self._client_tls(endpoint))
                muxer = await self._upgrader.upgrade(stream, outbound=True, expected=endpoint.peer_id)
                remote = addresses.reached(endpoint, tcp.socket.getpeername())
            except (DialError, BadAddress) as error:
                task_status.started(error)
                return
            except Exception as error:
                # The peer's bytes went through three libraries: any exception means a failed handshake.
                self._upgrader.count("handshake_failed")
                what = str(error) or type(error).__name__
                task_status.started(DialError(f"{endpoint.text()}: handshake failed: {what}"))
                return
            connection = self._connections.register(muxer, remote, Direction.OUTBOUND)
            if isinstance(connection, str):
                task_status.started(DialError(f"{endpoint.text()}: {connection}"))
                return
            self._upgrader.count("dialled")
            task_status.started(muxer.peer_id)
            await self._upgrader.run(connection)
        finally:
            if tcp is not None:
                await trio.aclose_forcefully(tcp)
