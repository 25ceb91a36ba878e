"""Google's protobuf as a second opinion on our codecs: message classes made from the specifications' schemas.

`SCHEMAS` has one line for each field, after nwaku (WakuMessageAndTopic) and 12/WAKU2-FILTER,
13/WAKU2-STORE, 14/WAKU2-MESSAGE, 19/WAKU2-LIGHTPUSH, 34/WAKU2-PEER-EXCHANGE and 66/WAKU2-METADATA.
`rpc_pb2` is what py-libp2p ships, made from the pubsub schema.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import kernel_proc.p2p._libp2p  # noqa: F401 - lets single modules of the library be imported

rpc_pb2: Any = import_module("libp2p.pubsub.pb.rpc_pb2")

SCHEMAS = """
message WakuMessageAndTopic
  string pubsub_topic 1
  WakuMessage message 2

message WakuMessage
  bytes payload 1
  string content_topic 2
  uint32 version 3
  sint64 timestamp 10
  bytes meta 11
  bytes rate_limit_proof 21
  bool ephemeral 31

message StoreQueryRequest
  string request_id 1
  bool include_data 2
  string pubsub_topic 10
  repeated string content_topics 11
  sint64 time_start 12
  sint64 time_end 13
  repeated bytes message_hashes 20
  bytes pagination_cursor 51
  bool pagination_forward 52
  uint64 pagination_limit 53

message WakuMessageKeyValue
  bytes message_hash 1
  WakuMessage message 2
  string pubsub_topic 3

message StoreQueryResponse
  string request_id 1
  uint32 status_code 10
  string status_desc 11
  repeated WakuMessageKeyValue messages 20
  bytes pagination_cursor 51

message FilterSubscribeRequest
  string request_id 1
  uint32 filter_subscribe_type 2
  string pubsub_topic 10
  repeated string content_topics 11

message FilterSubscribeResponse
  string request_id 1
  uint32 status_code 10
  string status_desc 11

message MessagePush
  WakuMessage waku_message 1
  string pubsub_topic 2

message LightpushRequest
  string request_id 1
  string pubsub_topic 20
  WakuMessage message 21

message LightpushResponse
  string request_id 1
  uint32 status_code 10
  string status_desc 11
  uint32 relay_peer_count 12

message PushRequest
  string pubsub_topic 1
  WakuMessage message 2

message PushResponse
  bool is_success 1
  string info 2

message PushRpc
  string request_id 1
  PushRequest request 2
  PushResponse response 3

message PeerInfo
  bytes enr 1

message PeerExchangeQuery
  uint64 num_peers 1

message PeerExchangeResponse
  repeated PeerInfo peer_infos 1
  uint32 status_code 10
  string status_desc 11

message PeerExchangeRpc
  PeerExchangeQuery query 1
  PeerExchangeResponse response 2

message WakuMetadata
  uint32 cluster_id 1
  repeated uint32 shards 3
"""

_FIELD = descriptor_pb2.FieldDescriptorProto


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    """All messages, as proto2: every field may be absent, and says whether it was."""
    file = descriptor_pb2.FileDescriptorProto(name="reference.proto", package="reference", syntax="proto2")
    for block in SCHEMAS.strip().split("\n\n"):
        head, *lines = block.splitlines()
        message = file.message_type.add(name=head.split()[1])
        for line in lines:
            *label, kind, name, number = line.split()
            field = message.field.add(name=name, number=int(number))
            field.label = _FIELD.LABEL_REPEATED if label else _FIELD.LABEL_OPTIONAL
            scalar = getattr(_FIELD, f"TYPE_{kind.upper()}", None)
            if scalar is None:
                field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".reference.{kind}"
            else:
                field.type = scalar
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def message(name: str, **fields: object) -> Any:
    """A message of that name; fields that are None stay absent."""
    made = message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"reference.{name}"))
    return made(**{key: value for key, value in fields.items() if value is not None})


def parsed(name: str, data: bytes) -> Any:
    """What Google's reader makes of `data`; raises its DecodeError."""
    found = message(name)
    found.ParseFromString(data)
    return found
