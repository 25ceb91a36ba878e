"""The node itself: publishing, its peers, health, facts, configuration and metrics."""

from __future__ import annotations

from collections.abc import Iterable

from ipc_schema.kernel import methods
from ipc_schema.kernel.methods import ConnectResult, OptionRecord
from ipc_schema.kernel.records import NodeHealth, PeerRecord
from ipc_schema.kernel.relay import (
    RELAY_MESH,
    RELAY_PEERS,
    RELAY_PUBLISH,
    RelayPeersReply,
    RelayPeersRequest,
    RelayPublishReply,
    RelayPublishRequest,
)
from ipc_schema.node_info import NODE_INFO, NodeInfoReply
from logos_client._arguments import as_bytes, as_text
from logos_client._calls import Calls
from logos_client._connection import DEFAULT_TIMEOUT


class NodeMethods(Calls):
    """The part of a `KernelClient` about its own node."""

    # -- relay -----------------------------------------------------------------------------------------------

    async def publish(
        self,
        content_topic: str,
        payload: bytes,
        *,
        pubsub_topic: str | None = None,
        shard: int | None = None,
        timestamp: int | None = None,
        meta: bytes = b"",
        version: int = 0,
        ephemeral: bool = False,
        proof: bytes = b"",
        force: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> RelayPublishReply:
        """Publish a message. Return how many peers it went to, and its hash.

        Without topic and shard the content topic decides (autosharding); without `timestamp` (ns) the
        kernel uses the current time. The same bytes again are not an error and are not sent (`duplicate`),
        unless `force`.

        Raises `NoPeersError` (`detail` has message_hash and timestamp; local readers get the message all
        the same), `TooLargeError`, `BadRequestError`, `PeerRestartedError` (publishing again with the same
        timestamp is safe).
        """
        request = RelayPublishRequest(
            content_topic=as_text("content topic", content_topic),
            pubsub_topic=pubsub_topic,
            shard=shard,
            timestamp=timestamp,
            meta=as_bytes("meta", meta),
            version=version,
            ephemeral=ephemeral,
            proof=proof,
            force=force,
        )
        return await self._call(
            RelayPublishReply,
            RELAY_PUBLISH,
            request.to_body(),
            [as_bytes("payload", payload)],
            timeout=timeout,
        )

    async def relay_peers(self, pubsub_topic: str | None = None) -> dict[str, tuple[str, ...]]:
        """Return pubsub topic → peers subscribed to it."""
        return await self._topics(RELAY_PEERS, pubsub_topic)

    async def mesh(self, pubsub_topic: str | None = None) -> dict[str, tuple[str, ...]]:
        """Return pubsub topic → peers in its mesh."""
        return await self._topics(RELAY_MESH, pubsub_topic)

    async def _topics(self, method: str, pubsub_topic: str | None) -> dict[str, tuple[str, ...]]:
        request = RelayPeersRequest(pubsub_topic=pubsub_topic)
        return (await self._call(RelayPeersReply, method, request.to_body())).topics

    # -- peers and node --------------------------------------------------------------------------------------

    async def peers(self) -> list[PeerRecord]:
        """List all connected peers: how each was found (`origin`), services, shards, score and mesh."""
        return list((await self._call(methods.PeersListReply, methods.PEERS_LIST)).peers)

    async def connect_peers(
        self, addresses: str | Iterable[str], *, timeout: float = 30.0
    ) -> list[ConnectResult]:
        """Dial multiaddresses. Return the result of each."""
        wanted = [addresses] if isinstance(addresses, str) else list(addresses)
        reply = await self._call(
            methods.PeersConnectReply, methods.PEERS_CONNECT, {"addresses": wanted}, timeout=timeout
        )
        return list(reply.results)

    async def disconnect_peer(self, peer_id: str) -> bool:
        """Disconnect a peer. Return False if it was not connected."""
        reply = await self._call(methods.PeersDisconnectReply, methods.PEERS_DISCONNECT, {"peer_id": peer_id})
        return reply.disconnected

    async def health(self) -> NodeHealth:
        """Return the state of the node, of each protocol and shard, and of its event loop."""
        return await self._call(NodeHealth, methods.NODE_HEALTH)

    async def info(self, ids: Iterable[str] | None = None) -> dict[str, object]:
        """Return facts about the node: Version, Metrics, MyMultiaddresses, MyENR, MyPeerId, MyBoundPorts,
        MaxMessageSize, Build."""
        body = {} if ids is None else {"ids": list(ids)}
        return (await self._call(NodeInfoReply, NODE_INFO, body)).info

    async def config(self) -> list[OptionRecord]:
        """Return each configuration option with its value and source."""
        return list((await self._call(methods.NodeConfigReply, methods.NODE_CONFIG)).options)

    async def metrics(self) -> list[tuple[str, dict[str, str], float]]:
        """Return (name, labels, value) of each sample."""
        return list((await self._call(methods.NodeMetricsReply, methods.NODE_METRICS)).metrics)
