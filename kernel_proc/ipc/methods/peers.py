"""peers.connect, peers.disconnect, peers.list."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from ipc_schema.kernel.methods import (
    PEERS_CONNECT,
    PEERS_DISCONNECT,
    PEERS_LIST,
    ConnectResult,
    PeersConnectReply,
    PeersConnectRequest,
    PeersDisconnectReply,
    PeersDisconnectRequest,
    PeersListReply,
)
from ipc_schema.server import Answer, Call, Route
from kernel_proc.ipc.methods.fitting import fitting
from kernel_proc.p2p.api import Host, P2pError
from kernel_proc.peers.connected_peers import PeerBook

_DIAL_SECONDS = 10.0


def peer_routes(
    host: Host, book: PeerBook, *, postpone: Callable[[str], None] = lambda _peer: None
) -> Mapping[str, Route]:
    """Return the methods to connect, disconnect and list peers. `postpone` is called for peers to be
    disconnected."""

    async def connect(call: Call) -> Answer:
        request = call.read(PeersConnectRequest)
        # Answer within the deadline, with what is known by then.
        patience = max(0.05, min(_DIAL_SECONDS, call.answer_by - trio.current_time()))
        results: dict[str, ConnectResult] = {}

        async def dial(address: str) -> None:
            try:
                peer_id = await host.connect(address, deadline=patience)
            except P2pError as error:
                results[address] = ConnectResult(address=address, error=str(error))
            else:
                book.set_origin(peer_id, "api")
                results[address] = ConnectResult(address=address, peer_id=peer_id)

        async with trio.open_nursery() as nursery:
            for address in dict.fromkeys(request.addresses):
                nursery.start_soon(dial, address)
        reply = PeersConnectReply(results=tuple(results[address] for address in request.addresses))
        return reply.to_body(), ()

    async def disconnect(call: Call) -> Answer:
        request = call.read(PeersDisconnectRequest)
        connected = host.is_connected(request.peer_id)
        postpone(request.peer_id)
        await host.disconnect(request.peer_id, "requested by peers.disconnect")
        return PeersDisconnectReply(disconnected=connected).to_body(), ()

    def listing(_call: Call) -> Answer:
        return PeersListReply(peers=fitting(book.records()), total=len(book)).to_body(), ()

    return {
        PEERS_CONNECT: Route(connect),
        PEERS_DISCONNECT: Route(disconnect),
        PEERS_LIST: Route(listing),
    }
