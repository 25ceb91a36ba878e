"""The reference's REST API on a gateway beside a real node with a real peer."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from tests.integration.logos_node import LogosUp, short_directory
from tests.support.gateway_process import Answer, GatewayProcess

pytestmark = pytest.mark.integration

TOPIC = "/waku/2/rs/7/0"
CONTENT = "/gateway/1/test/proto"
ENCODED = quote(CONTENT, safe="")
CLOSED = "/ip4/127.0.0.1/tcp/1/p2p/16Uiu2HAm4v86W3bmT1BiH6oSPzcsSr24iDQpSN5Qa992BCjjwgrD"
LONG = "/a/1/" + "x" * 70_000 + "/proto"
"""A content topic above what the contract allows."""
LARGE = "A" * 2_000_000
"""The base64 of more than any message may have: the kernel's socket would refuse such a frame unread."""
QUIC = CLOSED.replace("/tcp/1/", "/udp/1/quic-v1/")
NETWORK = ("cluster-id=7", "num-shards-in-network=1")


class Pair(NamedTuple):
    """Two nodes that are connected, each with its gateway; `a` has an archive."""

    a: GatewayProcess
    b: GatewayProcess
    node_a: LogosUp


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with short_directory() as path:
        nodes = [LogosUp(path / "a", *NETWORK, "store=true"), LogosUp(path / "b", *NETWORK)]
        gateways: list[GatewayProcess] = []
        try:
            for node in nodes:
                node.wait_said("the node is ready: apps connect to")
                gateways.append(GatewayProcess(node.data_dir, "--rest-admin"))
            a, b = gateways
            for gateway in gateways:
                gateway.wait_for("/health", lambda answer: answer.json["nodeHealth"] == "READY")
            (address,) = b.request("GET", "/info").json["listenAddresses"]
            assert a.request("POST", "/admin/v1/peers", [address]) == (200, ANY, b"OK")
            for gateway in gateways:
                assert gateway.request("POST", "/relay/v1/subscriptions", [TOPIC]).text == "OK"
                gateway.wait_for("/admin/v1/peers/mesh/on/0", lambda answer: len(answer.json["peers"]) == 1)
            yield Pair(a, b, nodes[0])
        finally:
            for gateway in gateways:
                gateway.close()
            for node in nodes:
                node.close()


