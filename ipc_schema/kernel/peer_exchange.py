"""`peer_exchange.request`: request peer records from another node (SPEC.md §3.3, 34/WAKU2-PEER-EXCHANGE)."""

from __future__ import annotations

from typing import Annotated, Final

from ipc_schema.body import Body, Method, Range, Size
from ipc_schema.kernel.values import PeerName

__all__ = [
    "MAX_EXCHANGED",
    "METHODS",
    "PEER_EXCHANGE_REQUEST",
    "PeerExchangeReply",
    "PeerExchangeRequest",
]

PEER_EXCHANGE_REQUEST: Final = "peer_exchange.request"

MAX_EXCHANGED: Final = 60
"""Most records in one reply of a service (nwaku)."""


class PeerExchangeRequest(Body):
    """Request at most `count` records. `peer` is a peer id or a multiaddr; None: good peers are tried."""

    count: Annotated[int, Range(1, MAX_EXCHANGED)] = 5
    peer: PeerName | None = None


class PeerExchangeReply(Body):
    """`enrs`: signed records in RLP (EIP-778), as received and not verified yet."""

    peer: PeerName
    enrs: Annotated[tuple[bytes, ...], Size(MAX_EXCHANGED)]


METHODS: Final[dict[str, Method]] = {
    PEER_EXCHANGE_REQUEST: Method(PeerExchangeRequest, PeerExchangeReply),
}
