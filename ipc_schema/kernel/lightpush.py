"""`lightpush.publish`: publish a message through another node (SPEC.md §3.3)."""

from __future__ import annotations

from typing import Final

from ipc_schema.body import Bin32, Body, Method, Ns, Uint
from ipc_schema.kernel.relay import PublishRequest
from ipc_schema.kernel.values import PeerName

__all__ = [
    "LIGHTPUSH_PUBLISH",
    "METHODS",
    "LightpushPublishReply",
    "LightpushPublishRequest",
]

LIGHTPUSH_PUBLISH: Final = "lightpush.publish"


class LightpushPublishRequest(PublishRequest):
    """Publish through another node.

    `peer` is a peer id or a multiaddr; None: good peers are tried until one succeeds.
    """

    peer: PeerName | None = None


class LightpushPublishReply(Body):
    """`peer` has published it to `relay_peers` peers of its own (None: the legacy version does not report
    it)."""

    message_hash: Bin32
    timestamp: Ns
    pubsub_topic: str
    peer: PeerName
    relay_peers: Uint | None = None


METHODS: Final[dict[str, Method]] = {
    LIGHTPUSH_PUBLISH: Method(LightpushPublishRequest, LightpushPublishReply),
}
