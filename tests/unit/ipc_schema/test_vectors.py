"""Replays `ipc_schema/vectors/frames.json`, which stands by itself: nothing here knows how it was made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ipc_schema
from ipc_schema import control
from ipc_schema.body import Body, Method
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import (
    MAGIC,
    FrameError,
    Reply,
    Request,
    decode_reply,
    decode_request,
    encode_error,
    encode_reply,
    encode_request,
    is_app_event,
)
from ipc_schema.kernel import events as kernel_events
from ipc_schema.kernel import methods as kernel
from ipc_schema.kernel.events import HeaderError, HealthEvent, PeerEvent, decode_header
from ipc_schema.kernel.records import NodeHealth, PeerRecord
from ipc_schema.mapi import control as mapi_control
from ipc_schema.mapi import events as app_events
from ipc_schema.mapi import methods as mapi
from ipc_schema.mapi.event_codec import AppEventError, decode_app_event, encode_app_event
from ipc_schema.mapi.events import AppEventKind
from ipc_schema.message import WakuMessage
from tests.unit.ipc_schema.vector_json import from_json, to_json

FILE: dict[str, Any] = json.loads(
    (Path(ipc_schema.__file__).parent / "vectors" / "frames.json").read_text(encoding="utf-8")
)
METHODS: dict[str, dict[str, Method]] = {
    "kernel": kernel.METHODS,
    "mapi": mapi.METHODS,
    "control": control.METHODS,
    "mapi control": mapi_control.METHODS,
}


def pick(kind: str, *, good: bool) -> list[Any]:
    found = [vector for vector in FILE["vectors"] if vector["kind"] == kind and ("meaning" in vector) is good]
    assert found
    return [pytest.param(vector, id=vector["name"]) for vector in found]


def frames_of(vector: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(frame) for frame in vector["frames"]]


def body_type(vector: dict[str, Any], side: str) -> type[Body]:
    method = METHODS[vector["server"]][vector["method"]]
    return method.request if side == "request" else method.reply


def test_names_are_unique() -> None:
    names = [(vector["kind"], vector["name"]) for vector in FILE["vectors"]]
    assert len(names) == len(set(names))


def test_all_methods_events_and_errors_are_there() -> None:
    good = [vector for vector in FILE["vectors"] if "meaning" in vector]
    for server, table in METHODS.items():
        assert set(table) == {
            vector["method"] for vector in good if vector["kind"] == "request" and vector["server"] == server
        }
    assert {vector["meaning"]["event"] for vector in good if vector["kind"] == "kernel_event"} == {
        "heartbeat",
        "message",
        "health",
        "peer",
        "unknown",
    }
    kinds = {vector["meaning"]["event"] for vector in good if vector["kind"] == "app_event"}
    assert kinds == {kind.name.lower() for kind in AppEventKind} | {"unknown"}
    assert {vector["code"] for vector in good if "code" in vector} == set(ErrorCode)


# --- requests and replies ---------------------------------------------------------------------------------


def request_meaning(request: Request, delimited: bool) -> dict[str, Any]:
    return {"delimited": delimited, **request._asdict()}


@pytest.mark.parametrize("vector", pick("request", good=True))
def test_good_requests(vector: dict[str, Any]) -> None:
    frames, meaning = frames_of(vector), from_json(vector["meaning"])
    request, delimited = decode_request(frames)
    assert to_json(request_meaning(request, delimited)) == vector["meaning"]
    body_type(vector, "request").from_body(request.body)
    if vector["exact"]:
        again = encode_request(
            meaning["correlation_id"],
            meaning["method"],
            meaning["body"],
            meaning["blobs"],
            budget_ms=meaning["budget_ms"],
            flags=meaning["flags"],
        )
        assert ([b""] if meaning["delimited"] else []) + again == frames


@pytest.mark.parametrize("vector", pick("request", good=False))
def test_bad_requests(vector: dict[str, Any]) -> None:
    if vector["stage"] == "frames":
        with pytest.raises(FrameError) as refused:
            decode_request(frames_of(vector))
        assert refused.value.correlation_id == from_json(vector["answer_id"])
        assert refused.value.delimited is vector["delimited"]
        assert refused.value.code == vector["error"]
    else:
        request, _ = decode_request(frames_of(vector))
        assert request.method == vector["method"]
        with pytest.raises(IpcError) as caught:
            body_type(vector, "request").from_body(request.body)
        assert caught.value.code == vector["error"]


@pytest.mark.parametrize("vector", pick("reply", good=True))
def test_good_replies(vector: dict[str, Any]) -> None:
    frames, meaning = frames_of(vector), from_json(vector["meaning"])
    assert not is_app_event(frames[1])
    reply = decode_reply(frames)
    assert to_json(reply._asdict()) == vector["meaning"]
    assert reply == Reply(**meaning)
    head = (meaning["correlation_id"], meaning["instance"])
    if "code" in vector:
        assert reply.error is not None
        assert (reply.error.code, reply.error.retriable) == (vector["code"], vector["retriable"])
        if meaning["body"]["code"] == vector["code"]:
            assert encode_error(*head, reply.error) == frames
    else:
        body = body_type(vector, "reply").from_body(reply.body)
        assert encode_reply(*head, body.to_body(), meaning["blobs"]) == frames
        assert encode_reply(*head, meaning["body"], meaning["blobs"]) == frames


@pytest.mark.parametrize("vector", pick("reply", good=False))
def test_bad_replies(vector: dict[str, Any]) -> None:
    with pytest.raises(FrameError) as refused:
        decode_reply(frames_of(vector))
    assert refused.value.code == vector["error"]


# --- events -----------------------------------------------------------------------------------------------

KERNEL_NAMES = {
    kernel_events.Heartbeat: "heartbeat",
    kernel_events.MessageEvent: "message",
    kernel_events.HealthEvent: "health",
    kernel_events.PeerEvent: "peer",
    kernel_events.UnknownEvent: "unknown",
}


def encode_kernel_event(meaning: dict[str, Any]) -> bytes:
    common = (meaning["instance"], meaning["epoch"], meaning["seq"], meaning["time_ns"])
    match meaning["event"]:
        case "heartbeat":
            return kernel_events.encode_heartbeat(*common, meaning["covered"])
        case "message":
            names = ("content_topic", "version", "timestamp", "meta", "proof", "ephemeral")
            message = WakuMessage(meaning["payload"], *(meaning[name] for name in names))
            return kernel_events.encode_message_header(
                *common, message, meaning["message_hash"], meaning["source"]
            )
        case "health":
            return kernel_events.encode_health(*common, NodeHealth.from_body(meaning["health"]))
        case "peer":
            peer = PeerRecord.from_body(meaning["peer"])
            return kernel_events.encode_peer(*common, meaning["change"], peer)
        case other:
            raise AssertionError(other)


@pytest.mark.parametrize("vector", pick("kernel_event", good=True))
def test_good_kernel_events(vector: dict[str, Any]) -> None:
    topic, header, payload = frames_of(vector)
    event = decode_header(header)
    fields: dict[str, object] = event._asdict()
    if isinstance(event, HealthEvent):
        fields["health"] = event.health.to_body()
    elif isinstance(event, PeerEvent):
        fields["peer"] = event.peer.to_body()
    named = {"event": KERNEL_NAMES[type(event)], "topic": topic, "payload": payload, **fields}
    assert to_json(named) == vector["meaning"]
    if vector["exact"]:
        assert encode_kernel_event(from_json(vector["meaning"])) == header


@pytest.mark.parametrize("vector", pick("kernel_event", good=False))
def test_bad_kernel_events(vector: dict[str, Any]) -> None:
    with pytest.raises(HeaderError) as refused:
        decode_header(frames_of(vector)[1])
    assert refused.value.code == vector["error"]


def app_event_name(event: app_events.AppEvent) -> str:
    """`message_received` for MessageReceived; the two that carry App in their class name lose it."""
    name = type(event).__name__.replace("App", "").replace("UnknownEvent", "Unknown")
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("_")


@pytest.mark.parametrize("vector", pick("app_event", good=True))
def test_good_app_events(vector: dict[str, Any]) -> None:
    magic, header, payload = frames_of(vector)
    assert magic == MAGIC
    assert is_app_event(header)
    event = decode_app_event(header)
    named = {"event": app_event_name(event), **event._asdict(), "payload": payload}
    assert to_json(named) == vector["meaning"]
    if vector["exact"]:
        meaning = from_json(vector["meaning"])
        kind = AppEventKind[meaning.pop("event").upper()]
        stream_id, seq, time_ns = (meaning.pop(name) for name in ("stream_id", "seq", "time_ns"))
        del meaning["payload"]
        assert encode_app_event(stream_id, seq, kind, time_ns, *meaning.values()) == header


@pytest.mark.parametrize("vector", pick("app_event", good=False))
def test_bad_app_events(vector: dict[str, Any]) -> None:
    with pytest.raises(AppEventError) as refused:
        decode_app_event(frames_of(vector)[1])
    assert refused.value.code == vector["error"]
