"""js-waku's SDS message channel and ours, under profile `js`: both ways, in order, acknowledged, repaired."""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Iterator
from random import Random

import pytest

from mapi_proc.channels.channel import ChannelCore, ChannelSettings
from mapi_proc.channels.events import ChannelOutput, Delivered, Received, Transmit
from mapi_proc.channels.profiles import PROFILES
from mapi_proc.channels.sds.bloom import JS
from mapi_proc.channels.sds.message import decode_sds
from mapi_proc.channels.sds.settings import SdsSettings
from mapi_proc.channels.sds.state import SendKind
from tests.interop.json_lines import JsonLinesProcess
from tests.interop.npm import install_packages
from tests.interop.sdk.light_node import FOLDER

pytestmark = [pytest.mark.interop]


class JsChannel(JsonLinesProcess):
    """`sds_channel.mjs`."""

    def __init__(self, sender: str) -> None:
        node = shutil.which("node")
        assert node is not None
        super().__init__(f"js {sender}", [node, "sds_channel.mjs", "channel", sender], cwd=FOLDER)

    def send(self, content: bytes) -> bytes:
        return base64.b64decode(self.request("send", content=base64.b64encode(content).decode())["wire"])

    def receive(self, wire: bytes) -> None:
        self.request("receive", wire=base64.b64encode(wire).decode())

    def sync(self) -> bytes:
        return base64.b64decode(self.request("sync")["wire"])

    def delivered(self) -> bytes:
        return base64.b64decode(self.wait_event("delivered")["content"])


class Ours:
    """Our channel; time is moved by hand, from the true one on: js refuses nothing, but orders by it."""

    def __init__(self, sender: str) -> None:
        settings = ChannelSettings(profile=PROFILES["js"], sds=SdsSettings(form=JS))
        self.core = ChannelCore("channel", sender, settings, Random(1))
        self.now = 0.0
        self.start = time.time_ns()
        self.events: list[ChannelOutput] = []

    def wall(self) -> int:
        return self.start + int(self.now * 1e9)

    def _take(self) -> list[Transmit]:
        outputs, _ = self.core.take()
        self.events += [output for output in outputs if not isinstance(output, Transmit)]
        return [output for output in outputs if isinstance(output, Transmit)]

    def send(self, payload: bytes, request: bytes = b"r") -> bytes:
        self.core.send(request, payload, False, self.now, self.wall())
        (transmit,) = self._take()
        return transmit.payload or b""

    def receive(self, wire: bytes) -> list[bytes]:
        before = len(self.events)
        self.core.receive(wire, bytes(32), self.now, self.wall())
        self._take()
        return [event.payload for event in self.events[before:] if isinstance(event, Received)]

    def next(self, kind: SendKind) -> bytes:
        """The next message of that kind, however long it takes."""
        while True:
            due = self.core.next_time()
            assert due is not None
            self.now = max(due, self.now)
            self.core.tick(self.now, self.wall())
            for transmit in self._take():
                if transmit.kind is kind:
                    return transmit.payload or b""


@pytest.fixture
def js() -> Iterator[JsChannel]:
    install_packages(FOLDER)
    channel = JsChannel("js-participant")
    yield channel
    channel.close()


def test_a_conversation_in_order(js: JsChannel) -> None:
    ours = Ours("python")
    for turn in range(5):
        js.receive(ours.send(b"ours %d" % turn, b"%d" % turn))
        assert js.delivered() == b"ours %d" % turn
        assert ours.receive(js.send(b"theirs %d" % turn)) == [b"theirs %d" % turn]


def test_what_is_out_of_order_waits_on_both_sides(js: JsChannel) -> None:
    ours = Ours("python")
    first, second = js.send(b"1"), js.send(b"2")
    assert ours.receive(second) == []
    assert ours.receive(first) == [b"1", b"2"]
    third, fourth = ours.send(b"3", b"3"), ours.send(b"4", b"4")
    js.receive(fourth)
    assert js.request("sweep")["missing"] == [decode_sds(third).message_id]
    js.receive(third)
    js.request("sweep")
    assert [js.delivered(), js.delivered()] == [b"3", b"4"]


def test_acknowledged_by_both_sides(js: JsChannel) -> None:
    ours = Ours("python")
    js.receive(ours.send(b"ours"))
    ours.receive(js.send(b"theirs"))
    assert [event for event in ours.events if isinstance(event, Delivered)] == [
        Delivered(b"r", "js-participant")
    ]
    js.receive(ours.send(b"answer", b"s"))
    js.wait_event("acknowledged")


def test_sync_messages_acknowledge_through_the_bloom_filter_alone(js: JsChannel) -> None:
    ours = Ours("python")
    wire = ours.send(b"ours")
    js.receive(wire)
    sync = decode_sds(js.sync())
    assert sync.bloom
    ours.receive(js.sync())
    assert [event for event in ours.events if isinstance(event, Delivered)] == [
        Delivered(b"r", "js-participant")
    ]


def test_each_side_repairs_what_the_other_misses(js: JsChannel) -> None:
    ours = Ours("python")
    lost, second = js.send(b"1"), js.send(b"2")
    assert ours.receive(second) == []
    js.receive(ours.next(SendKind.SYNC))  # asks for the first
    (wire,) = js.request("repairs")["wires"]
    assert decode_sds(base64.b64decode(wire)).message_id == decode_sds(lost).message_id
    assert ours.receive(base64.b64decode(wire)) == [b"1", b"2"]

    third, fourth = ours.send(b"3", b"3"), ours.send(b"4", b"4")
    js.receive(fourth)
    deadline = time.monotonic() + 10
    while not decode_sds(sync := js.sync()).repair_requests:  # after its 1 to 2 ms
        assert time.monotonic() < deadline
    ours.receive(sync)
    assert ours.next(SendKind.REPAIR) == third
    js.receive(third)
    js.request("sweep")
    assert [js.delivered(), js.delivered()] == [b"3", b"4"]
