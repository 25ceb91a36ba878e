"""Writes `ipc_schema/vectors/frames.json`. Run by hand after a change of the contract:

    python -m tests.unit.ipc_schema.make_vectors

The committed file is the truth: look at its diff. `test_vectors.py` replays it without this script.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack

import ipc_schema
from ipc_schema import PROTOCOL_VERSION, control
from ipc_schema.body import Body
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import MAGIC, NO_CORRELATION, NO_REPLY, encode_error, encode_reply, encode_request
from ipc_schema.hello import HelloRequest, NetworkInfo
from ipc_schema.kernel import events as kernel_events
from ipc_schema.kernel import methods as kernel
from ipc_schema.kernel import store as kernel_store
from ipc_schema.kernel.discovery import (
    BootnodesReply,
    BootnodesRequest,
    DiscoveryRunning,
    DiscoveryStatus,
    Discv5Record,
    EnrRecord,
    FindNodeReply,
    FindNodeRequest,
    KnownPeersReply,
    KnownPeersRequest,
    KnownRecord,
    ListRecord,
    ListReply,
    ListRequest,
)
from ipc_schema.kernel.filter import (
    FilterPeer,
    FilterPingReply,
    FilterPingRequest,
    FilterSubscriber,
    FilterSubscribeReply,
    FilterSubscribeRequest,
    FilterSubscribersReply,
    FilterUnsubscribeReply,
    FilterUnsubscribeRequest,
)
from ipc_schema.kernel.lightpush import LightpushPublishReply, LightpushPublishRequest
from ipc_schema.kernel.peer_exchange import PeerExchangeReply, PeerExchangeRequest
from ipc_schema.kernel.records import EventLoopHealth, NodeHealth, PeerRecord, ProtocolHealth, ShardHealth
from ipc_schema.kernel.relay import (
    RelayPeersReply,
    RelayPeersRequest,
    RelayPublishManyReply,
    RelayPublishManyRequest,
    RelayPublishReply,
    RelayPublishRequest,
)
from ipc_schema.kernel.store import StoreQueryReply, StoreQueryRequest
from ipc_schema.kernel.store_admin import (
    StoreGapRecord,
    StoreImportReply,
    StoreRefusal,
    StoreResumeRecord,
    StoreSessionRecord,
    StoreStatusReply,
    StoreSyncRecord,
    StoreSyncRequest,
    StoreTopicRecord,
    StoreVerifyReply,
    StoreVerifyRequest,
)
from ipc_schema.mapi import channels, event_codec
from ipc_schema.mapi import control as mapi_control
from ipc_schema.mapi import methods as mapi
from ipc_schema.mapi.event_codec import encode_app_event
from ipc_schema.mapi.events import AppEventKind
from ipc_schema.mapi.send_many import SendManyReply, SendManyRequest
from ipc_schema.message import WakuMessage, message_hash
from ipc_schema.node_info import NodeInfoReply, NodeInfoRequest
from ipc_schema.streams import StreamState
from ipc_schema.topics import shard_topic
from tests.unit.ipc_schema.vector_json import to_json

PATH = Path(ipc_schema.__file__).parent / "vectors" / "frames.json"

ABOUT = [
    "Frames of the IPC contract with their meaning: part of SPEC.md, for clients in any language.",
    "A vector has name, kind, frames (hex, one string each), and meaning (good) or error (bad).",
    "kind request and reply: all frames, an empty delimiter included. kernel_event: F0, F1, F2.",
    "app_event: LD1, header, payload.",
    'In a meaning, {"$bin": "<hex>"} is MessagePack bin, {"$int": "<decimal>"} an integer beyond 2^53 - 1',
    "(either sign); the rest is as in JSON: text is str, null is nil. Map keys stand in the encoded order.",
    "exact true: encoding the meaning, in shortest forms, with floats as float64, gives these very bytes.",
    "exact false: only decoding does. server and method say whose body it is.",
    "A bad request has stage frames (it is no request: answer_id is the correlation id to answer under),",
    "or stage body (a request whose body the method refuses).",
]

ID = bytes(range(0x10, 0x20))
INSTANCE = bytes(range(0x20, 0x30))
EPOCH = bytes(range(0x30, 0x38))
STREAM = bytes(range(0x40, 0x50))
REQUEST = bytes(range(0x50, 0x60))
NOW = 1_735_689_600_123_456_789
TOPIC = "/toy-chat/2/huilong/proto"
MESSAGE = WakuMessage(b"hello", TOPIC, 0, NOW, b"\x01\x02", b"", False)
HASH = message_hash(shard_topic(1, 3), MESSAGE)
PEER = "16Uiu2HAm4v86W3bmT1BiH6oSPzcsSr24iDQpSN5Qa992BCjjwgrD"
ENR = (
    "enr:-IS4QHCYrYZbAKWCBRlAy5zzaDZXJBGkcnh4MHcBFZntXNFrdvJjX04jRzjzCBOonrkTfj499SZuOh8R33Ls8RRcy5wBgmlkgnY0gmlw"
    "hH8AAAGJc2VjcDI1NmsxoQPKY0yuDUmstAHYpMa2_oxVtw0RW_QAdpzBQA8yWM0xOIN1ZHCCdl8"
)
TREE = "enrtree://AKPYQIUQIL7PSIACI32J7FGZW56E5FKHEFCCOFHILBIMW3M6LWXS2@nodes.example.org"
PUBSUB = shard_topic(1, 3)

Vector = dict[str, Any]
vectors: list[Vector] = []


def add(name: str, kind: str, frames: list[bytes], **rest: Any) -> None:
    vectors.append({"name": name, "kind": kind, "frames": [frame.hex() for frame in frames], **rest})


# --- requests ---------------------------------------------------------------------------------------------


def request(
    server: str,
    method: str,
    body: Body | dict[str, object],
    blobs: list[bytes] | None = None,
    *,
    budget_ms: int = 10_000,
    flags: int = 0,
    name: str = "",
    delimited: bool = False,
) -> None:
    plain = body.to_body() if isinstance(body, Body) else body
    frames = encode_request(ID, method, plain, blobs or [], budget_ms=budget_ms, flags=flags)
    if delimited:
        frames = [b"", *frames]
    meaning = {
        "delimited": delimited,
        "correlation_id": ID,
        "method": method,
        "budget_ms": budget_ms,
        "flags": flags,
        "body": plain,
        "blobs": blobs or [],
    }
    title = f"{server} {method} request" + (f": {name}" if name else "")
    add(title, "request", frames, server=server, method=method, exact=True, meaning=to_json(meaning))


def good_requests() -> None:
    request("kernel", "hello", HelloRequest(kind="mapi", name="mapi-1", protocol=(1, 1)))
    request(
        "kernel",
        "hello",
        {"kind": "tool", "protocol": [1, 3], "later": {"a": [1]}},
        name="as little as possible",
    )
    request("kernel", "lease.acquire", kernel.LeaseAcquireRequest(shards=(0, 3, 65535)))
    request("kernel", "lease.release", kernel.LeaseReleaseRequest(shards=(3,)))
    request("kernel", "stream.replay", kernel.StreamReplayRequest(stream="m/1/3", epoch=EPOCH, after=41))
    publish = RelayPublishRequest(content_topic=TOPIC, shard=3, timestamp=NOW, meta=b"\x01\x02", force=True)
    request("kernel", "relay.publish", publish, [b"hello"])
    request(
        "kernel", "relay.publish", {"content_topic": TOPIC, "meta": None}, [b"hello"], name="nil is absent"
    )
    first = (TOPIC, 3, NOW, b"\x01\x02", 0, False, b"", False)
    many = RelayPublishManyRequest(
        messages=(first, ("/café/1/x/proto", 65535, 0, b"", 1, True, b"\x03", True))
    )
    request("kernel", "relay.publish_many", many, [b"hello", b"again"])
    later = {"messages": [[*first, "later"]], "later": 1}
    request("kernel", "relay.publish_many", later, [b"hello"], name="with elements of a later version")
    request("kernel", "relay.mesh", RelayPeersRequest(pubsub_topic=PUBSUB))
    request("kernel", "relay.peers", RelayPeersRequest())
    address = f"/ip4/127.0.0.1/tcp/60000/p2p/{PEER}"
    push = LightpushPublishRequest(content_topic=TOPIC, timestamp=NOW, peer=address)
    request("kernel", "lightpush.publish", push, [b"hello"])
    window = StoreQueryRequest(
        pubsub_topic=PUBSUB,
        content_topics=(TOPIC,),
        time_start=NOW - 10**9,
        time_end=NOW,
        cursor=HASH,
        forward=False,
        limit=100,
        include_data=True,
        max_messages=2000,
        peer=PEER,
    )
    request("kernel", "store.query", window, name="a window, backward, followed")
    request("kernel", "store.query", {"hashes": [HASH, bytes(32)]}, name="presence")
    request("kernel", "store.status", {})
    request("kernel", "store.sync", StoreSyncRequest(peer=address))
    request("kernel", "store.verify", StoreVerifyRequest(pubsub_topic=PUBSUB, cursor=HASH, limit=1000))
    request("kernel", "store.import", {}, kernel_store.store_blobs([(PUBSUB, MESSAGE)]))
    subscribe = FilterSubscribeRequest(content_topics=(TOPIC,), shard=3, exclude=(PEER,))
    request("kernel", "filter.subscribe", subscribe)
    request("kernel", "filter.unsubscribe", FilterUnsubscribeRequest(pubsub_topic=PUBSUB, peer=PEER))
    request("kernel", "filter.unsubscribe", {}, name="everything, everywhere")
    request("kernel", "filter.ping", FilterPingRequest(peer=PEER))
    request("kernel", "filter.subscribers", {})
    request("kernel", "peer_exchange.request", PeerExchangeRequest(count=60, peer=address))
    request("kernel", "peers.connect", kernel.PeersConnectRequest(addresses=(address,)))
    request("kernel", "peers.disconnect", kernel.PeersDisconnectRequest(peer_id=PEER))
    request("kernel", "peers.known", KnownPeersRequest(limit=500))
    request("kernel", "discovery.bootnodes", BootnodesRequest(enrs=(ENR,), add=True))
    listing = ListRequest(url=TREE, name_server="127.0.0.1:5353", use=False)
    request("kernel", "discovery.list", listing)
    request("kernel", "discovery.find_node", FindNodeRequest(enr=ENR, distances=(0, 256)))
    for method in ("discovery.status", "discovery.start", "discovery.stop"):
        request("kernel", method, {})
    for method in ("peers.list", "node.health", "node.config", "node.metrics"):
        request("kernel", method, {})
    request("kernel", "node.info", NodeInfoRequest(ids=("Version", "MyPeerId")))
    request("mapi", "hello", HelloRequest(kind="app", name="chat.alice", takeover=True, credit=1 << 20))
    request("mapi", "subscribe", mapi.SubscribeRequest(topics=(TOPIC, "/café/1/x/proto")), budget_ms=0)
    past = mapi.SubscribeRequest(topics=(TOPIC,), since_last=True, history_ms=3_600_000)
    request("mapi", "subscribe", past, name="with history")
    request("mapi", "unsubscribe", mapi.UnsubscribeRequest(topics=(TOPIC,)))
    request("mapi", "pending", mapi.PendingRequest())
    request("mapi", "pending", mapi.PendingRequest(name="alice"), name="pending of another named app")
    request("mapi", "find_send", mapi.FindSendRequest(request_id=REQUEST))
    request("mapi", "cancel", mapi.CancelRequest(request_id=REQUEST))
    cancel = mapi.CancelRequest(request_id=REQUEST, name="alice")
    request("mapi", "cancel", cancel, name="cancel for another named app")
    send = mapi.SendRequest(request_id=REQUEST, content_topic=TOPIC)
    request("mapi", "send", send, [bytes(range(256))], budget_ms=3_600_000)
    request("mapi", "send", send, [b"x"], name="from a REQ socket", delimited=True)
    timed = mapi.SendRequest(request_id=REQUEST, content_topic=TOPIC, meta=b"\x01\x02", timestamp=NOW)
    request("mapi", "send", timed, [b"hello"], name="with a timestamp")
    rows = ((REQUEST, TOPIC, b"", False, 0), (bytes(range(16)), TOPIC, b"\x01\x02", True, NOW))
    request("mapi", "send_many", SendManyRequest(sends=rows), [b"hello", b"again"])
    later = {"sends": [[*rows[0], "later"]]}
    request("mapi", "send_many", later, [b"hello"], name="send_many with elements of a later version")
    request("mapi", "ack", mapi.AckRequest(stream=STREAM, seq=2**53), flags=NO_REPLY)
    request("mapi", "credit", mapi.CreditRequest(total=2**40), flags=NO_REPLY)
    for method in ("subscriptions", "status", "ping", "goodbye"):
        request("mapi", method, {})
    request("mapi", "node.info", mapi.NodeInfoRequest())
    channel_requests()
    request("mapi", "forget", mapi.ForgetRequest(name="chat.alice"))
    request("control", "health", {})
    request("control", "shutdown", {})
    request("control", "metrics", {})
    request("mapi control", "apps", {})
    request("mapi control", "sends", {})
    request("control", "log_level", control.LogLevelRequest(level="debug", logger="kernel_proc.relay"))

    plain = {"delimited": False, "correlation_id": ID, "method": "ping", "body": {}, "blobs": []}
    tail = msgpack.packb([ID, "ping", 0, 0, "later", {"a": 1}])
    meaning = to_json(plain | {"budget_ms": 0, "flags": 0})
    common = {"server": "mapi", "method": "ping", "exact": False}
    add("tail elements of a header are ignored", "request", [MAGIC, tail, b"\x80"], **common, meaning=meaning)
    flags = msgpack.packb([ID, "ping", 0, 0xF0])
    meaning = to_json(plain | {"budget_ms": 0, "flags": 0xF0})
    add("unknown flags are ignored", "request", [MAGIC, flags, b"\x80"], **common, meaning=meaning)
    long = b"\xdc\x00\x04\xc5\x00\x10" + ID + b"\xd9\x04ping\xcd\x00\x05\xd2\x00\x00\x00\x00"
    meaning = to_json(plain | {"budget_ms": 5, "flags": 0})
    longer = [MAGIC, long, b"\xde\x00\x00"]
    add("longer forms than needed are read", "request", longer, **common, meaning=meaning)


def bad_frames(
    name: str, frames: list[bytes], answer_id: bytes = NO_CORRELATION, *, delimited: bool = False
) -> None:
    rest = {
        "stage": "frames",
        "error": "bad_request",
        "answer_id": to_json(answer_id),
        "delimited": delimited,
    }
    add(name, "request", frames, **rest)


def bad_requests() -> None:
    header: bytes = msgpack.packb([ID, "ping", 0, 0])
    bad_frames("another magic", [b"LD2", header, b"\x80"])
    bad_frames("only a delimiter", [b""], delimited=True)
    bad_frames("no header", [MAGIC])
    bad_frames("no body", [MAGIC, header], ID)
    bad_frames("no body behind a delimiter", [b"", MAGIC, header], ID, delimited=True)
    bad_frames("header is empty", [MAGIC, b"", b"\x80"])
    bad_frames("header is a map", [MAGIC, msgpack.packb({"id": ID}), b"\x80"])
    bad_frames("header is cut off", [MAGIC, header[:-1], b"\x80"])
    bad_frames("bytes behind the header", [MAGIC, header + b"\x00", b"\x80"])
    bad_frames("header too short", [MAGIC, msgpack.packb([ID, "ping", 0]), b"\x80"], ID)
    bad_frames("correlation id of 15 bytes", [MAGIC, msgpack.packb([ID[1:], "ping", 0, 0]), b"\x80"])
    bad_frames("correlation id is text", [MAGIC, msgpack.packb(["0123456789abcdef", "ping", 0, 0]), b"\x80"])
    bad_frames("method is binary", [MAGIC, msgpack.packb([ID, b"ping", 0, 0]), b"\x80"], ID)
    bad_frames("budget is negative", [MAGIC, msgpack.packb([ID, "ping", -1, 0]), b"\x80"], ID)
    bad_frames("budget above an hour", [MAGIC, msgpack.packb([ID, "ping", 3_600_001, 0]), b"\x80"], ID)
    bad_frames("budget is NaN", [MAGIC, msgpack.packb([ID, "ping", float("nan"), 0]), b"\x80"], ID)
    bad_frames("budget is a boolean", [MAGIC, msgpack.packb([ID, "ping", True, 0]), b"\x80"], ID)
    bad_frames("flags are nil", [MAGIC, msgpack.packb([ID, "ping", 0, None]), b"\x80"], ID)
    bad_frames(
        "header above 4 KiB", [MAGIC, msgpack.packb([ID, "ping", 0, 0, bytes(4096)]), b"\x80"], ID_IF_READ
    )
    bad_frames("body is empty", [MAGIC, header, b""], ID)
    bad_frames("body is an array", [MAGIC, header, b"\x90"], ID)
    bad_frames("body is nil", [MAGIC, header, b"\xc0"], ID)
    bad_frames("bytes behind the body", [MAGIC, header, b"\x80\x80"], ID)
    bad_frames("body with a key that is an integer", [MAGIC, header, b"\x81\x01\x02"], ID)
    bad_frames("body with a key that is binary", [MAGIC, header, b"\x81\xc4\x01a\x02"], ID)
    bad_frames(
        "body with a key that is binary further in", [MAGIC, header, b"\x81\xa1a\x91\x81\xc4\x01a\x02"], ID
    )
    bad_frames("body with an extension", [MAGIC, header, b"\x81\xa1a\xd4\x05\x00"], ID)
    bad_frames("body with a timestamp", [MAGIC, header, b"\x81\xa1a\xd6\xff\x00\x00\x00\x00"], ID)
    bad_frames("body with text that is not UTF-8", [MAGIC, header, b"\x81\xa1a\xa1\xff"], ID)
    bad_frames("body nested 17 deep", [MAGIC, header, b"\x81\xa1a" + b"\x91" * 15 + b"\x90"], ID)
    bad_frames(
        "body with an array that claims 2^32 - 1 elements",
        [MAGIC, header, b"\x81\xa1a\xdd\xff\xff\xff\xff"],
        ID,
    )
    bad_frames("65 blobs", [MAGIC, header, b"\x80", *[b""] * 65], ID)

    def bad_body(server: str, method: str, name: str, body: dict[str, object]) -> None:
        frames = encode_request(ID, method, body)
        rest = {"server": server, "method": method, "stage": "body", "error": "bad_request"}
        add(f"{server} {method}: {name}", "request", frames, **rest)

    bad_body("kernel", "hello", "no kind", {"protocol": [1, 1]})
    bad_body("kernel", "hello", "no protocol", {"kind": "tool"})
    bad_body("kernel", "hello", "protocol is no range", {"kind": "tool", "protocol": [1]})
    bad_body("kernel", "lease.acquire", "no shards", {})
    bad_body("kernel", "lease.acquire", "shard above 65535", {"shards": [1, 65536]})
    bad_body(
        "kernel", "stream.replay", "epoch of 16 bytes", {"stream": "m/1/3", "epoch": INSTANCE, "after": 0}
    )
    bad_body("kernel", "stream.replay", "after is negative", {"stream": "m/1/3", "epoch": EPOCH, "after": -1})
    bad_body("kernel", "relay.publish", "meta of 65 bytes", {"content_topic": TOPIC, "meta": bytes(65)})
    bad_body(
        "kernel", "relay.publish", "timestamp above 2^63 - 1", {"content_topic": TOPIC, "timestamp": 2**63}
    )
    bad_body("kernel", "filter.subscribe", "an empty content topic", {"content_topics": [""]})
    bad_body("kernel", "peer_exchange.request", "61 records", {"count": 61})
    bad_body("mapi", "send", "request id of 15 bytes", {"request_id": bytes(15), "content_topic": TOPIC})
    zero = {"request_id": REQUEST, "content_topic": TOPIC, "timestamp": 0}
    bad_body("mapi", "send", "timestamp 0", zero)
    bad_body("mapi", "send", "content topic is binary", {"request_id": REQUEST, "content_topic": b"x"})
    bad_body("mapi", "subscribe", "topics is text", {"topics": TOPIC})
    bad_body("mapi", "ack", "seq is a float", {"stream": STREAM, "seq": 1.5})
    bad_body("control", "log_level", "no level", {"level": None})


ID_IF_READ = NO_CORRELATION  # a header above its limit is not opened

# --- replies ----------------------------------------------------------------------------------------------


def reply(server: str, method: str, body: Body, blobs: list[bytes] | None = None) -> None:
    plain = body.to_body()
    meaning = {
        "correlation_id": ID,
        "status": 0,
        "instance": INSTANCE,
        "body": plain,
        "blobs": blobs or [],
    }
    frames = encode_reply(ID, INSTANCE, plain, blobs or [])
    rest = {"server": server, "method": method, "exact": True, "meaning": to_json(meaning)}
    add(f"{server} {method} reply", "reply", frames, **rest)


def good_replies() -> None:
    network = NetworkInfo(cluster=1, shard_count=8, max_message_size=153_600, preset="", rln_required=False)
    stream = StreamState(
        stream="m/1/3",
        shard=3,
        epoch=EPOCH,
        first=17,
        last=42,
        coverage=((NOW - 10**10, NOW - 10**9), (NOW, None)),
    )
    health = node_health()
    limits = {"in_flight": 64, "body_bytes": 1_048_576, "blob_bytes": 169_984}
    common: dict[str, Any] = {"protocol": 1, "instance": INSTANCE, "heartbeat_ms": 1000, "network": network}
    reply(
        "kernel",
        "hello",
        kernel.KernelHello(
            **common,
            server="logos-kernel/0.1.0",
            limits=kernel.KernelLimits(**limits, replay_bytes=1 << 26, max_payload=153_000),
            events="ipc:///run/node/kernel/events",
            consumer="mapi-1",
            streams=(stream,),
        ),
    )
    reply("kernel", "lease.acquire", kernel.LeaseAcquireReply(leases=(stream,), ttl_ms=60_000))
    reply("kernel", "lease.release", kernel.LeaseReleaseReply(released=(3,)))
    replayed = [kernel_events.encode_message_header(INSTANCE, EPOCH, 42, NOW, MESSAGE, HASH, 0), b"hello"]
    reply("kernel", "stream.replay", kernel.StreamReplayReply(events=1, last=42, complete=True), replayed)
    published = RelayPublishReply(message_hash=HASH, timestamp=NOW, pubsub_topic=PUBSUB, peers=4)
    reply("kernel", "relay.publish", published)
    results = (
        ("", "", HASH, NOW, 4, False),
        ("no_peers", "no peer on shard 3", HASH, NOW, 0, True),
        ("too_large", "Message size exceeded maximum of 153600 bytes", b"", 0, 0, False),
    )
    reply("kernel", "relay.publish_many", RelayPublishManyReply(results=results))
    pushed = LightpushPublishReply(
        message_hash=HASH, timestamp=NOW, pubsub_topic=PUBSUB, peer=PEER, relay_peers=4
    )
    reply("kernel", "lightpush.publish", pushed)
    found = StoreQueryReply(peer=PEER, hashes=(HASH,), cursor=HASH)
    reply("kernel", "store.query", found, kernel_store.store_blobs([(PUBSUB, MESSAGE)]))
    for name, state in own_store_replies():
        reply("kernel", name, state)
    held: dict[str, dict[str, tuple[str, ...]]] = {PUBSUB: {PEER: (TOPIC,)}}
    subscribed = FilterSubscribeReply(peer=PEER, pubsub_topic=PUBSUB, held=held)
    reply("kernel", "filter.subscribe", subscribed)
    unsubscribed = FilterUnsubscribeReply(held={}, errors={PEER: "no answer within 5 s"})
    reply("kernel", "filter.unsubscribe", unsubscribed)
    pinged = (FilterPeer(peer=PEER, status=200), FilterPeer(peer="p", error="not connected"))
    reply("kernel", "filter.ping", FilterPingReply(peers=pinged, held=held))
    subscriber = FilterSubscriber(peer=PEER, criteria=((shard_topic(1, 3), TOPIC),))
    reply("kernel", "filter.subscribers", FilterSubscribersReply(subscribers=(subscriber,), total=1))
    reply("kernel", "peer_exchange.request", PeerExchangeReply(peer=PEER, enrs=(b"\xc0", b"\xc1\x80")))
    reply("kernel", "relay.mesh", RelayPeersReply(topics={PUBSUB: (PEER,)}))
    connected = kernel.ConnectResult(address="/ip4/127.0.0.1/tcp/1", error="connection refused")
    reply("kernel", "peers.connect", kernel.PeersConnectReply(results=(connected,)))
    reply("kernel", "peers.disconnect", kernel.PeersDisconnectReply(disconnected=True))
    reply("kernel", "peers.list", kernel.PeersListReply(peers=(peer_record(),), total=1))
    known = KnownRecord(
        peer_id=PEER,
        addresses=(f"/ip4/127.0.0.1/tcp/60000/p2p/{PEER}",),
        origin="discv5",
        connected=True,
        protocols=("/vac/waku/relay/2.0.0",),
        cluster=2,
        shards=(3,),
        last_success_ms=NOW // 10**6,
        failures=1,
        retry_ms=5000,
        enr=ENR,
        why="connection refused",
    )
    reply("kernel", "peers.known", KnownPeersReply(total=1, peers=(known,)))
    reply("kernel", "discovery.start", DiscoveryRunning(running=True, changed=True))
    reply("kernel", "discovery.stop", DiscoveryRunning(running=False, changed=False))
    reply("kernel", "discovery.bootnodes", BootnodesReply(boot_nodes=4))
    listed = ListReply(seq=1839, enrs=(ENR,), complete=False, errors=("one entry is missing",))
    reply("kernel", "discovery.list", listed)
    record = EnrRecord(
        enr=ENR,
        seq=7,
        peer_id=PEER,
        addresses=("/ip4/192.0.2.1/tcp/60000",),
        capabilities=("relay", "store"),
        cluster=1,
        shards=(0, 7),
    )
    asked = FindNodeReply(node=record, answered=True, nodes=(record,))
    reply("kernel", "discovery.find_node", asked)
    discovery = DiscoveryStatus(
        online=True,
        short=True,
        known=120,
        due=100,
        enr=ENR,
        addresses=("/ip4/192.0.2.1/tcp/60000",),
        discv5=Discv5Record(
            running=True, port=9000, nodes=40, verified=30, boot_nodes=3, observed="192.0.2.1:9000"
        ),
        lists=(ListRecord(url=TREE, seq=1839, records=12, read_ms=NOW // 10**6),),
        peer_exchange=True,
        short_shards=(3,),
        short_services=("store",),
    )
    reply("kernel", "discovery.status", discovery)
    reply("kernel", "node.health", health)
    info: dict[str, object] = {"Version": "0.1.0", "MyPeerId": PEER}
    reply("kernel", "node.info", NodeInfoReply(info=info))
    option = kernel.OptionRecord(
        name="tcp-port",
        type="integer",
        default=60000,
        value=0,
        origin="flag",
        doc="port",
        detail="--tcp-port",
    )
    reply("kernel", "node.config", kernel.NodeConfigReply(options=(option,)))
    reply("kernel", "node.metrics", kernel.NodeMetricsReply(metrics=(("loop_lag", {"loop": "main"}, 0.25),)))
    status = mapi.StatusReply(
        connection="Connected", reason="4 relay peers", topics={TOPIC: "SUFFICIENTLY_HEALTHY"}
    )
    reply(
        "mapi",
        "hello",
        mapi.MapiHello(
            **common,
            server="logos-mapi/0.1.0",
            limits=mapi.MapiLimits(**limits, topics=1000, max_payload=152_000, send_window_ms=60_000),
            app="chat.alice",
            durable=True,
            stream=mapi.StreamPosition(id=STREAM, acked=5, last=2**53),
            subscriptions=(TOPIC,),
            status=status,
        ),
    )
    errors = {"bad": "invalid format: content-topic 'bad' must start with slash"}
    reply("mapi", "subscribe", mapi.SubscribeReply(errors=errors))
    reply("mapi", "subscriptions", mapi.SubscriptionsReply(topics=(TOPIC,)))
    reply("mapi", "send", mapi.SendReply(request_id=REQUEST, repeated=True))
    ended = mapi.PendingSend(
        request_id=REQUEST,
        content_topic=TOPIC,
        state="unconfirmed",
        accepted_ns=NOW,
        attempts=2,
        message_hash=bytes(range(32)),
        timestamp=NOW,
        cause="not confirmed by a store within the send window",
    )
    reply("mapi", "find_send", mapi.FindSendReply(send=ended))
    outcomes = (("", "", 0, False), ("", "", 0, True), ("busy", "too many sends wait", 200, False))
    reply("mapi", "send_many", SendManyReply(results=outcomes))
    reply("mapi", "ack", mapi.AckReply(acked=7))
    reply("mapi", "status", status)
    channel_replies()
    running = control.ControlHealthReply(
        ready=True, state="READY", version="0.1.0", pid=4711, uptime_ms=90_000
    )
    reply("control", "health", running)
    reply("control", "log_level", control.LogLevelReply(previous="info"))
    samples: tuple[tuple[str, dict[str, str], float], ...] = (
        ("node_messages", {"type": "relay"}, 3.0),
        ("peer_store_size", {}, 2.5),
    )
    families = {"node_messages": ("counter", "New messages."), "peer_store_size": ("gauge", "Known peers.")}
    reply("control", "metrics", control.MetricsReply(samples=samples, families=families))
    app = mapi_control.AppSummary(
        name="alice",
        durable=True,
        connected=False,
        topics=2,
        stream=STREAM,
        acked=7,
        dropped=0,
        last=9,
        backlog_bytes=512,
        away_ms=60_000,
        sends=1,
    )
    reply("mapi control", "apps", mapi_control.AppsReply(apps=(app,), total=1))
    send = mapi_control.SendSummary(
        app="alice",
        request_id=REQUEST,
        content_topic=TOPIC,
        state="retry",
        accepted_ns=NOW,
        attempts=2,
        cause="no peers",
    )
    reply("mapi control", "sends", mapi_control.SendsReply(sends=(send,), total=1, states={"retry": 1}))


def channel_requests() -> None:
    create = channels.ChannelCreateRequest(channel_id="room", content_topic=TOPIC)
    request("mapi", "channel.create", create)
    create = channels.ChannelCreateRequest(
        channel_id="room",
        content_topic=TOPIC,
        sender_id="alice",
        profile="js",
        keys=(bytes(32), bytes(range(32))),
        keep_keys=True,
        parity_ppm=125_000,
    )
    request("mapi", "channel.create", create, name="channel.create with keys")
    for method in ("channel.exists", "channel.status", "channel.close", "channel.forget"):
        request("mapi", method, channels.ChannelRequest(channel_id="room"))
    find = channels.ChannelFindSendRequest(channel_id="room", request_id=REQUEST)
    request("mapi", "channel.find_send", find)
    request("mapi", "channel.list", {})
    send = channels.ChannelSendRequest(channel_id="room", request_id=REQUEST, ephemeral=True)
    request("mapi", "channel.send", send, [b"first", b"second"])
    sealed = channels.SealedSegments(sizes=(5, 6), needed=2, digest=HASH)
    send = channels.ChannelSendRequest(channel_id="room", request_id=REQUEST, sealed=sealed)
    request("mapi", "channel.send", send, [b"firstsecond"], name="channel.send of encrypted segments")
    request("mapi", "channel.split", channels.ChannelRequest(channel_id="room"), [b"payload"])
    opened = channels.ChannelOpenedRequest(channel_id="room", message_id="ab" * 32)
    request("mapi", "channel.opened", opened, [b"segment"])
    failed = channels.ChannelOpenedRequest(channel_id="room", message_id="ab" * 32, error="wrong key")
    request("mapi", "channel.opened", failed, name="channel.opened with an error")


def channel_replies() -> None:
    reply("mapi", "channel.create", channels.ChannelCreateReply(sender_id="alice", existed=True))
    reply("mapi", "channel.exists", channels.ChannelExistsReply(exists=True))
    info = channels.ChannelInfo(
        channel_id="room",
        content_topic=TOPIC,
        sender_id="alice",
        profile="reference",
        encrypted=True,
        open=False,
        locked=True,
        hooks=True,
    )
    reply("mapi", "channel.list", channels.ChannelListReply(channels=(info,)))
    delivered = channels.PendingChannelSend(request_id=REQUEST, sent=True, end="delivered", detail="bob")
    reply("mapi", "channel.find_send", channels.ChannelFindSendReply(send=delivered))
    status = channels.ChannelStatusReply(
        missing=1,
        waiting=2,
        joining=3,
        unacknowledged=4,
        history=5,
        unopened=6,
        sends=(channels.PendingChannelSend(request_id=REQUEST, sent=True),),
    )
    reply("mapi", "channel.status", status)
    reply("mapi", "channel.send", channels.ChannelSendReply(request_id=REQUEST, repeated=True))
    reply("mapi", "channel.split", channels.ChannelSplitReply(sizes=(5, 6), needed=2), [b"firstsecond"])


def error_replies() -> None:
    details: dict[ErrorCode, dict[str, object]] = {
        ErrorCode.UNSUPPORTED_VERSION: {"supported": [1, 1]},
        ErrorCode.TRIMMED: {"first": 17},
        ErrorCode.NO_PEERS: {"message_hash": HASH, "timestamp": NOW},
        ErrorCode.INTERNAL: {"reference": "7f3a"},
    }
    for code in ErrorCode:
        retry = 250 if code is ErrorCode.BUSY else None
        error = IpcError(code, f"an example of {code}", retry_after_ms=retry, detail=details.get(code))
        body = error.to_body()
        meaning = {"correlation_id": ID, "status": 1, "instance": INSTANCE, "body": body, "blobs": []}
        rest = {"exact": True, "meaning": to_json(meaning), "code": str(code), "retriable": code.retriable}
        add(f"error {code}", "reply", encode_error(ID, INSTANCE, error), **rest)
    later = {"code": "from_a_later_version", "retriable": True, "message": "wait"}
    meaning = {"correlation_id": ID, "status": 1, "instance": INSTANCE, "body": later, "blobs": []}
    frames = [MAGIC, msgpack.packb([ID, 1, INSTANCE]), msgpack.packb(later)]
    rest = {"exact": True, "meaning": to_json(meaning), "code": "internal", "retriable": True}
    add("an unknown error code is taken for internal", "reply", frames, **rest)


def bad_replies() -> None:
    def bad(name: str, header: list[object], body: object) -> None:
        add(name, "reply", [MAGIC, msgpack.packb(header), msgpack.packb(body)], error="bad_request")

    bad("status 2", [ID, 2, INSTANCE], {})
    bad("status is a boolean", [ID, False, INSTANCE], {})
    bad("instance of 15 bytes", [ID, 0, INSTANCE[1:]], {})
    bad("no instance", [ID, 0], {})
    bad("error without a code", [ID, 1, INSTANCE], {"retriable": True, "message": "x"})
    bad("error without a message", [ID, 1, INSTANCE], {"code": "busy", "retriable": True})
    bad(
        "error with a detail that is text", [ID, 1, INSTANCE], {"code": "busy", "message": "x", "detail": "x"}
    )
    bad("reply with an array for a body", [ID, 0, INSTANCE], [])


# --- events of the kernel ---------------------------------------------------------------------------------


def node_health() -> NodeHealth:
    return NodeHealth(
        state="READY",
        protocols=(ProtocolHealth(name="relay", state="READY", description="", strength=4),),
        shards=(
            ShardHealth(
                shard=3, pubsub_topic=PUBSUB, mesh_peers=4, connected_peers=5, health="SUFFICIENTLY_HEALTHY"
            ),
        ),
        event_loop=EventLoopHealth(lag_ms=0.5, load_1m=0.25, load_5m=0.125, load_15m=0.0625),
    )


def own_store_replies() -> Iterator[tuple[str, Body]]:
    """Replies about the node's own archive."""
    session = StoreSessionRecord(
        peer=PEER,
        at_ms=NOW // 10**6,
        took_ms=420,
        round_trips=3,
        missing=7,
        received=9,
        to_send=5,
        sent=5,
        complete=False,
    )
    yield (
        "store.status",
        StoreStatusReply(
            state="stalled",
            reason="no space left on device",
            database="sqlite:///data/store.sqlite3",
            peer_id=PEER,
            messages=12,
            bytes=34567,
            waiting=2,
            retention="time:172800",
            topics=(StoreTopicRecord(pubsub_topic=PUBSUB, messages=12, oldest=NOW - 10**12, newest=NOW),),
            sync=StoreSyncRecord(
                ready=True, messages=11, start=NOW - 10**12, end=NOW, peers=2, sessions=40, last=session
            ),
            resume=StoreResumeRecord(
                state="fetching",
                added=3,
                gaps=(StoreGapRecord(pubsub_topic=PUBSUB, start=NOW - 10**12, done=NOW - 10**11),),
                error="",
            ),
        ),
    )
    yield "store.sync", session
    yield "store.verify", StoreVerifyReply(checked=500, bad=(HASH,), cursor=HASH)
    refused = (StoreRefusal(number=4, reason="ephemeral"),)
    yield "store.import", StoreImportReply(stored=30, known=1, refused=refused)


