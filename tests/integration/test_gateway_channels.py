"""Reliable channels over HTTP: routes, events, the WebSocket, and what an app of the contract sees of it."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.integration.logos_node import LogosUp, short_directory
from tests.support.gateway_process import GatewayProcess

pytestmark = pytest.mark.integration

NETWORK = ("cluster-id=7", "num-shards-in-network=1", "channel-sync-interval=300ms")
TOPIC = "/gateway-channels/1/test/proto"
Gateways = tuple[GatewayProcess, GatewayProcess]


@pytest.fixture(scope="module")
def gateways() -> Iterator[Gateways]:
    """Of two connected nodes."""
    with short_directory() as path:
        nodes = [LogosUp(path / name, *NETWORK) for name in "ab"]
        opened: list[GatewayProcess] = []
        try:
            for node in nodes:
                node.wait_said("the node is ready: apps connect to")
                opened.append(GatewayProcess(node.data_dir, "--rest-admin"))
            a, b = opened
            for gateway in opened:
                gateway.wait_for("/health", lambda answer: answer.json["nodeHealth"] == "READY")
            (address,) = b.request("GET", "/info").json["listenAddresses"]
            assert a.request("POST", "/admin/v1/peers", [address]).status == 200
            for gateway in opened:
                assert create(gateway, "chat", "room").status == 200
                gateway.wait_for("/admin/v1/peers/mesh/on/0", lambda answer: len(answer.json["peers"]) == 1)
            yield a, b
        finally:
            for gateway in opened:
                gateway.close()
            for node in nodes:
                node.close()


def create(gateway: GatewayProcess, app: str, channel: str, **more: object) -> Any:
    body = {"channelId": channel, "contentTopic": TOPIC, **more}
    return gateway.request("POST", f"/apps/v1/{app}/channels", body)


def payload_in(event: Any) -> bytes:
    return base64.b64decode(event["payload"])


def test_a_payload_goes_from_one_to_the_other_and_is_delivered(gateways: Gateways) -> None:
    a, b = gateways
    for gateway in gateways:  # of an app of its own: the other tests' messages are not among its events
        assert create(gateway, "post", "letters").status == 200
    large = os.urandom(300_000)
    path = "/apps/v1/post/channels/letters/sends"
    headers = {"Idempotency-Key": "letter-1"}
    body = {"payload": base64.b64encode(b"hello").decode()}
    answers = [a.request("POST", path, body, headers=headers) for _ in range(2)]
    assert [answer.status for answer in answers] == [202, 202]
    (small,) = {answer.json["requestId"] for answer in answers}
    conflict = a.request("POST", path, {"payload": "AAAA"}, headers=headers)
    assert (conflict.status, conflict.json["code"]) == (409, "conflict")
    octets = {"Content-Type": "application/octet-stream"}
    second = a.request("POST", path, large, headers=octets)
    assert second.status == 202
    with b.events("/apps/v1/post/events?ack=auto") as reader:
        received = [event.data for event in reader.take("channel_message_received", 2)]
    assert [payload_in(event) for event in received] == [b"hello", large]
    assert received[0]["channelId"] == "letters"
    with a.events("/apps/v1/post/events?ack=auto") as reader:
        delivered = [event.data for event in reader.take("channel_message_delivered", 2)]
    assert [event["requestId"] for event in delivered] == [small, second.json["requestId"]]
    assert {event["by"] for event in delivered} == {received_by(b)}
    status = a.request("GET", "/apps/v1/post/channels/letters").json
    assert (status["unacknowledged"], status["sends"]) == (0, [])
    fate = a.request("GET", f"{path}/letter-1").json
    ended = {"state": "delivered", "sent": True, "detail": received_by(b)}
    assert fate == {"requestId": small, **ended}
    other = a.request("GET", f"/apps/v1/post/sends/{small}")
    assert other.status == 404, "a request id is the channel's"


def received_by(gateway: GatewayProcess) -> str:
    """The sender id of the app that received."""
    (one,) = [one for one in gateway.request("GET", "/apps/v1/post/channels").json["channels"] if one["open"]]
    return str(one["senderId"])


def test_the_life_of_a_channel(gateways: Gateways) -> None:
    path, channel = "/apps/v1/life/channels", "rooms/of/all/sends"
    key = base64.b64encode(bytes(range(32))).decode()
    a = gateways[0]
    created = create(a, "life", channel, senderId="me", keys=[key], keepKeys=True, parity=0.5)
    assert (created.status, created.json) == (200, {"senderId": "me"})
    again = create(a, "life", channel, keys=[key])
    assert (again.status, again.json["detail"]) == (409, f"channel already exists: {channel}")
    (shown,) = a.request("GET", path).json["channels"]
    assert shown == {
        "channelId": channel,
        "contentTopic": TOPIC,
        "senderId": "me",
        "profile": "reference",
        "encrypted": True,
        "open": True,
        "locked": False,
        "hooks": False,
    }
    sent = a.request("POST", f"{path}/{channel}/sends", {"payload": "aGk=", "ephemeral": True})
    assert sent.status == 202
    status = a.request("GET", f"{path}/{channel}").json
    assert status["unacknowledged"] == 1
    (pending,) = status["sends"]
    location = sent.headers["location"]
    assert location == f"{path}/{channel}/sends/{sent.json['requestId']}"
    assert (pending["requestId"], pending["state"] in ("accepted", "sent")) == (sent.json["requestId"], True)
    assert a.request("GET", location).json["state"] in ("accepted", "sent")
    unknown = a.request("GET", f"{path}/{channel}/sends/{'0' * 32}")
    assert (unknown.status, unknown.json["code"]) == (404, "not_found")
    assert create(a, "life", f"{channel}/sends/nested").status == 200
    assert "missing" in a.request("GET", f"{path}/{channel}/sends/nested").json, "a channel has that name"
    assert a.request("DELETE", f"{path}/{channel}/sends/nested").status == 204
    assert a.request("POST", f"{path}/{channel}/close").status == 204
    closed = a.request("POST", f"{path}/{channel}/sends", {"payload": "aGk="})
    assert (closed.status, closed.json["detail"]) == (400, "channel is closed")
    assert create(a, "life", channel, keys=[key]).status == 200
    assert a.request("DELETE", f"{path}/{channel}").status == 204
    assert a.request("GET", path).json == {"channels": []}


@pytest.mark.parametrize(
    ("method", "path", "data", "detail"),
    [
        ("POST", "", {"channelId": "x"}, "contentTopic: text is needed"),
        ("POST", "", {"contentTopic": TOPIC}, "channelId: text is needed"),
        ("POST", "", {"channelId": "x", "contentTopic": "none"}, "failed to subscribe"),
        ("POST", "", {"channelId": "x", "contentTopic": TOPIC, "profile": "nim"}, "profile 'nim'"),
        ("POST", "", {"channelId": "x", "contentTopic": TOPIC, "keys": ["AAAA"]}, "keys: of 32 bytes each"),
        ("POST", "", {"channelId": "x", "contentTopic": TOPIC, "keys": "AAAA"}, "keys: an array"),
        ("POST", "", {"channelId": "x", "contentTopic": TOPIC, "parity": 2}, "parity: 0 to 1"),
        ("POST", "", {"channelId": "x", "contentTopic": TOPIC, "keepKeys": 1}, "keepKeys: true or false"),
        ("GET", "/nowhere", None, "unknown channel: nowhere"),
        ("DELETE", "/nowhere", None, "unknown channel: nowhere"),
        ("POST", "/nowhere/close", None, "unknown channel: nowhere"),
        ("POST", "/nowhere/sends", {"payload": "aGk="}, "unknown channel: nowhere"),
        ("POST", "/nowhere/sends", {}, "payload: expected base64 text"),
        ("GET", "/nowhere/sends/x", None, "unknown channel: nowhere"),
    ],
)
def test_what_is_refused(gateways: Gateways, method: str, path: str, data: object, detail: str) -> None:
    answer = gateways[0].request(method, f"/apps/v1/refused/channels{path}", data)
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json"), answer
    assert answer.json["detail"].startswith(detail)


@pytest.mark.parametrize("protocol", ["logos.json.v1", "logos.msgpack.v1"])
def test_the_same_over_a_websocket(gateways: Gateways, protocol: str) -> None:
    binary = "msgpack" in protocol
    url = gateways[0].urls["rest"].replace("http", "ws", 1) + f"/apps/v1/{protocol}/socket"
    with connect(url, subprotocols=[Subprotocol(protocol)]) as socket:

        def ask(op: str, **fields: object) -> Any:
            request = {"op": op, "id": op, **fields}
            socket.send(msgpack.packb(request) if binary else json.dumps(request))
            while True:
                data = socket.recv(20)
                frame = msgpack.unpackb(data) if isinstance(data, bytes) else json.loads(data)
                if not frame["type"].startswith("event"):
                    return frame

        assert ask("channel_create", channelId="room", contentTopic=TOPIC, senderId="me")["senderId"] == "me"
        sent = ask("channel_send", channelId="room", payload=b"hi" if binary else "aGk=", requestId="ab" * 16)
        assert sent["requestId"] == "ab" * 16
        assert [one["channelId"] for one in ask("channel_list")["channels"]] == ["room"]
        status = ask("channel_status", channelId="room")
        assert [one["requestId"] for one in status["sends"]] == ["ab" * 16] * status["unacknowledged"]
        assert ask("channel_close", channelId="room")["type"] == "reply"
        assert ask("channel_status", channelId="room")["problem"]["detail"] == "channel is closed"
        assert ask("channel_forget", channelId="room")["type"] == "reply"
        assert ask("channel_list")["channels"] == []
