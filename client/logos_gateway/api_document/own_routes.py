"""Parameters and responses of our own routes. Pure."""

from __future__ import annotations

from functools import partial
from typing import Final

from logos_gateway.api_document.parts import (
    JSON,
    LEVEL,
    Operation,
    Schema,
    array,
    flag,
    header,
    integer,
    mapping,
    number,
    obj,
    path,
    query,
    ref,
    text,
)

_NAME: Final = path("name", "The app", text(pattern="^[a-z0-9._-]{1,64}$"))
_READER = query("reader", "Distinguishes readers that acknowledge separately", text(maxLength=64))
_TAKEOVER: Final = query(
    "takeover", "true: end another live connection of that name", text(enum=["true", "false"])
)
_ID: Final = path("requestId", "The request id, or the idempotency key")
_CHANNEL: Final = path(
    "channelId", "The channel id; it may contain slashes", text(minLength=1, maxLength=512)
)
_KEY: Final = header(
    "Idempotency-Key",
    "A request repeated with the same key is sent once",
    text(minLength=1, maxLength=256, pattern="^[!-~]+$"),
)
_POSITION: Final = text(pattern="^[0-9a-f]{32}:[0-9]+$")
_EVENT_STREAM: Final = "text/event-stream"
_EVENTS: Final = {_EVENT_STREAM: text()}
_APP_EVENTS: Final = {_EVENT_STREAM: text(contentMediaType=_EVENT_STREAM, contentSchema=ref("AppEvent"))}
_FLAG: Final = text(enum=["true", "false"])
_own: Final = partial(Operation, problems=True)
SOCKET_PATH: Final = "/apps/v1/{name}/socket"


def _json(schema: Schema, about: str = "The answer") -> dict[int, tuple[str, dict[str, Schema]]]:
    return {200: (about, {JSON: schema})}