def peer_record() -> PeerRecord:
    return PeerRecord(
        peer_id=PEER,
        address="/ip4/127.0.0.1/tcp/60000",
        direction="outbound",
        connected_ms=1234,
        agent="nwaku",
        protocols=("/vac/waku/relay/2.0.0",),
        cluster=1,
        shards=(3,),
        origin="static",
        score=1.5,
        mesh=(PUBSUB,),
    )


def kernel_event(
    name: str, topic: bytes, header: bytes, payload: bytes, meaning: dict[str, object], *, exact: bool = True
) -> None:
    common = {"topic": topic, "instance": INSTANCE, "epoch": EPOCH}
    rest = {"exact": exact, "meaning": to_json(common | meaning | {"payload": payload})}
    add(name, "kernel_event", [topic, header, payload], **rest)


def good_kernel_events() -> None:
    topic = kernel_events.stream_topic(1, 3)

    def message(
        name: str, item: WakuMessage, source: int, seq: int, tail: list[object] | None = None
    ) -> None:
        digest = message_hash(PUBSUB, item)
        header = kernel_events.encode_message_header(INSTANCE, EPOCH, seq, NOW, item, digest, source)
        if tail:
            header = msgpack.packb([*msgpack.unpackb(header), *tail])
        meaning: dict[str, object] = {
            "event": "message",
            "seq": seq,
            "time_ns": NOW,
            "content_topic": item.content_topic,
            "message_hash": digest,
            "timestamp": item.timestamp,
            "meta": item.meta,
            "ephemeral": item.ephemeral,
            "version": item.version,
            "proof": item.proof,
            "source": source,
        }
        kernel_event(name, topic, header, item.payload, meaning, exact=not tail)

    message("a message", MESSAGE, 0, 1)
    everything = WakuMessage(bytes(range(256)), "/café/1/x/proto", 2**32 - 1, -1, bytes(64), b"proof", True)
    message("a message with everything", everything, 2, 2**53)
    message("a message with nothing", WakuMessage(b"", ""), 1, 1)
    message("a message of a later version", MESSAGE, 0, 3, ["later", {"a": 1}])
    for covered in (True, False):
        header = kernel_events.encode_heartbeat(INSTANCE, EPOCH, 300, NOW, covered)
        meaning = {"event": "heartbeat", "seq": 300, "time_ns": NOW, "covered": covered}
        kernel_event(f"a heartbeat, covered {str(covered).lower()}", topic, header, b"", meaning)
    header = kernel_events.encode_heartbeat(INSTANCE, EPOCH, 0, NOW, True)
    meaning = {"event": "heartbeat", "seq": 0, "time_ns": NOW, "covered": True}
    kernel_event("a heartbeat of a stream without events", kernel_events.PEERS_TOPIC, header, b"", meaning)
    health = node_health()
    header = kernel_events.encode_health(INSTANCE, EPOCH, 5, NOW, health)
    meaning = {"event": "health", "seq": 5, "time_ns": NOW, "health": health.to_body()}
    kernel_event("health", kernel_events.HEALTH_TOPIC, header, b"", meaning)
    for change in ("joined", "left", "changed"):
        header = kernel_events.encode_peer(INSTANCE, EPOCH, 6, NOW, change, peer_record())
        meaning = {
            "event": "peer",
            "seq": 6,
            "time_ns": NOW,
            "change": change,
            "peer": peer_record().to_body(),
        }
        kernel_event(f"a peer {change}", kernel_events.PEERS_TOPIC, header, b"", meaning)
    header = msgpack.packb([1, 200, INSTANCE, EPOCH, 7, NOW, "anything"])
    meaning = {"event": "unknown", "seq": 7, "time_ns": NOW, "kind": 200}
    kernel_event("an unknown kind counts", topic, header, b"", meaning, exact=False)


