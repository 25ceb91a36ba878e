"""Events as an app sees them: kinds that stay, readable reprs, JSON."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from ipc_schema.kernel.records import NodeHealth
from ipc_schema.mapi.events import AppEventKind
from ipc_schema.mapi.methods import PendingSend
from logos_client import (
    ConnectionStatusChange,
    Event,
    HealthEvent,
    KernelEvent,
    KernelMessage,
    LinkRestored,
    MessageReceived,
    MessageSent,
    Position,
    StreamLoss,
)
from logos_client.events import StreamEvent, event_classes

ID = bytes(range(16))
HASH = bytes(32)


def test_kinds_are_the_contracts_names() -> None:
    local = {"link_lost", "link_restored"}
    kinds = [shown.kind for shown in get_args(Event)]
    assert len(set(kinds)) == len(kinds)
    assert set(kinds) - local == {kind.name.lower() for kind in AppEventKind} - {"heartbeat"}
    assert {shown.kind for shown in get_args(KernelEvent)} == {
        "message",
        "health",
        "peer",
        "peers_snapshot",
        "stream_loss",
        "kernel_lost",
        "kernel_found",
    }


def test_ids_print_as_hex_and_content_as_it_is() -> None:
    event = MessageReceived(ID, 3, 4, "/a/1/b/c", b"hello", HASH, 5, b"m", False, 0)
    assert repr(event) == (
        f"MessageReceived(stream_id={ID.hex()}, seq=3, time_ns=4, content_topic='/a/1/b/c', "
        f"payload=b'hello', message_hash={HASH.hex()}, timestamp=5, meta=b'm', ephemeral=False, version=0, "
        "source='live')"
    )
    assert repr(Position(ID, 3)) == f"Position(stream_id={ID.hex()}, seq=3)"
    assert repr(LinkRestored(True, None, 3, {})) == (
        "LinkRestored(resumed=True, lost_stream=None, last_seq=3, subscription_errors={})"
    )
    assert f"request_id={ID.hex()}, " in repr(
        PendingSend(request_id=ID, content_topic="/a", state="parked", accepted_ns=0, attempts=0)
    )
    message = KernelMessage("m/1/0", ID, bytes(8), 1, 2, "/a", b"hello", HASH, 3, b"", False, 0, b"\1", 0)
    assert f"instance={ID.hex()}, " in repr(message)
    assert "proof=01" in repr(message)


def test_each_is_a_value_for_json() -> None:
    sent = MessageSent(ID, 3, 4, ID, HASH)
    assert json.loads(json.dumps(sent.to_dict())) == {
        "event": "message_sent",
        "stream_id": ID.hex(),
        "seq": 3,
        "time_ns": 4,
        "request_id": ID.hex(),
        "message_hash": HASH.hex(),
    }
    health = HealthEvent(ID, bytes(8), 1, 2, NodeHealth(state="READY"))
    assert json.loads(json.dumps(health.to_dict()))["health"]["state"] == "READY"
    assert StreamLoss("p", 1, None, "why").to_dict()["last"] is None


def test_they_are_still_tuples_of_their_own_class() -> None:
    sent = MessageSent(ID, 3, 4, ID, HASH)
    assert sent == (ID, 3, 4, ID, HASH)
    assert type(sent._replace(seq=4)) is MessageSent
    match sent:
        case MessageSent(request_id=request_id):
            assert request_id == ID
    assert not hasattr(sent, "__dict__")


def test_classes_are_named_by_one_or_a_union() -> None:
    assert event_classes(MessageSent) == (MessageSent,)
    assert set(event_classes(Event)) == set(get_args(Event))
    assert ConnectionStatusChange in event_classes(StreamEvent)
    assert event_classes(MessageSent | MessageReceived) == (MessageSent, MessageReceived)
    for wrong in ("MessageSent", int, MessageSent | int, None, sent_instance()):
        with pytest.raises(TypeError, match=r"not a class of events; there are .*MessageSent.*Event for all"):
            event_classes(wrong)


def sent_instance() -> MessageSent:
    return MessageSent(ID, 3, 4, ID, HASH)
