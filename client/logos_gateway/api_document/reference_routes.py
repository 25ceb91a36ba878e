"""Parameters and responses of the reference's REST routes. Pure."""

from __future__ import annotations

from typing import Final

from logos_gateway.api_document.parts import (
    JSON,
    LEVEL,
    TEXT,
    Operation,
    Schema,
    array,
    integer,
    obj,
    path,
    query,
    ref,
    text,
)

_TEXT: Final = {TEXT: text()}
_OK: Final[dict[int, tuple[str, dict[str, Schema]]]] = {200: ("`OK`", _TEXT)}


def _json(name: str, about: str = "The answer") -> dict[int, tuple[str, dict[str, Schema]]]:
    return {200: (about, {JSON: ref(name)})}


def _list(name: str, about: str = "The answer") -> dict[int, tuple[str, dict[str, Schema]]]:
    return {200: (about, {JSON: array(ref(name))})}


_PUBSUB: Final = path("pubsubTopic", "A pubsub topic, percent-encoded")
_CONTENT: Final = path("contentTopic", "A content topic, percent-encoded")
_SHARD: Final = path("shardId", "A shard", integer(minimum=0, maximum=65535))
_EITHER: Final = {JSON: ref("FilterAnswer"), TEXT: text()}
_FILTERED: Final = {200: ("Done", {JSON: ref("FilterAnswer")})} | {
    status: (about, _EITHER)
    for status, about in (
        (400, "The body cannot be used"),
        (404, "The service holds no subscription of ours, or the kernel has not been reached yet"),
        (429, "Too many requests"),
        (500, "The service failed"),
        (503, "No service peer, or no answer"),
        (504, "The service cannot be dialled"),
    )
}
_PUSH: Final = {JSON: ref("PushRefusal"), TEXT: text()}
_GONE: Final = {404: ("Not found", _TEXT)}
_MESSAGES: Final = {
    200: ("The messages since the last call, oldest first", {JSON: array(ref("RelayWakuMessage"))})
}