class _Any:
    def __eq__(self, _other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


ANY: Any = _Any()


def message(payload: bytes = b"hello", **more: object) -> dict[str, object]:
    return {"payload": base64.b64encode(payload).decode(), "contentTopic": CONTENT, **more}


def polled(gateway: GatewayProcess, path: str, count: int) -> list[Any]:
    """Poll until so many messages have come."""
    found: list[Any] = []

    def enough(answer: Answer) -> bool:
        assert answer.status == 200, answer
        found.extend(answer.json)
        return len(found) >= count

    gateway.wait_for(path, enough)
    return found


def test_health_info_and_version(pair: Pair) -> None:
    # The Messaging API learns of the peer with the kernel's next report.
    health = pair.a.wait_for("/health", lambda found: found.json["connectionStatus"] != "Disconnected").json
    assert health["nodeHealth"] == "READY"
    assert health["connectionStatus"] == "PartiallyConnected"
    assert {"Relay": "READY"} in health["protocolsHealth"]
    info = pair.a.request("GET", "/info")
    assert info.json["enrUri"].startswith("enr:")
    assert pair.a.request("GET", "/debug/v1/info").json == info.json
    version = pair.a.request("GET", "/version")
    assert version.headers["content-type"].startswith("text/plain")
    assert pair.a.request("GET", "/debug/v1/version").text == version.text


def test_an_unknown_path_or_method(pair: Pair) -> None:
    for method, path in (("GET", "/nowhere"), ("PATCH", "/relay/v1/subscriptions"), ("GET", "/health/")):
        answer = pair.a.request(method, path)
        assert (answer.status, answer.text) == (400, "Bad request initiated. Invalid path or method used.")


def test_relay_by_pubsub_topic_and_by_content_topic(pair: Pair) -> None:
    path = "/relay/v1/messages/" + quote(TOPIC, safe="")
    assert pair.b.request("POST", "/relay/v1/auto/subscriptions", [CONTENT]).text == "OK"
    pair.b.request("GET", path)  # what earlier tests left
    stamp = time.time_ns()
    sent = message(timestamp=stamp, meta="bWV0YQ==", version=1)
    assert pair.a.request("POST", path, sent) == (200, ANY, b"OK")
    assert pair.a.request("POST", "/relay/v1/auto/messages", message(b"two")) == (200, ANY, b"OK")
    by_topic = polled(pair.b, path, 2)
    assert by_topic[0] == {
        "payload": "aGVsbG8=",
        "contentTopic": CONTENT,
        "version": 1,
        "timestamp": stamp,
        "ephemeral": False,
        "meta": "bWV0YQ==",
        "proof": "",
    }
    assert [one["payload"] for one in polled(pair.b, f"/relay/v1/auto/messages/{ENCODED}", 2)] == [
        "aGVsbG8=",
        "dHdv",
    ]
    assert pair.b.request("GET", path).json == []
    assert pair.b.request("DELETE", "/relay/v1/auto/subscriptions", [CONTENT]).text == "OK"
    assert pair.b.request("GET", f"/relay/v1/auto/messages/{ENCODED}") == (404, ANY, CONTENT.encode())


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        (
            "POST",
            "/relay/v1/subscriptions",
            ["/waku/2/default-waku/proto", "x"],
            400,
            'Invalid pubsub topic(s): @["/waku/2/default-waku/proto", "x"]',
        ),
        ("POST", "/relay/v1/subscriptions", None, 400, "Missing content body"),
        ("POST", "/relay/v1/subscriptions", b"{", 400, "Invalid content body, could not decode: "),
        ("POST", "/relay/v1/subscriptions", {"a": 1}, 400, "Invalid content body, could not decode: "),
        ("POST", "/relay/v1/subscriptions", ["/waku/2/rs/8/0"], 500, "Subscribe failed:"),
        ("GET", "/relay/v1/messages/%2Fwaku%2F2%2Frs%2F7%2F9", None, 404, ""),
        (
            "POST",
            "/relay/v1/messages/%2Fwaku%2F2%2Frs%2F7%2F9",
            b"not even JSON",
            400,
            "Failed to publish: Node not subscribed to topic: /waku/2/rs/7/9",
        ),
        (
            "POST",
            "/relay/v1/auto/messages",
            {"payload": "aGk=", "contentTopic": "bad"},
            400,
            "Failed to publish. Autosharding error: ",
        ),
        (
            "POST",
            "/relay/v1/auto/messages",
            {"payload": "A" * 240_000, "contentTopic": CONTENT},
            400,
            "Failed to publish: Message size exceeded maximum of 153600 bytes",
        ),
        ("POST", "/relay/v1/auto/messages", {"payload": "aGk="}, 400, "Invalid content body"),
        ("POST", "/messaging/v1/messages", {"payload": "?", "contentTopic": CONTENT}, 400, "Invalid message"),
        ("POST", "/messaging/v1/subscriptions", ["bad topic"], 500, "Subscribe failed: "),
        ("GET", "/messaging/v1/events/send/none", None, 404, "No send events for requestId: none"),
        ("GET", f"/filter/v2/messages/{ENCODED}", None, 400, f"Not subscribed to topic: {CONTENT}"),
        ("GET", "/admin/v1/peer/unknown", None, 400, "Invalid argument:"),
        ("GET", "/admin/v1/peers/connected/on/many", None, 400, "Invalid shardId: many"),
        ("POST", "/admin/v1/peers", ["/ip4/127.0.0.1"], 400, ""),
        ("POST", "/admin/v1/log-level/loud", None, 400, "Invalid log-level: loud. Please specify one of"),
        ("GET", "/store/v3/messages?pageSize=x", None, 400, "page size parsing error"),
        ("GET", "/store/v3/messages?startTime=x", None, 400, "time parsing error: "),
        ("GET", "/store/v3/messages?includeData=maybe", None, 400, "include data parsing error: "),
        ("GET", "/store/v3/messages?hashes=xy", None, 400, "Exception converting hex string to bytes: "),
        (
            "GET",
            "/store/v3/messages?cursor=0xabcd",
            None,
            400,
            "waku message hash parsing error: invalid hash length: 2",
        ),
        ("GET", "/store/v3/messages?peerAddr=nowhere", None, 400, "Failed parsing remote peer info"),
        ("DELETE", "/relay/v1/subscriptions", ["x"], 400, 'Invalid pubsub topic(s): @["x"]'),
        ("POST", "/relay/v1/auto/subscriptions", ["bad"], 500, "Subscribe failed:"),
        ("DELETE", "/relay/v1/auto/subscriptions", ["bad"], 500, "Unsubscribe failed:"),
        ("POST", "/relay/v1/auto/messages", {"contentTopic": CONTENT}, 400, "Invalid content body"),
        (
            "POST",
            "/relay/v1/auto/messages",
            b'{"payload":"aGk=","payload":"aG8=","contentTopic":"/a/1/b/c"}',
            400,
            "Invalid content body, could not decode: ",
        ),
        ("POST", "/relay/v1/auto/messages", {"payload": "", "contentTopic": CONTENT}, 400, "Invalid content"),
        ("GET", "/relay/v1/auto/messages/%2Fa%2F1%2Fb%2Fc", None, 404, "/a/1/b/c"),
        ("POST", "/messaging/v1/messages", None, 400, "Missing content body"),
        ("POST", "/messaging/v1/messages", b"{", 400, "Invalid content body, could not decode: "),
        (
            "POST",
            "/messaging/v1/messages",
            {"payload": "", "contentTopic": CONTENT},
            400,
            "Invalid message: ",
        ),
        (
            "POST",
            "/messaging/v1/messages",
            {"payload": "aGk=", "contentTopic": " "},
            400,
            "Invalid message: ",
        ),
        ("DELETE", "/messaging/v1/subscriptions", ["/never/1/subscribed/x"], 500, "Unsubscribe failed: "),
        ("POST", "/admin/v1/peers", b"{", 400, "Failed to decode request: "),
        ("POST", "/admin/v1/peers", ["nowhere"], 400, "Couldn't parse remote peer info: "),
        ("POST", "/admin/v1/peers", [QUIC], 400, "Couldn't parse remote peer info: "),
        ("POST", "/admin/v1/peers", [QUIC, CLOSED], 400, f"Failed to connect to peer at index: 1 - {CLOSED}"),
        ("POST", "/admin/v1/peers", [CLOSED], 400, f"Failed to connect to peer at index: 0 - {CLOSED}"),
        ("POST", "/admin/v1/log-level/", None, 400, "Invalid log-level, it can’t be empty"),
        ("GET", "/admin/v1/peers/mesh/on/-1", None, 400, "Invalid shardId: -1"),
        (
            "POST",
            "/filter/v2/subscriptions",
            {"requestId": "many", "contentFilters": [f"/a/1/{number}/c" for number in range(101)]},
            400,
            '{"requestId":"many","statusDesc":"BAD_REQUEST: exceeds maximum content topics: 100"}',
        ),
        ("POST", "/lightpush/v3/message", b"{", 400, '{"statusDesc":"Invalid push request! '),
        ("POST", "/lightpush/v1/message", b"{", 400, "Invalid push request! "),
        ("POST", "/messaging/v1/messages", message(contentTopic=LONG), 400, "Invalid message: "),
        ("POST", "/messaging/v1/messages", message(meta=LARGE), 400, "Invalid message: "),
        ("POST", "/messaging/v1/messages", {**message(), "payload": LARGE}, 400, "Send failed: Message size"),
        ("POST", "/messaging/v1/subscriptions", [LONG], 400, "Subscribe failed: "),
        ("DELETE", "/messaging/v1/subscriptions", [LONG], 400, "Unsubscribe failed: "),
        ("POST", "/relay/v1/auto/messages", message(contentTopic=LONG), 400, "Failed to publish: "),
        ("POST", "/relay/v1/auto/messages", {**message(), "payload": LARGE}, 400, "Failed to publish: "),
        ("POST", "/lightpush/v1/message", {"message": message(contentTopic=LONG)}, 400, "BAD_REQUEST: "),
        ("POST", "/lightpush/v3/message", {"message": {**message(), "payload": LARGE}}, 420, "{"),
        ("POST", "/apps/v1/a/sends", message(contentTopic=LONG), 400, "{"),
    ],
)
def test_bad_input_has_the_references_status_and_text(
    pair: Pair, method: str, path: str, body: object, status: int, text: str
) -> None:
    answer = pair.a.request(method, path, body)
    assert answer.status == status, answer
    assert answer.text.startswith(text)