def bad_kernel_events() -> None:
    good = [1, 1, INSTANCE, EPOCH, 7, NOW, TOPIC, HASH, NOW, b"", False, 0, b"", 0]

    def bad(name: str, header: bytes) -> None:
        add(name, "kernel_event", [kernel_events.stream_topic(1, 3), header, b""], error="bad_request")

    def with_element(name: str, at: int, value: object) -> None:
        bad(name, msgpack.packb([*good[:at], value, *good[at + 1 :]]))

    bad("event header is empty", b"")
    bad("event header is a map", b"\x80")
    bad("event header is cut off", msgpack.packb(good)[:-1])
    bad("bytes behind an event header", msgpack.packb(good) + b"\x00")
    bad("event header of 5 elements", msgpack.packb(good[:5]))
    bad("message without a source", msgpack.packb(good[:13]))
    bad("heartbeat without covered", msgpack.packb([1, 0, *good[2:6]]))
    bad("health that is an array", msgpack.packb([1, 2, *good[2:6], []]))
    bad("peer without a peer id", msgpack.packb([1, 3, *good[2:6], "left", {}]))
    with_element("event version 2", 0, 2)
    with_element("event kind is negative", 1, -1)
    with_element("event instance of 8 bytes", 2, EPOCH)
    with_element("event epoch is an integer", 3, 1)
    with_element("event seq is a float", 4, 7.0)
    with_element("event seq above 2^63 - 1", 4, 2**63)
    with_element("content topic is binary", 6, b"x")
    with_element("message hash of 31 bytes", 7, HASH[1:])
    with_element("meta of 65 bytes", 9, bytes(65))
    with_element("ephemeral is an integer", 10, 0)
    with_element("message version above 2^32 - 1", 11, 2**32)
    with_element("proof is nil", 12, None)


