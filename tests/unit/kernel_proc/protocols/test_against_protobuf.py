"""Our codecs beside Google's protobuf: each reads what the other writes, and understands the same."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.message import WakuMessage, decode_message, encode_message
from kernel_proc.protocols import lightpush_codec, metadata, peer_exchange, store_codec
from kernel_proc.protocols.filter import codec as filter_codec
from kernel_proc.protocols.sync.transfer_codec import decode_transfer, encode_transfer
from kernel_proc.relay.rpc import Control, IHave, PeerInfo, Prune, RawMessage, Subscription
from kernel_proc.relay.rpc_reader import decode_rpc
from kernel_proc.relay.rpc_writer import encode_control, encode_subscriptions
from kernel_proc.relay.rpc_writer import encode_message as encode_publish
from tests.support.protobuf_reference import message, parsed, rpc_pb2

TEXT = st.text(max_size=40)
BLOB = st.binary(max_size=300)
U32 = st.integers(0, 2**32 - 1)
NS = st.integers(-(2**63), 2**63 - 1)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


MESSAGES = st.builds(WakuMessage, BLOB, TEXT, U32, NS, st.binary(max_size=64), BLOB, st.booleans())


def reference(one: WakuMessage) -> Any:
    return message(
        "WakuMessage",
        payload=one.payload,
        content_topic=one.content_topic,
        version=one.version,
        timestamp=one.timestamp,
        meta=one.meta,
        rate_limit_proof=one.proof,
        ephemeral=one.ephemeral,
    )


@given(MESSAGES)
def test_waku_message(one: WakuMessage) -> None:
    theirs = reference(one)
    assert parsed("WakuMessage", encode_message(one)) == theirs
    assert decode_message(theirs.SerializeToString()) == one


@given(TEXT, MESSAGES)
def test_transferred_message(topic: str, one: WakuMessage) -> None:
    theirs = message("WakuMessageAndTopic", pubsub_topic=topic, message=reference(one))
    assert parsed("WakuMessageAndTopic", encode_transfer(topic, encode_message(one))) == theirs
    read, data = decode_transfer(theirs.SerializeToString())
    assert (read, decode_message(data)) == (topic, one)


@given(
    st.builds(
        store_codec.StoreRequest,
        TEXT,
        st.booleans(),
        maybe(TEXT),
        st.lists(TEXT, max_size=4).map(tuple),
        maybe(NS),
        maybe(NS),
        st.lists(BLOB, max_size=4).map(tuple),
        maybe(BLOB),
        st.booleans(),
        maybe(st.integers(0, 2**64 - 1)),
    )
)
def test_store_request(one: store_codec.StoreRequest) -> None:
    theirs = message(
        "StoreQueryRequest",
        request_id=one.request_id,
        include_data=one.include_data,
        pubsub_topic=one.pubsub_topic,
        content_topics=one.content_topics,
        time_start=one.start,
        time_end=one.end,
        message_hashes=one.hashes,
        pagination_cursor=one.cursor,
        pagination_forward=one.forward,
        pagination_limit=one.limit,
    )
    assert parsed("StoreQueryRequest", store_codec.encode_request(one)) == theirs
    assert store_codec.decode_request(theirs.SerializeToString()) == one


@given(TEXT, U32, TEXT, st.lists(st.tuples(BLOB, MESSAGES, TEXT), max_size=3), maybe(st.binary(min_size=1)))
def test_store_response(
    request_id: str,
    status: int,
    text: str,
    found: list[tuple[bytes, WakuMessage, str]],
    cursor: bytes | None,
) -> None:
    ours = store_codec.StoreResponse(
        request_id,
        status,
        text,
        tuple(store_codec.KeyValue(digest, encode_message(one), topic) for digest, one, topic in found),
        cursor,
    )
    theirs = message(
        "StoreQueryResponse",
        request_id=request_id,
        status_code=status,
        status_desc=text,
        messages=[
            message("WakuMessageKeyValue", message_hash=digest, message=reference(one), pubsub_topic=topic)
            for digest, one, topic in found
        ],
        pagination_cursor=cursor,
    )
    assert parsed("StoreQueryResponse", store_codec.encode_response(ours)) == theirs
    assert store_codec.decode_response(theirs.SerializeToString()) == ours


@given(TEXT, st.integers(0, 3), maybe(TEXT), st.lists(TEXT, max_size=4))
def test_filter_request(request_id: str, kind: int, topic: str | None, contents: list[str]) -> None:
    ours = filter_codec.FilterRequest(request_id, kind, topic, tuple(contents))
    theirs = message(
        "FilterSubscribeRequest",
        request_id=request_id,
        filter_subscribe_type=kind,
        pubsub_topic=topic,
        content_topics=contents,
    )
    assert parsed("FilterSubscribeRequest", filter_codec.encode_request(ours)) == theirs
    assert filter_codec.decode_request(theirs.SerializeToString()) == ours


@given(TEXT, U32, maybe(TEXT), MESSAGES, TEXT)
def test_filter_response_and_push(
    request_id: str, status: int, text: str | None, one: WakuMessage, topic: str
) -> None:
    ours = filter_codec.FilterResponse(request_id, status, text)
    theirs = message("FilterSubscribeResponse", request_id=request_id, status_code=status, status_desc=text)
    assert parsed("FilterSubscribeResponse", filter_codec.encode_response(ours)) == theirs
    assert filter_codec.decode_response(theirs.SerializeToString()) == ours

    push = message("MessagePush", waku_message=reference(one), pubsub_topic=topic)
    assert parsed("MessagePush", filter_codec.encode_push(encode_message(one), topic)) == push
    assert filter_codec.decode_push(push.SerializeToString())[:2] == (one, topic)


@given(TEXT, MESSAGES, maybe(TEXT), U32, maybe(TEXT), maybe(U32))
def test_lightpush(
    request_id: str, one: WakuMessage, topic: str | None, status: int, text: str | None, peers: int | None
) -> None:
    data = reference(one).SerializeToString()
    ours = lightpush_codec.PushRequest(request_id, data, topic)
    theirs = message("LightpushRequest", request_id=request_id, pubsub_topic=topic, message=reference(one))
    assert parsed("LightpushRequest", lightpush_codec.encode_request(ours)) == theirs
    assert lightpush_codec.decode_request(theirs.SerializeToString()) == ours

    answer = lightpush_codec.PushResponse(request_id, status, text, peers)
    reply = message(
        "LightpushResponse",
        request_id=request_id,
        status_code=status,
        status_desc=text,
        relay_peer_count=peers,
    )
    assert parsed("LightpushResponse", lightpush_codec.encode_response(answer)) == reply
    assert lightpush_codec.decode_response(reply.SerializeToString()) == answer


@given(TEXT, MESSAGES, TEXT, st.booleans(), maybe(TEXT))
def test_legacy_lightpush(
    request_id: str, one: WakuMessage, topic: str, success: bool, info: str | None
) -> None:
    data = reference(one).SerializeToString()
    ours = lightpush_codec.PushRequest(request_id, data, topic)
    inner = message("PushRequest", pubsub_topic=topic, message=reference(one))
    theirs = message("PushRpc", request_id=request_id, request=inner)
    assert parsed("PushRpc", lightpush_codec.encode_legacy_request(ours)) == theirs
    assert lightpush_codec.decode_legacy_request(theirs.SerializeToString()) == ours

    answer = lightpush_codec.LegacyResponse(request_id, success, info)
    inner = message("PushResponse", is_success=success, info=info)
    reply = message("PushRpc", request_id=request_id, response=inner)
    assert parsed("PushRpc", lightpush_codec.encode_legacy_response(answer)) == reply
    assert lightpush_codec.decode_legacy_response(reply.SerializeToString()) == answer


@given(
    st.integers(0, 2**63), st.lists(st.binary(min_size=1, max_size=300), max_size=4), maybe(U32), maybe(TEXT)
)
def test_peer_exchange(count: int, records: list[bytes], status: int | None, text: str | None) -> None:
    query = message("PeerExchangeRpc", query=message("PeerExchangeQuery", num_peers=count))
    assert parsed("PeerExchangeRpc", peer_exchange.encode_request(count)) == query
    assert peer_exchange.decode_request(query.SerializeToString()) == count

    ours = peer_exchange.PxResponse(tuple(records), status, text)
    inner = message(
        "PeerExchangeResponse",
        peer_infos=[message("PeerInfo", enr=record) for record in records],
        status_code=status,
        status_desc=text,
    )
    theirs = message("PeerExchangeRpc", response=inner)
    assert parsed("PeerExchangeRpc", peer_exchange.encode_response(ours)).response == inner
    assert peer_exchange.decode_response(theirs.SerializeToString()) == ours


@given(maybe(U32), st.lists(st.integers(0, 1023), max_size=8, unique=True))
def test_metadata(cluster: int | None, shards: list[int]) -> None:
    ours = metadata.Metadata(cluster, tuple(shards))
    theirs = message("WakuMetadata", cluster_id=cluster, shards=shards)
    read = parsed("WakuMetadata", metadata.encode(ours))
    assert (read.HasField("cluster_id"), read.cluster_id, list(read.shards)) == (
        cluster is not None,
        cluster or 0,
        shards,
    )
    assert metadata.decode(theirs.SerializeToString()) == ours


# --- relay, beside the messages that py-libp2p generated from the specification ---

TOPICS = st.lists(TEXT.filter(bool), max_size=4)
IDS = st.lists(st.binary(min_size=1, max_size=40), max_size=5)


def body_of(frame: bytes) -> bytes:
    """Without the length before it, which is a varint."""
    while frame[0] & 0x80:
        frame = frame[1:]
    return frame[1:]


@given(TEXT.filter(bool), BLOB)
def test_relay_publish(topic: str, data: bytes) -> None:
    theirs = rpc_pb2.RPC(publish=[rpc_pb2.Message(data=data, topicIDs=[topic])])
    read = rpc_pb2.RPC.FromString(body_of(encode_publish(topic.encode(), data)))
    assert read == theirs
    assert list(decode_rpc(theirs.SerializeToString()).messages) == [RawMessage(topic.encode(), data, False)]
    signed = rpc_pb2.RPC(publish=[rpc_pb2.Message(data=data, topicIDs=[topic], seqno=b"1", from_id=b"x")])
    assert [one.signed for one in decode_rpc(signed.SerializeToString()).messages] == [True]


@given(st.lists(st.builds(Subscription, st.booleans(), TEXT.filter(bool)), min_size=1, max_size=6))
def test_relay_subscriptions(subscriptions: list[Subscription]) -> None:
    (frame,) = encode_subscriptions(subscriptions, 1 << 20)
    read = rpc_pb2.RPC.FromString(body_of(frame)).subscriptions
    assert [Subscription(one.subscribe, one.topicid) for one in read] == subscriptions
    theirs = rpc_pb2.RPC(
        subscriptions=[
            rpc_pb2.RPC.SubOpts(subscribe=one.subscribe, topicid=one.topic) for one in subscriptions
        ]
    )
    assert list(decode_rpc(theirs.SerializeToString()).subscriptions) == subscriptions


@given(TOPICS, TOPICS, IDS, IDS, maybe(st.integers(0, 3600)), BLOB)
def test_relay_control(
    graft: list[str],
    prune: list[str],
    want: list[bytes],
    dont: list[bytes],
    backoff: int | None,
    record: bytes,
) -> None:
    peer = PeerInfo(b"peer", record)
    ours = Control()
    ours.graft, ours.iwant, ours.idontwant = graft, want, dont
    ours.prune = [Prune(topic, backoff, (peer,)) for topic in prune]
    ours.ihave = [IHave(topic, want) for topic in graft if want]
    theirs = rpc_pb2.ControlMessage(
        graft=[rpc_pb2.ControlGraft(topicID=topic) for topic in graft],
        prune=[
            rpc_pb2.ControlPrune(
                topicID=topic,
                backoff=backoff,
                peers=[rpc_pb2.PeerInfo(peerID=b"peer", signedPeerRecord=record or None)],
            )
            for topic in prune
        ],
        iwant=[rpc_pb2.ControlIWant(messageIDs=want)] if want else [],
        idontwant=[rpc_pb2.ControlIDontWant(messageIDs=dont)] if dont else [],
        ihave=[rpc_pb2.ControlIHave(topicID=topic, messageIDs=want) for topic in graft if want],
    )
    read = rpc_pb2.ControlMessage()
    for frame in encode_control(ours, 1 << 20):
        read.MergeFrom(rpc_pb2.RPC.FromString(body_of(frame)).control)
    assert read == theirs
    found = decode_rpc(rpc_pb2.RPC(control=theirs).SerializeToString()).control
    assert found is not None
    fields = [name for name in dir(Control) if name[0] != "_" and not callable(getattr(Control, name))]
    assert len(fields) == 5
    for name in fields:
        assert list(getattr(found, name)) == list(getattr(ours, name)), name
