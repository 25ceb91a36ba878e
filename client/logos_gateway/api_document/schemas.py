"""Schemas shared by several operations. Pure."""

from __future__ import annotations

from typing import Any, Final

from ipc_schema.errors import ErrorCode
from logos_gateway.api_document.parts import Schema, array, flag, integer, mapping, number, obj, ref, text

_BASE64: Final[Schema] = {"type": "string", "contentEncoding": "base64", "pattern": "^[A-Za-z0-9+/]*={0,2}$"}
_HASH: Final = text("Hash of a message", pattern="^0x[0-9a-f]{64}$")
_NS: Final = integer("Nanoseconds since 1970")
_STATES: Final = text("State of a protocol or of the node")
_ID: Final = text("16 bytes", pattern="^[0-9a-f]{32}$")
_OWN_CODES: Final = ("misdirected", "not_found", "unauthenticated", "unsupported_media_type")

SCHEMAS: Final[dict[str, Any]] = {
    "Problem": obj(
        {
            "type": text("`urn:logos:error:` and the code"),
            "title": text(),
            "status": integer(),
            "detail": text("A human-readable explanation"),
            "code": text(enum=[*(str(code) for code in ErrorCode), *_OWN_CODES]),
            "retriable": flag("The same request may succeed later"),
        },
        {"retryAfterMs": integer("When to retry, if known")},
        description="Problem details (RFC 9457) with the code of the contract.",
    ),
    "RelayWakuMessage": obj(
        {
            "payload": {**_BASE64, "minLength": 4},
            "contentTopic": text(examples=["/weather/1/berlin/json"]),
        },
        {
            "version": integer(minimum=0, maximum=2**32 - 1),
            "timestamp": _NS,
            "meta": _BASE64,
            "ephemeral": flag(),
            "proof": _BASE64,
        },
        description="A message in the reference's JSON.",
    ),
    "ContentTopics": array(text(examples=["/weather/1/berlin/json"])),
    "PubsubTopics": array(text(examples=["/waku/2/rs/1/0"])),
    "Health": obj(
        {
            "nodeHealth": _STATES,
            "connectionStatus": text(enum=["Disconnected", "PartiallyConnected", "Connected"]),
            "protocolsHealth": array(mapping(text(), description="Name to state, and `desc`")),
        }
    ),
    "WakuPeer": obj(
        {
            "multiaddr": text(),
            "protocols": array(text()),
            "shards": array(integer()),
            "connected": text(enum=["NotConnected", "CannotConnect", "CanConnect", "Connected"]),
            "agent": text(),
            "origin": text(enum=["UnknownOrigin", "Discv5", "Static", "PeerExchange", "Dns", "Cache"]),
        },
        {"score": number()},
    ),
    "ShardPeers": obj({"shard": integer(), "peers": array(ref("WakuPeer"))}),
    "PeerStatistics": mapping(mapping(integer())),
    "FilterSubscriber": obj(
        {
            "peerId": text(),
            "filterCriteria": array(obj({"pubsubTopic": text(), "contentTopic": text()})),
        }
    ),
    "FilterRequest": obj(
        {"requestId": text(), "contentFilters": ref("ContentTopics")},
        {"pubsubTopic": {"type": ["string", "null"]}},
    ),
    "FilterAnswer": obj({"requestId": text(), "statusDesc": text()}),
    "PushRequest": obj({"message": ref("RelayWakuMessage")}, {"pubsubTopic": {"type": ["string", "null"]}}),
    "PushAnswer": obj({"relayPeerCount": integer()}),
    "PushRefusal": obj({"statusDesc": text()}),
    "StorePage": obj(
        {
            "requestId": text(),
            "statusCode": integer("The store's own status; another than 200 comes with HTTP 200"),
            "statusDesc": text(),
            "messages": array(
                obj({"messageHash": _HASH}, {"message": ref("RelayWakuMessage"), "pubsubTopic": text()})
            ),
        },
        {"paginationCursor": _HASH},
    ),
    "SendEvents": obj({"requestId": text(), "events": array({"type": "object"})}),
    "Send": obj(
        {"contentTopic": text(examples=["/weather/1/berlin/json"]), "payload": _BASE64},
        {"meta": {"anyOf": [_BASE64, {"type": "null"}]}, "ephemeral": flag()},
    ),
    "AcceptedSend": obj(
        {
            "requestId": _ID,
            "contentTopic": text(),
            "state": text(
                "`parked`, `attempted`, `retry`, `propagated`; or final:"
                " `sent`, `unconfirmed`, `failed`, `cancelled`"
            ),
            "acceptedNs": _NS,
            "attempts": integer(),
            "cause": text("Why the last attempt failed, or no store has confirmed it; empty if unknown"),
        },
        {"messageHash": _HASH},
    ),
    "NewChannel": obj(
        {
            "channelId": text(minLength=1, maxLength=512),
            "contentTopic": text(examples=["/chat/1/room/proto"]),
        },
        {
            "senderId": text("Made up and kept if absent", minLength=1, maxLength=512),
            "profile": text("The form that is written", enum=["reference", "raw", "js"]),
            "keys": array(_BASE64, maxItems=8, description="Of 32 bytes; the first encrypts, all decrypt"),
            "keepKeys": flag("Store them: it opens by itself after a restart"),
            "parity": number("Parity segments a segment", minimum=0, maximum=1),
        },
    ),
    "Channel": obj(
        {
            "channelId": text(),
            "contentTopic": text(),
            "senderId": text(),
            "profile": text(),
            "encrypted": flag(),
            "open": flag(),
            "locked": flag("It waits for its keys"),
            "hooks": flag("A client of the contract encrypts its segments"),
        }
    ),
    "ChannelStatus": obj(
        {
            "missing": integer("Messages known of and not here"),
            "waiting": integer("Messages that wait for those"),
            "joining": integer("Payloads of which segments are here"),
            "unacknowledged": integer("Sends without an end"),
            "history": integer("Messages kept for repair"),
            "unopened": integer("Segments that the app has not decrypted yet"),
            "sends": array(ref("PendingChannelSend"), description="Up to 1,000 of those without an end"),
        }
    ),
    "PendingChannelSend": obj(
        {
            "requestId": _ID,
            "state": text("`accepted`, `sent`; or final: `delivered`, `failed`, `undelivered`"),
        },
        {
            "sent": flag("If it is final: it was sent"),
            "detail": text("If it is final: the participant that has it, or why none is known to"),
        },
    ),
    "ChannelSend": obj({"payload": _BASE64}, {"ephemeral": flag()}),
    "AppEvent": obj(
        {"kind": text("The contract's name of the event")},
        {"streamId": _ID, "seq": integer(), "timeNs": _NS},
        description="An event; its other keys are those of its kind, in camel case.",
    ),
    "TopicErrors": obj({"errors": mapping(text("Why the topic was refused"))}),
    "AppStatus": obj(
        {
            "connection": text(),
            "reason": text(),
            "resyncing": flag(),
            "topics": mapping(text("Health of the topic")),
        }
    ),
    "App": obj(
        {
            "name": text(),
            "durable": flag(),
            "connected": flag(),
            "topics": integer(),
            "streamId": _ID,
            "acked": integer("Position: everything up to here is handled"),
            "last": integer("The last event of the stream"),
            "backlog": integer("Events behind the position"),
            "backlogBytes": integer(),
            "awayMs": {
                "type": ["integer", "null"],
                "description": "Since when it is away; null while it is connected",
            },
            "sends": integer("Sends without a fate"),
        }
    ),
    "Apps": obj(
        {
            "apps": array(ref("App")),
            "total": integer(),
            "sends": obj(
                {
                    "sends": array(
                        obj(
                            {
                                "app": text(),
                                "requestId": _ID,
                                "contentTopic": text(),
                                "state": text(),
                                "acceptedNs": _NS,
                                "attempts": integer(),
                                "cause": text(),
                            }
                        )
                    ),
                    "total": integer(),
                    "states": mapping(integer()),
                }
            ),
        }
    ),
    "About": obj(
        {
            "version": text(),
            "scopes": array(text(enum=["apps", "kernel", "admin"])),
            "rest": flag(),
            "admin": flag(),
            "messagingApi": flag(),
            "kernel": flag(),
        },
        {
            "network": obj(
                {
                    "cluster": integer(),
                    "shardCount": integer(),
                    "maxMessageSize": integer(),
                    "preset": text(),
                }
            )
        },
    ),
}
