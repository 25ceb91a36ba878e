"""All declared bodies: kernel, Messaging API and control."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipc_schema import control
from ipc_schema.body import Body
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import decode_body
from ipc_schema.kernel import methods as kernel
from ipc_schema.kernel.lightpush import LightpushPublishRequest
from ipc_schema.kernel.records import NodeHealth
from ipc_schema.kernel.relay import (
    RELAY_MESH,
    RelayPeersRequest,
    RelayPublishManyReply,
    RelayPublishManyRequest,
    RelayPublishRequest,
)
from ipc_schema.mapi import control as mapi_control
from ipc_schema.mapi import methods as mapi
from ipc_schema.mapi.send_many import SendManyReply, SendManyRequest
from ipc_schema.streams import ReplayBatch
from tests.unit.ipc_schema.strategies import attempt, bodies, maps_near

TABLES = {
    "kernel": kernel.METHODS,
    "mapi": mapi.METHODS,
    "control": control.METHODS,
    "mapi control": mapi_control.METHODS,
}
ALL: list[type[Body]] = sorted(
    {cls for table in TABLES.values() for method in table.values() for cls in method},
    key=lambda c: c.__name__,
)


def test_the_methods_are_those_of_the_contract() -> None:
    assert set(kernel.METHODS) == {
        "hello",
        "lease.acquire",
        "lease.release",
        "stream.replay",
        "relay.publish",
        "relay.publish_many",
        "relay.peers",
        "relay.mesh",
        "lightpush.publish",
        "store.query",
        "store.status",
        "store.sync",
        "store.verify",
        "store.import",
        "filter.subscribe",
        "filter.unsubscribe",
        "filter.ping",
        "filter.subscribers",
        "peer_exchange.request",
        "peers.connect",
        "peers.disconnect",
        "peers.list",
        "peers.known",
        "discovery.status",
        "discovery.start",
        "discovery.stop",
        "discovery.bootnodes",
        "discovery.list",
        "discovery.find_node",
        "node.health",
        "node.info",
        "node.config",
        "node.metrics",
    }
    assert set(mapi.METHODS) == {
        "pending",
        "find_send",
        "cancel",
        "hello",
        "subscribe",
        "unsubscribe",
        "subscriptions",
        "send",
        "send_many",
        "ack",
        "credit",
        "status",
        "node.info",
        "ping",
        "forget",
        "goodbye",
        "channel.create",
        "channel.exists",
        "channel.find_send",
        "channel.list",
        "channel.status",
        "channel.close",
        "channel.forget",
        "channel.send",
        "channel.split",
        "channel.opened",
    }
    assert set(control.METHODS) == {"health", "shutdown", "log_level", "metrics"}
    assert set(mapi_control.METHODS) == {"apps", "sends"}


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_body_comes_back_as_it_was(cls: type[Body]) -> None:
    @settings(max_examples=20)
    @given(bodies(cls))
    def check(body: Any) -> None:
        packed = msgpack.packb(body.to_body())
        assert cls.from_body(decode_body(packed)) == body

    check()


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_any_map_is_a_value_or_a_typed_error(cls: type[Body]) -> None:
    @settings(max_examples=30)
    @given(maps_near(cls))
    def check(body: dict[str, Any]) -> None:
        result = attempt(lambda: cls.from_body(body), IpcError)
        if isinstance(result, IpcError):
            assert result.code is ErrorCode.BAD_REQUEST
            assert ": " in result.message
        else:
            msgpack.packb(result.to_body())

    check()


def test_metrics_may_be_anything_but_scores_are_finite() -> None:
    reply = kernel.NodeMetricsReply.from_body({"metrics": [["lag", {"loop": "main"}, math.inf]]})
    assert reply.metrics == (("lag", {"loop": "main"}, math.inf),)
    with pytest.raises(IpcError, match="score"):
        kernel.PeersListReply.from_body({"peers": [{"peer_id": "x", "score": math.nan}]})


def test_replayed_events_travel_as_blobs() -> None:
    batch = ReplayBatch([(b"h1", b"p1"), (b"h2", b"")], 9, True)
    reply, blobs = kernel.replay_blobs(batch)
    assert reply == kernel.StreamReplayReply(events=2, last=9, complete=True)
    assert kernel.replayed_events(reply, blobs) == batch.events
    with pytest.raises(IpcError, match="need 4 blobs, not 3"):
        kernel.replayed_events(reply, blobs[:3])


def test_a_body_of_two_methods_can_be_given_its_place() -> None:
    with pytest.raises(IpcError, match=r"relay\.mesh: pubsub_topic: text is expected"):
        RelayPeersRequest.from_body({"pubsub_topic": 1}, RELAY_MESH)


def test_limits_of_the_contract() -> None:
    assert kernel.LeaseAcquireRequest.from_body({"shards": [0, 65535]}).shards == (0, 65535)
    for wrong in ([65536], [-1], list(range(1025))):
        with pytest.raises(IpcError, match="LeaseAcquireRequest: shards"):
            kernel.LeaseAcquireRequest.from_body({"shards": wrong})
    with pytest.raises(IpcError, match="SendRequest: meta: 65 bytes, at most 64"):
        mapi.SendRequest.from_body({"request_id": bytes(16), "content_topic": "/a/1/b/c", "meta": bytes(65)})
    with pytest.raises(IpcError, match="SendRequest: request_id: 15 bytes"):
        mapi.SendRequest.from_body({"request_id": bytes(15), "content_topic": "/a/1/b/c"})


@given(st.sampled_from(["health", "state"]), st.text(max_size=3))
def test_servers_may_add_keys(key: str, value: str) -> None:
    body = {"ready": True, "state": "READY", "version": "1", "pid": 1, "uptime_ms": 2, f"own_{key}": value}
    assert control.ControlHealthReply.from_body(body).ready
    assert NodeHealth.from_body({"state": "READY", f"own_{key}": value}).state == "READY"


def test_a_message_is_published_with_one_blob() -> None:
    request = RelayPublishRequest(content_topic="/a/1/b/c", meta=b"m", version=1, ephemeral=True)
    message = request.message([b"payload"])
    assert (message.payload, message.content_topic, message.timestamp) == (b"payload", "/a/1/b/c", 0)
    assert (message.meta, message.version, message.ephemeral, message.proof) == (b"m", 1, True, b"")
    for blobs in ([], [b"a", b"b"]):
        with pytest.raises(IpcError, match="one is needed: the payload"):
            LightpushPublishRequest(content_topic="/a/1/b/c").message(blobs)


_ODD: st.SearchStrategy[Any] = st.sampled_from(
    [0, 1, -1, True, 2**63, 65_536, 1.0, "", "/é/1/a/b", b"", bytes(65), None, [], "x" * 70_000]
)
_MESSAGE = ["/a/1/b/proto", 3, 7, b"m", 0, False, b"", True]
_RESULT = ["", "", bytes(32), 7, 3, False]
_SEND = [bytes(16), "/a/1/b/proto", b"m", False, 7]


@pytest.mark.parametrize(
    ("cls", "key", "row"),
    [
        (RelayPublishManyRequest, "messages", _MESSAGE),
        (RelayPublishManyReply, "results", _RESULT),
        (SendManyRequest, "sends", _SEND),
        (SendManyReply, "results", ["", "", 0, False]),
    ],
)
def test_many_are_read_as_the_annotations_say(cls: type[Body], key: str, row: list[Any]) -> None:
    """What comes most is checked in a shorter way, which must take and refuse the same."""

    @given(st.lists(st.tuples(st.integers(0, len(row)), _ODD), max_size=2), st.integers(0, 66))
    def check(changes: list[tuple[int, Any]], rows: int) -> None:
        changed = [*row]
        for at, value in changes:
            changed[at : at + 1] = [value]  # the last place makes it longer
        body = {key: [row] * rows + [changed]}

        def read(from_body: Any) -> Any:
            try:
                return from_body(body, "here")
            except IpcError as error:
                return str(error)

        assert read(cls.from_body) == read(lambda *given: Body.from_body.__func__(cls, *given))  # type: ignore[attr-defined]

    check()