REFERENCE: Final[dict[str, Operation]] = {
    # --- the node ---
    "GET /health": Operation(answers=_json("Health") | {500: ("The kernel does not answer", _TEXT)}),
    "GET /info": Operation(
        answers={
            200: ("Addresses and record", {JSON: obj({"listenAddresses": array(text()), "enrUri": text()})})
        }
    ),
    "GET /version": Operation(answers={200: ("The kernel's version", _TEXT)}),
    # --- relay ---
    "POST /relay/v1/subscriptions": Operation(
        answers=_OK, body=ref("PubsubTopics"), example=["/waku/2/rs/1/0"]
    ),
    "DELETE /relay/v1/subscriptions": Operation(
        answers=_OK, body=ref("PubsubTopics"), example=["/waku/2/rs/1/0"]
    ),
    "GET /relay/v1/messages/{pubsubTopic}": Operation(
        parameters=[_PUBSUB], answers=_MESSAGES | {404: ("The topic is not subscribed", {})}
    ),
    "POST /relay/v1/messages/{pubsubTopic}": Operation(
        parameters=[_PUBSUB], answers=_OK, body=ref("RelayWakuMessage")
    ),
    "POST /relay/v1/auto/subscriptions": Operation(answers=_OK, body=ref("ContentTopics")),
    "DELETE /relay/v1/auto/subscriptions": Operation(answers=_OK, body=ref("ContentTopics")),
    "GET /relay/v1/auto/messages/{contentTopic}": Operation(
        parameters=[_CONTENT], answers=_MESSAGES | {404: ("The topic, which is not subscribed", _TEXT)}
    ),
    "POST /relay/v1/auto/messages": Operation(answers=_OK, body=ref("RelayWakuMessage")),
    # --- filter ---
    "POST /filter/v2/subscriptions": Operation(answers=_FILTERED, body=ref("FilterRequest")),
    "DELETE /filter/v2/subscriptions": Operation(answers=_FILTERED, body=ref("FilterRequest")),
    "DELETE /filter/v2/subscriptions/all": Operation(answers=_FILTERED, body=obj({"requestId": text()})),
    "GET /filter/v2/subscriptions/{requestId}": Operation(
        parameters=[path("requestId", "Any text; it comes back")], answers=_FILTERED
    ),
    "GET /filter/v2/messages/{contentTopic}": Operation(
        parameters=[_CONTENT], answers=_MESSAGES | {400: ("The topic is not subscribed", _TEXT)}
    ),
    # --- lightpush ---
    "POST /lightpush/v3/message": Operation(
        body=ref("PushRequest"),
        answers=_json("PushAnswer")
        | {
            status: (about, _PUSH)
            for status, about in (
                (400, "The body cannot be used"),
                (404, "The kernel has not been reached yet"),
                (420, "The relay does not take the message"),
                (429, "Too many requests"),
                (500, "The service failed"),
                (503, "There is no service, or it did not answer"),
                (504, "The service cannot be dialled"),
                (505, "It was published to no peer"),
            )
        },
    ),
    "POST /lightpush/v1/message": Operation(body=ref("PushRequest"), answers=_OK),
    # --- store ---
    "GET /store/v3/messages": Operation(
        parameters=[
            query("peerAddr", "Multiaddr of the store to ask; else this node's own archive"),
            query("includeData", "true: messages, not only their hashes", text(examples=["true"])),
            query("pubsubTopic", "Of this pubsub topic"),
            query("contentTopics", "Of these content topics, separated by commas"),
            query("startTime", "Not before, in ns since 1970", text()),
            query("endTime", "Not after, in ns since 1970", text()),
            query("hashes", "These messages, separated by commas"),
            query("cursor", "`paginationCursor` of the page before"),
            query("pageSize", "At most so many, up to 100", text()),
            query("ascending", "false: from the newest on"),
        ],
        answers=_json("StorePage"),
    ),
    # --- messaging ---
    "POST /messaging/v1/subscriptions": Operation(answers=_OK, body=ref("ContentTopics")),
    "DELETE /messaging/v1/subscriptions": Operation(answers=_OK, body=ref("ContentTopics")),
    "POST /messaging/v1/messages": Operation(
        body=ref("Send"), answers={200: ("It is accepted", {JSON: obj({"requestId": text()})})}
    ),
    "GET /messaging/v1/events/send": Operation(answers=_list("SendEvents")),
    "GET /messaging/v1/events/send/{requestId}": Operation(
        parameters=[path("requestId", "Of the send")], answers=_json("SendEvents") | _GONE
    ),
    "GET /messaging/v1/events/received": Operation(
        answers={
            200: (
                "What was received since the last call",
                {
                    JSON: array(
                        obj(
                            {
                                "messageHash": text(),
                                "message": ref("RelayWakuMessage"),
                                "source": text(enum=["live", "history"]),
                            }
                        )
                    )
                },
            )
        }
    ),
    # --- admin ---
    "GET /admin/v1/peers": Operation(answers=_list("WakuPeer")),
    "POST /admin/v1/peers": Operation(
        answers=_OK, body=array(text("A multiaddr")), example=["/ip4/127.0.0.1/tcp/60000/p2p/16Uiu2HAm…"]
    ),
    "GET /admin/v1/peer/{peerId}": Operation(
        parameters=[path("peerId", "Its id")], answers=_json("WakuPeer") | _GONE
    ),
    "GET /admin/v1/peers/service": Operation(answers=_list("WakuPeer")),
    "GET /admin/v1/peers/connected": Operation(answers=_list("WakuPeer")),
    "GET /admin/v1/peers/connected/on/{shardId}": Operation(parameters=[_SHARD], answers=_list("WakuPeer")),
    "GET /admin/v1/peers/relay": Operation(answers=_list("ShardPeers")),
    "GET /admin/v1/peers/mesh": Operation(answers=_list("ShardPeers")),
    "GET /admin/v1/peers/relay/on/{shardId}": Operation(parameters=[_SHARD], answers=_json("ShardPeers")),
    "GET /admin/v1/peers/mesh/on/{shardId}": Operation(parameters=[_SHARD], answers=_json("ShardPeers")),
    "GET /admin/v1/peers/stats": Operation(answers=_json("PeerStatistics")),
    "GET /admin/v1/filter/subscriptions": Operation(answers=_list("FilterSubscriber")),
    "POST /admin/v1/log-level/{level}": Operation(
        parameters=[path("level", "", LEVEL)],
        answers=_OK,
    ),
}
