"""Lightpush client: publish a message through another node."""

from __future__ import annotations

import secrets
from typing import Final, NamedTuple

from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Host, PeerIdText
from kernel_proc.protocols.lightpush_codec import (
    LEGACY_PROTOCOL,
    PROTOCOL,
    PushRequest,
    PushStatus,
    decode_legacy_response,
    decode_response,
    encode_legacy_request,
    encode_request,
)
from kernel_proc.protocols.peer_select import ServicePeerChoice
from kernel_proc.protocols.requests import BadAnswer, CallError, RequestRefused, call

SERVICE: Final = "lightpush"
CLIENT_PROTOCOLS: Final = (PROTOCOL, LEGACY_PROTOCOL)
MAX_RESPONSE: Final = 64 * 1024
PATIENCE: Final = 8.0
"""Seconds per peer."""
FINAL: Final = frozenset({PushStatus.BAD_REQUEST, PushStatus.PAYLOAD_TOO_LARGE})
"""Statuses that every peer would return.

420 is not one of them: a single peer may be wrong about it.
"""


class Pushed(NamedTuple):
    """A message that a peer published. `relay_peers` is the number of its recipients; None: the legacy
    version does not report it."""

    peer_id: PeerIdText
    relay_peers: int | None


class LightpushClient:
    """Use v3 where the peer supports it, otherwise the legacy version."""

    def __init__(self, host: Host, peers: ServicePeerChoice, registry: Registry) -> None:
        self._host = host
        self._peers = peers
        self._registry = registry

    async def publish(
        self,
        topic: str,
        message: bytes,
        *,
        peer: str | None = None,
        shard: int | None = None,
        deadline: float,
    ) -> Pushed:
        """Publish an encoded message on a pubsub topic through the named peer, or through the best available
        ones.

        `deadline` is on the trio clock. Raise AllFailed.
        """

        async def attempt(peer_id: PeerIdText, seconds: float) -> int | None:
            try:
                return await self._ask(peer_id, topic, message, seconds)
            except CallError as error:
                self._registry.counter("lightpush_client_errors", type=error.kind).add()
                raise

        peer_id, relay_peers = await self._peers.ask(
            SERVICE,
            CLIENT_PROTOCOLS,
            attempt,
            named=peer,
            shard=shard,
            deadline=deadline,
            patience=PATIENCE,
        )
        self._registry.counter("lightpush_client_messages").add()
        return Pushed(peer_id, relay_peers)

    async def _ask(self, peer_id: PeerIdText, topic: str, message: bytes, seconds: float) -> int | None:
        request = PushRequest(secrets.token_hex(10), message, topic)
        identity = self._host.identity(peer_id)
        known = identity.protocols if identity else ()
        legacy = LEGACY_PROTOCOL in known and PROTOCOL not in known
        if legacy:
            await self._ask_legacy(peer_id, request, seconds)
            return None
        response = await call(
            self._host,
            peer_id,
            (PROTOCOL,),
            encode_request(request),
            decode=decode_response,
            max_response=MAX_RESPONSE,
            deadline=seconds,
        )
        if response.status != PushStatus.SUCCESS:
            # Check the status before the id: a response sent before the request was read (429) cannot echo
            # it.
            final = response.status in FINAL
            raise RequestRefused(response.status, response.description or "", final=final)
        if response.request_id != request.request_id:
            raise BadAnswer("response has another request id")
        if not response.relay_peers:  # as nwaku treats it
            raise RequestRefused(PushStatus.NO_PEERS_TO_RELAY, "published to no peer")
        return response.relay_peers

    async def _ask_legacy(self, peer_id: PeerIdText, request: PushRequest, seconds: float) -> None:
        response = await call(
            self._host,
            peer_id,
            (LEGACY_PROTOCOL,),
            encode_legacy_request(request),
            decode=decode_legacy_response,
            max_response=MAX_RESPONSE,
            deadline=seconds,
        )
        if not response.is_success:
            status = _legacy_status(response.info or "")
            raise RequestRefused(status, response.info or "", final=status in FINAL)
        if response.request_id != request.request_id:
            raise BadAnswer("response has another request id")


def _legacy_status(info: str) -> PushStatus:
    """Map an error text of the legacy version to the v3 status."""
    if info == "not_published_to_any_peer":
        return PushStatus.NO_PEERS_TO_RELAY
    if info == "TOO_MANY_REQUESTS":
        return PushStatus.TOO_MANY_REQUESTS
    if info.startswith(("decode_rpc_failure", "empty_request_body_failure")):
        return PushStatus.BAD_REQUEST
    if info.startswith("Message size exceeded"):
        return PushStatus.INVALID_MESSAGE
    return PushStatus.INTERNAL_SERVER_ERROR