def test_wrong_content_types(pair: Pair) -> None:
    xml = {"Content-Type": "application/xml"}
    answer = pair.a.request("POST", "/relay/v1/subscriptions", [TOPIC], headers=xml)
    assert answer == (400, ANY, b"Wrong Content-Type, expected application/json or text/plain")
    text = {"Content-Type": "text/plain"}
    assert pair.a.request("POST", "/relay/v1/subscriptions", [TOPIC], headers=text).status == 200
    answer = pair.a.request("POST", "/filter/v2/subscriptions", {}, headers=text)
    assert answer == (400, ANY, b"Wrong Content-Type, expected application/json")


def test_filter_through_the_other_node(pair: Pair) -> None:
    path = "/filter/v2/subscriptions"
    answer = pair.b.request("POST", path, {"requestId": "r1", "contentFilters": [CONTENT]})
    assert (answer.status, answer.json) == (200, {"requestId": "r1", "statusDesc": "OK"})
    assert pair.b.request("GET", f"{path}/ping-1").json == {"requestId": "ping-1", "statusDesc": "OK"}
    (client,) = pair.a.request("GET", "/admin/v1/filter/subscriptions").json
    assert client["filterCriteria"] == [{"pubsubTopic": TOPIC, "contentTopic": CONTENT}]
    bad = pair.b.request("POST", path, b"{")
    assert (bad.status, bad.json["requestId"]) == (400, "unknown")
    answer = pair.b.request("DELETE", path, {"requestId": "r2", "contentFilters": [CONTENT]})
    assert (answer.status, answer.json["statusDesc"]) == (200, "OK")
    answer = pair.b.request("DELETE", f"{path}/all", {"requestId": "r3"})
    assert answer.json["requestId"] == "r3"