# --- events of an app's stream ----------------------------------------------------------------------------

RECEIVED = {
    "content_topic": TOPIC,
    "message_hash": HASH,
    "timestamp": NOW,
    "meta": b"\x01\x02",
    "ephemeral": False,
    "version": 0,
    "source": "history",
}
APP_EVENTS: list[tuple[AppEventKind, dict[str, object], bytes]] = [
    (AppEventKind.HEARTBEAT, {}, b""),
    (AppEventKind.MESSAGE_RECEIVED, RECEIVED, b"hello"),
    (AppEventKind.MESSAGE_PROPAGATED, {"request_id": REQUEST, "message_hash": HASH}, b""),
    (AppEventKind.MESSAGE_SENT, {"request_id": REQUEST, "message_hash": HASH}, b""),
    (AppEventKind.MESSAGE_ERROR, {"request_id": REQUEST, "message_hash": HASH, "text": "refused"}, b""),
    (
        AppEventKind.MESSAGE_ERROR,
        {"request_id": REQUEST, "message_hash": None, "text": "Unable to send within retry time window"},
        b"",
    ),
    (AppEventKind.CONNECTION_STATUS_CHANGE, {"status": "Connected", "reason": "4 relay peers"}, b""),
    (AppEventKind.CONTENT_TOPIC_HEALTH_CHANGE, {"content_topic": TOPIC, "health": "UNHEALTHY"}, b""),
    (AppEventKind.EVENTS_DROPPED, {"first": 3, "last": 9, "reason": "bytes"}, b""),
    (
        AppEventKind.MESSAGES_MISSED,
        {"content_topics": [TOPIC], "from_ns": NOW - 10**9, "to_ns": NOW, "reason": "kernel restarted"},
        b"",
    ),
    (
        AppEventKind.MESSAGE_UNCONFIRMED,
        {"request_id": REQUEST, "message_hash": HASH, "reason": "no store"},
        b"",
    ),
    (AppEventKind.MESSAGE_CANCELLED, {"request_id": REQUEST}, b""),
    (AppEventKind.TAKEN_OVER, {}, b""),
    (AppEventKind.MESSAGE_QUEUED, {"request_id": REQUEST}, b""),
    (
        AppEventKind.CHANNEL_MESSAGE_RECEIVED,
        {"channel_id": "room", "sender_id": "bob", "message_id": "ab" * 32, "lamport": 1_735_689_600_123},
        b"hello",
    ),
    (AppEventKind.CHANNEL_MESSAGE_SENT, {"channel_id": "room", "request_id": REQUEST}, b""),
    (
        AppEventKind.CHANNEL_MESSAGE_DELIVERED,
        {"channel_id": "room", "request_id": REQUEST, "by": "bob"},
        b"",
    ),
    (
        AppEventKind.CHANNEL_MESSAGE_ERROR,
        {"channel_id": "room", "request_id": REQUEST, "text": "one or more segments failed"},
        b"",
    ),
    (
        AppEventKind.CHANNEL_DELIVERY_ERROR,
        {"channel_id": "room", "request_id": REQUEST, "text": "no participant acknowledged it"},
        b"",
    ),
    (
        AppEventKind.CHANNEL_MESSAGE_LOST,
        {"channel_id": "room", "payload_hash": b"", "message_ids": ["ab" * 32], "reason": "never received"},
        b"",
    ),
    (AppEventKind.CHANNEL_SYNC, {"channel_id": "room", "state": "syncing", "missing": 3}, b""),
    (
        AppEventKind.CHANNEL_SEGMENT_RECEIVED,
        {"channel_id": "room", "sender_id": "bob", "message_id": "ab" * 32},
        b"sealed",
    ),
]


