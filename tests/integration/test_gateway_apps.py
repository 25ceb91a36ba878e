"""A durable app over HTTP: its journal by server-sent events and WebSocket, sends with a fate, kills."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from tests.integration.logos_node import LogosUp, short_directory
from tests.support.gateway_process import GatewayProcess, SseEvent
from tests.support.kernel_process import KernelProcess
from tests.support.mapi_process import MapiProcess

pytestmark = pytest.mark.integration

TOPIC = "/gateway-apps/1/test/proto"


@pytest.fixture(scope="module")
def node() -> Iterator[LogosUp]:
    with short_directory() as path:
        up = LogosUp(path / "n")
        try:
            up.wait_said("the node is ready: apps connect to")
            yield up
        finally:
            up.close()


@pytest.fixture(scope="module")
def gateway(node: LogosUp) -> Iterator[GatewayProcess]:
    with GatewayProcess(node.data_dir) as process:
        process.wait_for("/health", lambda answer: answer.json["nodeHealth"] == "READY")
        yield process


def body(text: str, **more: object) -> dict[str, object]:
    return {"contentTopic": TOPIC, "payload": base64.b64encode(text.encode()).decode(), **more}


def text_of(event: Any) -> str:
    return base64.b64decode(event["payload"]).decode()


def subscribed(gateway: GatewayProcess, name: str) -> str:
    """Subscribe an app; returns its path."""
    path = f"/apps/v1/{name}"
    answer = gateway.request("POST", f"{path}/subscriptions", {"topics": [TOPIC]})
    assert (answer.status, answer.json) == (200, {"errors": {}})
    return path


def send(gateway: GatewayProcess, path: str, *texts: str) -> None:
    for text in texts:
        assert gateway.request("POST", f"{path}/sends", body(text)).status == 202


def received(reader: Iterator[SseEvent], count: int) -> list[SseEvent]:
    found: list[SseEvent] = []
    for event in reader:
        if event.kind == "message_received":
            found.append(event)
            if len(found) == count:
                return found
    raise AssertionError(f"the stream ended after {len(found)} of {count} messages")


def test_a_reader_resumes_after_its_last_acknowledgement(gateway: GatewayProcess) -> None:
    path = subscribed(gateway, "explicit")
    send(gateway, path, "one", "two", "three")
    with gateway.events(f"{path}/events") as reader:
        first = received(iter(reader), 3)
    assert [text_of(event.data) for event in first] == ["one", "two", "three"]
    assert len({event.id for event in first}) == 3
    with gateway.events(f"{path}/events", headers={"Last-Event-ID": first[0].id}) as reader:
        assert [text_of(event.data) for event in received(iter(reader), 2)] == ["two", "three"]
    two = first[1].data
    ack = {"streamId": two["streamId"], "seq": two["seq"]}
    assert gateway.request("POST", f"{path}/ack", ack).status == 204
    with gateway.events(f"{path}/events") as reader:
        again = received(iter(reader), 1)
    assert (text_of(again[0].data), again[0].id) == ("three", first[2].id)


def test_two_readers_do_not_rob_each_other(gateway: GatewayProcess) -> None:
    path = subscribed(gateway, "two-readers")
    with gateway.events(f"{path}/events?ack=auto") as one, gateway.events(f"{path}/events?ack=auto") as two:
        send(gateway, path, "a", "b")
        for reader in (one, two):
            assert [text_of(event.data) for event in received(iter(reader), 2)] == ["a", "b"]


def ack(gateway: GatewayProcess, path: str, event: SseEvent, **more: object) -> None:
    position = {"streamId": event.data["streamId"], "seq": event.data["seq"], **more}
    assert gateway.request("POST", f"{path}/ack", position).status == 204


def acked(gateway: GatewayProcess, name: str) -> int:
    (app,) = (one for one in gateway.request("GET", "/apps/v1").json["apps"] if one["name"] == name)
    return int(app["acked"])


def test_what_one_reader_acknowledges_stays_for_the_others(gateway: GatewayProcess) -> None:
    path = subscribed(gateway, "acks")
    one, two = f"{path}/events?reader=one", f"{path}/events?reader=two"
    with gateway.events(one) as first, gateway.events(two) as second:
        send(gateway, path, "a", "b", "c")
        events, others = received(iter(first), 3), received(iter(second), 3)
        ack(gateway, path, events[2], reader="one")
        assert acked(gateway, "acks") < events[0].data["seq"]
        ack(gateway, path, others[0], reader="two")
        assert acked(gateway, "acks") == others[0].data["seq"]
        send(gateway, path, "d")
        assert text_of(received(iter(first), 1)[0].data) == "d"
        stranger = {"streamId": others[1].data["streamId"], "seq": others[1].data["seq"]}
        refused = gateway.request("POST", f"{path}/ack", stranger)
        assert (refused.status, refused.json["retriable"]) == (503, True)
    # Each returns to where it was, though the first one was further.
    with gateway.events(two) as second, gateway.events(one) as first:
        assert text_of(received(iter(first), 1)[0].data) == "d"
        again = received(iter(second), 3)
        assert [text_of(event.data) for event in again] == ["b", "c", "d"]
        ack(gateway, path, again[2], reader="two")
        ack(gateway, path, again[2], reader="one")
        assert acked(gateway, "acks") == again[2].data["seq"]


def test_an_idempotency_key_sends_once(gateway: GatewayProcess) -> None:
    path = subscribed(gateway, "idempotent")
    headers = {"Idempotency-Key": "order-4711"}
    answers = [gateway.request("POST", f"{path}/sends", body("x"), headers=headers) for _ in range(3)]
    assert [answer.status for answer in answers] == [202] * 3
    (request_id,) = {answer.json["requestId"] for answer in answers}
    assert answers[0].headers["location"] == f"{path}/sends/{request_id}"
    conflict = gateway.request("POST", f"{path}/sends", body("y"), headers=headers)
    assert (conflict.status, conflict.json["code"], conflict.json["retriable"]) == (409, "conflict", False)
    found = gateway.request("GET", f"{path}/sends/order-4711").json
    assert found["requestId"] == request_id
    assert found["contentTopic"] == TOPIC
    assert gateway.request("GET", f"{path}/sends").json["total"] == 1
    missing = gateway.request("GET", f"{path}/sends/{'0' * 32}")
    assert (missing.status, missing.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize(
    ("method", "path", "data", "status", "code"),
    [
        ("GET", "/apps/v1/UPPER/status", None, 400, "bad_request"),
        ("POST", "/apps/v1/bad/sends", b"{", 400, "bad_request"),
        ("POST", "/apps/v1/bad/sends", b"[]", 400, "bad_request"),
        ("POST", "/apps/v1/bad/sends", {"contentTopic": TOPIC}, 400, "bad_request"),
        ("POST", "/apps/v1/bad/sends", {"contentTopic": "bad", "payload": "aGk="}, 400, "bad_request"),
        ("POST", "/apps/v1/bad/subscriptions", {"topics": "x"}, 400, "bad_request"),
        ("POST", "/apps/v1/bad/subscriptions", {"topics": ["x"], "historySeconds": -1}, 400, "bad_request"),
        ("POST", "/apps/v1/bad/ack", {"streamId": "x", "seq": 1}, 400, "bad_request"),
        ("GET", "/apps/v1/bad/events?ack=later", None, 400, "bad_request"),
        ("GET", "/apps/v1/bad/events?after=nowhere", None, 400, "bad_request"),
        ("GET", "/apps/v1/bad/nothing", None, 404, "not_found"),
        ("PUT", "/apps/v1/bad/sends", {}, 405, "unknown_method"),
        ("GET", "/kernel/v1/events", None, 400, "bad_request"),
        ("GET", "/kernel/v1/events?shards=a", None, 400, "bad_request"),
    ],
)
def test_errors_are_problem_details(
    gateway: GatewayProcess, method: str, path: str, data: object, status: int, code: str
) -> None:
    answer = gateway.request(method, path, data)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), answer
    assert answer.json["code"] == code
    assert answer.json["type"] == f"urn:logos:error:{code}"
    assert answer.json["status"] == status


def test_a_bad_position_is_named_as_it_was_given(gateway: GatewayProcess) -> None:
    events = "/apps/v1/bad/events"
    for answer, name in (
        (gateway.request("POST", "/apps/v1/bad/ack", {"streamId": "x", "seq": 1}), "streamId and seq"),
        (gateway.request("GET", f"{events}?after=x"), "after"),
        (gateway.request("GET", events, headers={"Last-Event-ID": "x"}), "Last-Event-ID"),
    ):
        assert answer.json["detail"].startswith(f"{name}: "), answer


def test_a_message_that_is_too_large_is_refused_with_size_and_limit(gateway: GatewayProcess) -> None:
    path = subscribed(gateway, "oversize")
    answer = gateway.request("POST", f"{path}/sends", {"contentTopic": TOPIC, "payload": "A" * 240_000})
    assert (answer.status, answer.json["code"]) == (413, "too_large")
    assert answer.json["detail"].startswith("Message size exceeded maximum of 153600 bytes")


def test_a_body_beyond_the_limit_is_refused_unread(gateway: GatewayProcess) -> None:
    too_large = {"Content-Length": str(17 * 1024 * 1024)}
    answer = gateway.request("POST", "/relay/v1/subscriptions", b"x", headers=too_large)
    assert answer.status == 413


# --- WebSocket --------------------------------------------------------------------------------------------


class Socket:
    """One WebSocket of an app, in JSON or MessagePack."""

    def __init__(self, gateway: GatewayProcess, name: str, query: str = "", *, binary: bool = False) -> None:
        url = gateway.urls["rest"].replace("http", "ws", 1) + f"/apps/v1/{name}/socket{query}"
        protocol = "logos.msgpack.v1" if binary else "logos.json.v1"
        self._manager = connect(url, subprotocols=[Subprotocol(protocol)])
        self.socket: ClientConnection = self._manager.__enter__()
        assert self.socket.subprotocol == protocol
        self.binary = binary
        self.events: list[Any] = []

    def ask(self, op: str, **fields: object) -> Any:
        """A request and its answer; events that come before it are kept."""
        self.put({"op": op, "id": op, **fields})
        while True:
            frame = self.get()
            if frame["type"] == "events":
                self.events += frame["events"]
            else:
                assert frame["id"] == op
                return frame

    def put(self, value: object) -> None:
        self.socket.send(msgpack.packb(value) if self.binary else json.dumps(value))

    def get(self, timeout: float = 20.0) -> Any:
        data = self.socket.recv(timeout)
        return msgpack.unpackb(data) if isinstance(data, bytes) else json.loads(data)

    def close(self) -> None:
        self._manager.__exit__(None, None, None)

    def message(self) -> Any:
        """The next received message."""
        while True:
            while not self.events:
                self.events += self.get().get("events", [])
            event = self.events.pop(0)["event"]
            if event["kind"] == "message_received":
                return event


@pytest.mark.parametrize("binary", [False, True])
def test_everything_on_one_socket(gateway: GatewayProcess, binary: bool) -> None:
    name = "socket-binary" if binary else "socket-text"
    one = Socket(gateway, name, binary=binary)
    payload: object = b"hi" if binary else "aGk="
    try:
        assert one.ask("subscribe", topics=[TOPIC])["errors"] == {}
        sent = one.ask("send", contentTopic=TOPIC, payload=payload, requestId="ab" * 16)
        assert sent["requestId"] == "ab" * 16
        event = one.message()
        assert event["payload"] == payload
        assert one.ask("ack", streamId=event["streamId"], seq=event["seq"])["type"] == "reply"
        assert one.ask("status")["topics"] == {TOPIC: "UNHEALTHY"}
        assert one.ask("pending")["total"] == 1
        assert one.ask("find_send", requestId="ab" * 16)["send"]["contentTopic"] == TOPIC
        assert one.ask("find_send", requestId="cd" * 16)["send"] is None
        assert one.ask("ping") == {"type": "reply", "id": "ping"}
        error = one.ask("dance")
        assert (error["type"], error["problem"]["code"]) == ("error", "bad_request")
        one.put(["no", "object"])
        while (frame := one.get())["type"] == "events":
            pass
        assert (frame["type"], frame["id"]) == ("error", None)
    finally:
        one.close()


def test_without_credit_nothing_is_sent_and_nothing_is_lost(gateway: GatewayProcess) -> None:
    path = subscribed(gateway, "credit")
    one = Socket(gateway, "credit", "?credit=0")
    try:
        send(gateway, path, "a", "b")
        assert one.ask("ping")["type"] == "reply"
        assert one.events == []
        one.put({"op": "credit", "id": "credit", "bytes": 1 << 20})
        texts = [text_of(one.message()) for _ in range(2)]
        assert texts == ["a", "b"]
    finally:
        one.close()


def test_the_close_code_names_bad_parameters_of_a_socket(gateway: GatewayProcess) -> None:
    for name, query, code in (("BAD", "", 4400), ("ok", "?credit=x", 4400), ("ok", "?after=1", 4400)):
        socket = Socket(gateway, name, query)
        with pytest.raises(ConnectionClosed) as closed:
            socket.get()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code
        socket.close()


def test_another_origin_opens_no_socket(gateway: GatewayProcess) -> None:
    url = gateway.urls["rest"].replace("http", "ws", 1) + "/apps/v1/x/socket"
    with pytest.raises(InvalidStatus) as refused, connect(url, origin=Origin("https://evil.example")):
        pass
    assert refused.value.response.status_code == 403


# --- the end ----------------------------------------------------------------------------------------------


def test_it_ends_in_good_order_beside_readers() -> None:
    """Kills are in tests/faults/test_gateway_killed.py."""
    with (
        short_directory() as path,
        KernelProcess(path / "n"),
        MapiProcess(path / "n"),
        GatewayProcess(path / "n") as gateway,
        gateway.events("/apps/v1/ending/events") as reader,
    ):
        assert reader.status == 200
        with connect(gateway.urls["rest"].replace("http", "ws", 1) + "/apps/v1/ending/socket"):
            assert gateway.close() == 0
        assert [event.kind for event in reader][-1:] == ["closed"]
        assert "Traceback" not in gateway.log()