def test_lightpush_both_versions(pair: Pair) -> None:
    answer = pair.b.request("POST", "/lightpush/v3/message", {"message": message(b"pushed")})
    assert (answer.status, answer.json) == (200, {"relayPeerCount": 1})
    old = pair.b.request("POST", "/lightpush/v1/message", {"pubsubTopic": TOPIC, "message": message(b"old")})
    assert (old.status, old.text) == (200, "OK")
    bad = pair.b.request("POST", "/lightpush/v3/message", {"message": {"payload": ""}})
    assert bad.status == 400
    assert bad.json["statusDesc"].startswith("Invalid message!")


def test_store_local_and_of_another_node(pair: Pair) -> None:
    marks = [f"stored {number}".encode() for number in range(3)]
    for mark in marks:
        pair.a.request("POST", "/relay/v1/auto/messages", message(mark))
    (address,) = pair.a.request("GET", "/info").json["listenAddresses"]
    query = f"/store/v3/messages?contentTopics={ENCODED}&includeData=true&ascending=false&pageSize=2"
    wanted = {base64.b64encode(mark).decode() for mark in marks[1:]}

    def newest(answer: Answer) -> bool:
        return {one["message"]["payload"] for one in answer.json["messages"]} == wanted

    local = pair.a.wait_for(query, newest).json
    assert (local["statusCode"], local["statusDesc"]) == (200, "OK")
    remote = pair.b.wait_for(f"{query}&peerAddr={quote(address, safe='')}", newest).json
    assert remote["messages"] == local["messages"]
    assert remote["messages"][0]["pubsubTopic"] == TOPIC
    cursor = local["paginationCursor"]
    older = pair.a.request("GET", f"{query}&cursor={cursor}").json["messages"]
    assert {one["messageHash"] for one in older}.isdisjoint(one["messageHash"] for one in local["messages"])
    hashes = pair.a.request("GET", f"/store/v3/messages?hashes={older[0]['messageHash']}").json["messages"]
    assert hashes == [{"messageHash": older[0]["messageHash"]}]
    unknown = pair.a.request("GET", f"{query}&cursor={'ab' * 32}")
    assert unknown.status == 500