def good_app_events() -> None:
    for kind, fields, payload in APP_EVENTS:
        header = encode_app_event(STREAM, 12, kind, NOW, *fields.values())
        common = {"event": kind.name.lower(), "stream_id": STREAM, "seq": 12, "time_ns": NOW}
        meaning = to_json(common | fields | {"payload": payload})
        name = f"app event {kind.name.lower()}" + (
            " without a hash" if fields.get("message_hash", 0) is None else ""
        )
        add(name, "app_event", event_codec.event_frames(header, payload), exact=True, meaning=meaning)
    header = msgpack.packb([1, STREAM, 12, 77, NOW, "anything"])
    meaning = {"event": "unknown", "stream_id": STREAM, "seq": 12, "time_ns": NOW, "kind": 77, "payload": b""}
    rest = {"exact": False, "meaning": to_json(meaning)}
    add("an unknown app event counts", "app_event", [MAGIC, header, b""], **rest)
    header = msgpack.packb([1, STREAM, 12, 1, NOW, *list(RECEIVED.values())[:6]])
    common = {"event": "message_received", "stream_id": STREAM, "seq": 12, "time_ns": NOW}
    rest = {"exact": False, "meaning": to_json(common | RECEIVED | {"source": "live", "payload": b"hello"})}
    add("a live message_received says nothing of its source", "app_event", [MAGIC, header, b"hello"], **rest)
    header = msgpack.packb([1, STREAM, 12, 10, NOW, REQUEST, "later"])
    common = {"event": "message_cancelled", "stream_id": STREAM, "seq": 12, "time_ns": NOW}
    rest = {"exact": False, "meaning": to_json(common | {"request_id": REQUEST, "payload": b""})}
    add("an app event of a later version", "app_event", [MAGIC, header, b""], **rest)


