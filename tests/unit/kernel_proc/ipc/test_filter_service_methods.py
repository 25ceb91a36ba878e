"""filter.subscribers: the light clients of this node's filter service."""

from __future__ import annotations

import pytest

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Request, encode_reply
from ipc_schema.kernel.filter import FILTER_SUBSCRIBERS, FilterSubscribersReply
from ipc_schema.server import Call, Caller
from kernel_proc.ipc.consumers import Consumer
from kernel_proc.ipc.methods.filter_service import filter_service_routes
from kernel_proc.protocols.filter.codec import FilterRequest, RequestType
from kernel_proc.protocols.filter.subscriptions import FilterLimits, Subscriptions

TOPIC = "/waku/2/rs/1/0"


def ask(table: Subscriptions | None) -> FilterSubscribersReply:
    route = filter_service_routes(table)[FILTER_SUBSCRIBERS]
    request = Request(bytes(16), FILTER_SUBSCRIBERS, 0, 0, {}, ())
    answer = route.handler(Call(request, Caller(b""), Consumer("x", "tool", named=True), 0.0, route))
    assert isinstance(answer, tuple)
    encode_reply(bytes(16), bytes(16), answer[0])  # raises if it does not fit
    return FilterSubscribersReply.from_body(answer[0])


def subscribe(table: Subscriptions, peer: str, *topics: str) -> None:
    table.handle(peer, FilterRequest("r", RequestType.SUBSCRIBE, TOPIC, topics), 0.0)


def test_every_light_client_with_its_criteria() -> None:
    table = Subscriptions(FilterLimits())
    subscribe(table, "peer-1", "/a/1/b/c", "/a/1/b/d")
    subscribe(table, "peer-2", "/a/1/b/c")
    reply = ask(table)
    assert reply.total == 2
    assert {one.peer: one.criteria for one in reply.subscribers} == {
        "peer-1": ((TOPIC, "/a/1/b/c"), (TOPIC, "/a/1/b/d")),
        "peer-2": ((TOPIC, "/a/1/b/c"),),
    }


@pytest.mark.parametrize(("length", "topics"), [(5000, 20), (10, 90)])
def test_as_many_as_fit_one_reply(length: int, topics: int) -> None:
    table = Subscriptions(FilterLimits())
    for peer in range(300):
        subscribe(table, f"peer-{peer}", *(f"{number:0{length}}" for number in range(topics)))
    reply = ask(table)
    assert reply.total == 300
    assert 0 < len(reply.subscribers) < 300


def test_without_a_filter_service() -> None:
    with pytest.raises(IpcError) as refused:
        ask(None)
    assert refused.value.code is ErrorCode.NOT_READY
    assert not refused.value.retriable