def test_messaging(pair: Pair) -> None:
    for gateway in (pair.a, pair.b):
        assert gateway.request("POST", "/messaging/v1/subscriptions", [CONTENT]).text == "OK"
        gateway.request("GET", "/messaging/v1/events/received")
    answer = pair.a.request("POST", "/messaging/v1/messages", message(b"by messaging", ephemeral=False))
    request_id = answer.json["requestId"]
    received = polled(pair.b, "/messaging/v1/events/received", 1)
    assert received[-1]["message"]["payload"] == base64.b64encode(b"by messaging").decode()
    assert received[-1]["source"] == "live"
    events: list[Any] = []

    def propagated(answer: Answer) -> bool:
        if answer.status == 200:
            events.extend(answer.json["events"])
        return bool(events)

    pair.a.wait_for(f"/messaging/v1/events/send/{request_id}", propagated)
    assert events[0]["kind"] == "propagated"
    assert events[0]["messageHash"] == received[-1]["messageHash"]
    assert pair.b.request("DELETE", "/messaging/v1/subscriptions", [CONTENT]).text == "OK"


def test_the_end_of_a_send_shows_though_no_reader_takes_the_events(pair: Pair) -> None:
    """More of them than the gateway holds for an app."""
    path = "/apps/v1/unread"
    assert pair.a.request("POST", f"{path}/subscriptions", {"topics": [CONTENT]}).status == 200
    body = message(bytes(100_000), ephemeral=True)
    ids = [pair.a.request("POST", f"{path}/sends", body).json["requestId"] for _ in range(50)]
    for one in ids:  # no store is asked for an ephemeral message
        pair.a.wait_for(f"{path}/sends/{one}", lambda answer: answer.json["state"] == "unconfirmed")
    answer = pair.a.request("GET", f"{path}/sends/{ids[-1]}").json
    assert (answer["cause"], answer["attempts"]) == ("ephemeral messages are not stored", 1)
    assert pair.a.request("GET", f"{path}/sends").json["total"] == 0


def test_admin(pair: Pair) -> None:
    def described(answer: Answer) -> bool:
        # identify and metadata come after the connection
        return [one["shards"] for one in answer.json if one["connected"] == "Connected"] == [[0]]

    found = pair.a.wait_for("/admin/v1/peers", described).json
    (peer,) = [one for one in found if one["connected"] == "Connected"]
    peer_id = peer["multiaddr"].rpartition("/p2p/")[2]
    assert pair.a.request("GET", f"/admin/v1/peer/{peer_id}").json["multiaddr"] == peer["multiaddr"]
    assert len(pair.a.request("GET", "/admin/v1/peers/connected").json) == 1
    assert len(pair.a.request("GET", "/admin/v1/peers/connected/on/0").json) == 1
    assert pair.a.request("GET", "/admin/v1/peers/connected/on/1").json == []
    assert pair.a.request("GET", "/admin/v1/peers/relay").json[0]["shard"] == 0
    services = pair.a.request("GET", "/admin/v1/peers/service").json
    assert {tuple(one["protocols"]) for one in services} >= {("/vac/waku/relay/2.0.0",)}
    stats = pair.a.request("GET", "/admin/v1/peers/stats").json
    assert stats["By Connectedness"]["Connected"] == 1
    assert stats["Relay peers"] == {"0": 1, "Total relay peers": 1}
    missing = pair.a.request("GET", "/admin/v1/peer/16Uiu2HAm4v86W3bmT1BiH6oSPzcsSr24iDQpSN5Qa992BCjjwgrD")
    assert missing.status == 404
    assert pair.a.request("POST", "/admin/v1/log-level/Info") == (200, ANY, b"OK")


def test_metrics_of_all_processes(pair: Pair) -> None:
    page = pair.a.request("GET", "/metrics", server="metrics").text
    for process in ("kernel", "mapi", "gateway"):
        assert f'process_resident_memory_bytes{{process="{process}"}}' in page
    assert 'logos_delivery_up{process="kernel"} 1.0' in page
    assert 'logos_delivery_node_messages_total{type="relay"}' in page
    assert pair.a.request("GET", "/ready", server="metrics").text.strip() == "READY"