OWN: Final[dict[str, Operation]] = {
    "GET /apps/v1": _own(answers=_json(ref("Apps"))),
    "GET /apps/v1/{name}/subscriptions": _own(
        parameters=[_NAME, _TAKEOVER], answers=_json(obj({"topics": array(text())}))
    ),
    "POST /apps/v1/{name}/subscriptions": _own(
        parameters=[_NAME, _TAKEOVER],
        body=obj(
            {"topics": array(text(examples=["/weather/1/berlin/json"]), minItems=1)},
            {
                "sinceLast": flag("Include messages since the topic was unsubscribed"),
                "historySeconds": number(
                    "Include messages of the last so many seconds", minimum=0, maximum=366 * 24 * 3600
                ),
            },
        ),
        answers=_json(ref("TopicErrors"), "Topics that are not in `errors` are subscribed"),
    ),
    "DELETE /apps/v1/{name}/subscriptions": _own(
        parameters=[_NAME, _TAKEOVER],
        body=obj({"topics": array(text(), minItems=1)}),
        answers=_json(ref("TopicErrors")),
    ),
    "GET /apps/v1/{name}/sends": _own(
        parameters=[_NAME, _TAKEOVER],
        answers=_json(
            obj(
                {
                    "sends": array(ref("AcceptedSend")),
                    "total": integer(),
                    "states": mapping(integer()),
                }
            )
        ),
    ),
    "POST /apps/v1/{name}/sends": _own(
        parameters=[_NAME, _TAKEOVER, _KEY],
        body=ref("Send"),
        answers={202: ("Stored; the outcome follows as events", {JSON: obj({"requestId": text()})})},
        headers={"Location": "Where its fate will be"},
    ),
    "GET /apps/v1/{name}/sends/{requestId}": _own(
        parameters=[_NAME, _ID, _TAKEOVER], answers=_json(ref("AcceptedSend"))
    ),
    "DELETE /apps/v1/{name}/sends/{requestId}": _own(
        parameters=[_NAME, _ID, _TAKEOVER],
        answers=_json(obj({"cancelled": flag()}), "`cancelled` is false if it is too late"),
    ),
    "GET /apps/v1/{name}/events": _own(
        parameters=[
            _NAME,
            _TAKEOVER,
            header("Last-Event-ID", "Resume after this event", _POSITION),
            query("after", "The same as a query parameter", _POSITION),
            query("ack", "auto: what was written counts as handled", text(enum=["explicit", "auto"])),
            _READER,
        ],
        answers={200: ("Endless server-sent events: `data` is an AppEvent, `id` its position", _APP_EVENTS)},
    ),
    "POST /apps/v1/{name}/ack": _own(
        parameters=[_NAME, _TAKEOVER],
        body=obj(
            {"streamId": text(pattern="^[0-9a-f]{32}$"), "seq": integer(minimum=0)},
            {"reader": text("The reader that acknowledges", maxLength=64)},
        ),
        answers={204: ("Stored", {})},
    ),
    "GET /apps/v1/{name}/status": _own(parameters=[_NAME, _TAKEOVER], answers=_json(ref("AppStatus"))),
    "GET /apps/v1/{name}/channels": _own(
        parameters=[_NAME, _TAKEOVER],
        answers=_json(obj({"channels": array(ref("Channel"))})),
    ),
    "POST /apps/v1/{name}/channels": _own(
        parameters=[_NAME, _TAKEOVER],
        body=ref("NewChannel"),
        answers=_json(obj({"senderId": text("Our sender id in the channel")}), "Stored, and open"),
    ),
    "GET /apps/v1/{name}/channels/{channelId}": _own(
        parameters=[_NAME, _CHANNEL, _TAKEOVER], answers=_json(ref("ChannelStatus"))
    ),
    "DELETE /apps/v1/{name}/channels/{channelId}": _own(
        parameters=[_NAME, _CHANNEL, _TAKEOVER],
        answers={204: ("Closed, and its state deleted", {})},
    ),
    "POST /apps/v1/{name}/channels/{channelId}/close": _own(
        parameters=[_NAME, _CHANNEL, _TAKEOVER],
        answers={204: ("Closed; its state is kept", {})},
    ),
    "POST /apps/v1/{name}/channels/{channelId}/sends": _own(
        parameters=[_NAME, _CHANNEL, _TAKEOVER, _KEY],
        body=ref("ChannelSend"),
        octets="The payload, up to about 25 MB",
        answers={202: ("Stored; the outcome follows as events", {JSON: obj({"requestId": text()})})},
        headers={"Location": "Where its fate will be"},
    ),
    "GET /apps/v1/{name}/channels/{channelId}/sends/{requestId}": _own(
        parameters=[_NAME, _CHANNEL, _ID, _TAKEOVER],
        answers=_json(ref("PendingChannelSend")),
    ),
    "GET /kernel/v1/events": _own(
        parameters=[
            query("shards", "Messages of these shards, separated by commas", text(examples=["0,1"])),
            query("payload", "true: include payloads", _FLAG),
            query("health", "true: include the node's health", _FLAG),
            query("peers", "true: include peers that connect, disconnect and change", _FLAG),
            query("figures", "true: include totals, processes and archive, every two seconds", _FLAG),
            query(
                "apps",
                "true: include apps and their sends, every two seconds; needs the scope apps too",
                _FLAG,
            ),
        ],
        answers={200: ("An endless stream of server-sent events", _EVENTS)},
    ),
    "GET /gateway/v1/about": _own(answers=_json(ref("About"))),
    "PUT /gateway/v1/log-level": _own(
        body=obj({"level": LEVEL}),
        answers=_json(obj({"previous": mapping(text())})),
    ),
}


def socket_operation() -> Operation:
    """Describe the WebSocket, which FastAPI leaves out of its document."""
    return _own(
        parameters=[
            _NAME,
            _TAKEOVER,
            query("credit", "Bytes of events that may be sent before more are granted", integer(minimum=0)),
            query("after", "Resume after this event", _POSITION),
            query("ack", "auto: what was written counts as handled", text(enum=["explicit", "auto"])),
            _READER,
        ],
        answers={101: ("A WebSocket with the subprotocol logos.json.v1 or logos.msgpack.v1", {})},
    )
