"""relay.publish, relay.publish_many, relay.peers, relay.mesh."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import trio

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.kernel.relay import (
    RELAY_MESH,
    RELAY_PEERS,
    RELAY_PUBLISH,
    RELAY_PUBLISH_MANY,
    RelayPeersReply,
    RelayPeersRequest,
    RelayPublishManyRequest,
    RelayPublishReply,
    RelayPublishRequest,
)
from ipc_schema.message import WakuMessage
from ipc_schema.server import Answer, Call, Route
from ipc_schema.topics import PubsubTopic, TopicError
from kernel_proc.publishing import Publishing, PublishOutcome
from kernel_proc.relay.service import RelayService

_Row: TypeAlias = tuple[str, str, bytes, int, int, bool]
"""See `RelayPublishManyReply`."""


def relay_routes(publishing: Publishing, relay: RelayService | None) -> Mapping[str, Route]:
    """Return the methods. `relay` is None if relay is off."""

    def publish(call: Call) -> Answer | Awaitable[Answer]:
        request = call.read(RelayPublishRequest)
        message = request.message(call.blobs)
        done = publishing.publish(
            message, pubsub_topic=request.pubsub_topic, shard=request.shard, force=request.force
        )
        return _published(done) if isinstance(done, PublishOutcome) else _published_later(done)

    def publish_many(call: Call) -> Answer | Awaitable[Answer]:
        request = call.read(RelayPublishManyRequest)
        request.check(call.blobs)
        many = _Many(publishing, call)
        left = zip(request.messages, call.blobs, strict=True)
        for message, payload in left:
            begun = many.begin(message, payload)
            if not isinstance(begun, tuple):
                return many.go_on(begun, left)
            many.results.append(begun)
        return many.answer()

    def by_topic(call: Call, look: Callable[[RelayService, str], Sequence[str]]) -> Answer:
        wanted = call.read(RelayPeersRequest).pubsub_topic
        if wanted is not None:
            try:
                PubsubTopic.parse(wanted)
            except TopicError as error:
                raise IpcError(ErrorCode.BAD_REQUEST, str(error)) from error
        subscribed = relay.subscriptions() if relay is not None else ()
        asked = subscribed if wanted is None else [wanted]
        found = {topic: tuple(look(relay, topic)) if relay is not None else () for topic in asked}
        return RelayPeersReply(topics=found).to_body(), ()

    def peers(call: Call) -> Answer:
        return by_topic(call, lambda relay, topic: relay.topic_peers(topic))

    def mesh(call: Call) -> Answer:
        return by_topic(call, lambda relay, topic: relay.mesh_peers(topic))

    # Ordered: messages of one consumer are sent in the order of its requests.
    return {
        RELAY_PUBLISH: Route(publish, ordered=True, may_wait=True, takes_time=False),
        RELAY_PUBLISH_MANY: Route(publish_many, ordered=True, may_wait=True, per_blob=True, takes_time=False),
        RELAY_PEERS: Route(peers, takes_time=False),
        RELAY_MESH: Route(mesh, takes_time=False),
    }


def _published(done: PublishOutcome) -> Answer:
    return RelayPublishReply(**done._asdict()).to_body(), ()


async def _published_later(publishing: Awaitable[PublishOutcome]) -> Answer:
    return _published(await publishing)


class _Many:
    """The messages of one `relay.publish_many`: one that fails does not keep the others from being sent."""

    def __init__(self, publishing: Publishing, call: Call) -> None:
        self.results: list[_Row] = []
        self._publishing = publishing
        self._call = call

    def begin(self, message: tuple[Any, ...], payload: bytes) -> _Row | Awaitable[_Row]:
        """Publish one. Return an awaitable if the relay has to wait."""
        content_topic, shard, timestamp, meta, version, ephemeral, proof, force = message
        waku = WakuMessage(payload, content_topic, version, timestamp, meta, proof, ephemeral)
        try:
            done = self._publishing.publish(waku, shard=shard, force=force)
        except Exception as error:  # an outcome like the others', in its own row
            return self._failed(error)
        return _sent(done) if isinstance(done, PublishOutcome) else self._later(done)

    async def _later(self, publishing: Awaitable[PublishOutcome]) -> _Row:
        try:
            return _sent(await publishing)
        except Exception as error:  # likewise
            return self._failed(error)

    async def go_on(self, begun: Awaitable[_Row], left: Iterator[tuple[tuple[Any, ...], bytes]]) -> Answer:
        """Wait for one, then publish those that are left, each after the one before."""
        call, results = self._call, self.results
        with trio.move_on_at(call.answer_by):
            results.append(await begun)
            for message, payload in left:
                # The relay is shielded while it waits for room, so that the end of the budget may not show.
                if trio.current_time() >= call.answer_by:
                    break
                row = self.begin(message, payload)
                results.append(row if isinstance(row, tuple) else await row)
        late = IpcError(ErrorCode.DEADLINE_EXCEEDED, "the budget ran out before its turn to be sent")
        results += [self._failed(late) for _ in range(len(call.blobs) - len(results))]
        return self.answer()

    def answer(self) -> Answer:
        return {"results": self.results}, ()  # as `RelayPublishManyReply.to_body`

    def _failed(self, error: Exception) -> _Row:
        found, text = self._call.row_error(error, "requests")
        detail = found.detail
        digest, timestamp = detail.get("message_hash", b""), detail.get("timestamp", 0)
        duplicate = detail.get("duplicate", False)
        return str(found.code), text, digest, timestamp, 0, duplicate  # type: ignore[return-value]  # as `Publishing` gives them


def _sent(done: PublishOutcome) -> _Row:
    return "", "", done.message_hash, done.timestamp, done.peers, done.duplicate
