"""peer_exchange.request."""

from __future__ import annotations

from collections.abc import Mapping

from ipc_schema.kernel.peer_exchange import PEER_EXCHANGE_REQUEST, PeerExchangeReply, PeerExchangeRequest
from ipc_schema.server import Answer, Call, Route
from kernel_proc.protocols.peer_exchange import PeerExchangeClient


def peer_exchange_routes(client: PeerExchangeClient) -> Mapping[str, Route]:
    """Return the method that requests records of peers from another node."""

    async def request(call: Call) -> Answer:
        wanted = call.read(PeerExchangeRequest)
        found = await client.request(wanted.count, peer=wanted.peer, deadline=call.answer_by)
        return PeerExchangeReply(peer=found.peer_id, enrs=found.records).to_body(), ()

    return {PEER_EXCHANGE_REQUEST: Route(request)}