def bad_app_events() -> None:
    good: list[object] = [1, STREAM, 12, 1, NOW, *RECEIVED.values()]

    def bad(name: str, header: bytes) -> None:
        add(name, "app_event", [MAGIC, header, b""], error="bad_request")

    def with_element(name: str, at: int, value: object) -> None:
        bad(name, msgpack.packb([*good[:at], value, *good[at + 1 :]]))

    bad("app event is cut off", msgpack.packb(good)[:-1])
    bad("app event of 4 elements", msgpack.packb(good[:4]))
    bad("bytes behind an app event", msgpack.packb(good) + b"\xc0")
    bad("message_received without a version", msgpack.packb(good[:-2]))
    bad("events_dropped without a reason", msgpack.packb([1, STREAM, 12, 7, NOW, 3, 9]))
    bad("messages_missed with text for topics", msgpack.packb([1, STREAM, 12, 8, NOW, TOPIC, 1, 2, "x"]))
    with_element("stream id of 15 bytes", 1, STREAM[1:])
    with_element("app event seq is text", 2, "12")
    with_element("app event time above 2^63 - 1", 4, 2**63)
    with_element("app event message hash is nil", 6, None)
    with_element("app event ephemeral is nil", 9, None)


def main() -> None:
    good_requests()
    bad_requests()
    good_replies()
    error_replies()
    bad_replies()
    good_kernel_events()
    bad_kernel_events()
    good_app_events()
    bad_app_events()
    head = {"version": PROTOCOL_VERSION, "about": ABOUT}
    lines = ",\n".join(json.dumps(vector, ensure_ascii=False) for vector in vectors)
    text = json.dumps(head, indent=1, ensure_ascii=False)[:-2] + ',\n "vectors": [\n' + lines + "\n]}\n"
    json.loads(text)
    PATH.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
