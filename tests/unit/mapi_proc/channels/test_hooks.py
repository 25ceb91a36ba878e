"""A channel whose segments its app encrypts and decrypts: what the core gives, takes and keeps."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest

from ipc_schema.errors import IpcError
from mapi_proc.channels.channel import ChannelCore, ChannelSettings
from mapi_proc.channels.events import (
    ChannelOutput,
    Delivered,
    MessageLost,
    Received,
    SealedSegment,
    StoredRequest,
    Transmit,
)
from mapi_proc.channels.profiles import PROFILES
from mapi_proc.channels.sds.message import decode_sds
from mapi_proc.channels.segmentation.split import SplitLimits
from mapi_proc.channels.unopened import Unopened, UnopenedSegment
from tests.simulation.channels.disk import Disk
from tests.simulation.channels.run import hook

WALL = 1_700_000_000
SPLIT = SplitLimits(segment_size=192)
PAYLOAD = bytes(range(150))
"""Three segments of 64 bytes."""


@dataclass
class Side:
    """A participant; `stream` is what its app gets."""

    name: str
    disk: Disk
    stream: list[ChannelOutput]
    core: ChannelCore

    @classmethod
    def start(cls, name: str, disk: Disk | None = None, *, notify_again: bool = False) -> Side:
        core = ChannelCore("channel", name, ChannelSettings(split=SPLIT, hooks=True), Random(name))
        one = cls(name, disk or Disk(), [], core)
        core.restore(one.disk.load(), 0.0, WALL * 10**9, notify_again=notify_again)
        one.take()
        return one

    def take(self) -> list[bytes]:
        outputs, changes = self.core.take()
        self.disk.apply(changes)
        self.stream += [output for output in outputs if not isinstance(output, Transmit)]
        return [output.payload or b"" for output in outputs if isinstance(output, Transmit)]

    def send(self, payload: bytes = PAYLOAD, request: bytes = b"r", mark: bytes = b"mark") -> list[bytes]:
        contents, needed = self.core.split(payload)
        stored = StoredRequest(request, (), needed, False, False, mark)
        self.core.send_sealed(stored, [hook(content) for content in contents], 0.0, WALL * 10**9)
        return self.take()

    def receive(self, *wire: bytes) -> None:
        for data in wire:
            self.core.receive(data, bytes(32), 0.0, WALL * 10**9)
        self.take()

    def sealed(self) -> list[SealedSegment]:
        return [event for event in self.stream if isinstance(event, SealedSegment)]

    def open(self, *segments: SealedSegment) -> None:
        for segment in segments:
            self.core.opened(segment.message_id, hook(segment.content), "", 0.0)
        self.take()

    def payloads(self) -> list[bytes]:
        return [event.payload for event in self.stream if isinstance(event, Received)]


def test_segments_go_through_the_app_both_ways() -> None:
    alice, bob = Side.start("alice"), Side.start("bob")
    wire = alice.send()
    assert len(wire) == 3
    assert all(PAYLOAD[:20] not in data for data in wire)
    bob.receive(*wire)
    assert [segment.content for segment in bob.sealed()] == [decode_sds(data).content for data in wire]
    assert bob.payloads() == []
    bob.open(*bob.sealed())
    assert bob.payloads() == [PAYLOAD]
    bob.open(*bob.sealed())  # the app repeats what it is not sure of
    assert bob.payloads() == [PAYLOAD]
    alice.receive(*bob.send(b"answer", b"q"))
    assert [event for event in alice.stream if isinstance(event, Delivered)] == [Delivered(b"r", "bob")]


def test_plain_text_is_never_sent() -> None:
    alice = Side.start("alice")
    with pytest.raises(IpcError, match=r"encryption failed: the app encrypts"):
        alice.core.send(b"r", PAYLOAD, False, 0.0, WALL * 10**9)
    assert alice.take() == []
    plain = ChannelCore("channel", "bob", ChannelSettings(), Random(1))
    with pytest.raises(IpcError, match="without hooks"):
        plain.split(PAYLOAD)
    with pytest.raises(IpcError, match="without hooks"):
        plain.send_sealed(StoredRequest(b"r", (), 1, False, False, b""), [b"x"], 0.0, WALL * 10**9)


@pytest.mark.parametrize(
    ("contents", "needed"),
    [([], 1), ([b"x"], 0), ([b"x"], 2), ([b""], 1), ([bytes(200_000)], 1), ([b"x"] * 257, 1)],
)
def test_sealed_segments_that_cannot_be_are_refused(contents: list[bytes], needed: int) -> None:
    alice = Side.start("alice")
    with pytest.raises(IpcError, match=r"^bad_request: "):
        alice.core.send_sealed(
            StoredRequest(b"r", (), needed, False, False, b""), contents, 0.0, WALL * 10**9
        )
    assert alice.take() == []


def test_a_repeat_is_known_by_its_mark() -> None:
    alice = Side.start("alice")
    assert len(alice.send()) == 3
    assert alice.send() == []
    with pytest.raises(IpcError, match=r"^conflict: "):
        alice.send(b"other", mark=b"another")


def test_a_segment_that_the_app_cannot_open_is_lost_and_said_to_be() -> None:
    alice, bob = Side.start("alice"), Side.start("bob")
    bob.receive(*alice.send(b"one", b"1"), *alice.send(b"two", b"2"))
    first, second = bob.sealed()
    bob.core.opened(first.message_id, None, "wrong key", 0.0)
    bob.open(second)
    assert bob.payloads() == [b"two"]
    (lost,) = [event for event in bob.stream if isinstance(event, MessageLost)]
    assert lost == MessageLost(b"", (first.message_id,), "decryption failed: wrong key")


def test_a_restart_asks_again_for_what_was_opened_and_not_for_what_is_on_the_stream() -> None:
    alice, bob = Side.start("alice"), Side.start("bob")
    bob.receive(*alice.send())
    opened, waiting, last = bob.sealed()
    bob.open(opened)
    again = Side.start("bob", bob.disk)
    assert again.sealed() == [opened]  # its plain bytes were in memory only
    assert len(again.core.unopened) == 3
    again.open(waiting, last, *again.sealed())
    assert again.payloads() == [PAYLOAD]
    assert Side.start("bob", again.disk).stream == []


@pytest.mark.parametrize("notify_again", [False, True])
def test_a_later_payload_does_not_overtake_what_a_restart_asks_for_again(notify_again: bool) -> None:
    alice, bob = Side.start("alice"), Side.start("bob")
    bob.receive(*alice.send(), *alice.send(b"later", b"l"))
    opened, *on_stream = bob.sealed()
    bob.open(opened)
    again = Side.start("bob", bob.disk, notify_again=notify_again)
    assert again.sealed()[0] == opened  # in a new event, behind those on the stream
    again.open(*on_stream)
    assert again.payloads() == []
    again.open(*again.sealed())
    assert again.payloads() == [PAYLOAD, b"later"]
    assert Side.start("bob", again.disk).stream == []


def test_a_restart_asks_again_for_what_waited_for_its_turn() -> None:
    alice, bob = Side.start("alice"), Side.start("bob")
    bob.receive(*alice.send(), *alice.send(b"later", b"l"))
    opened, *on_stream = bob.sealed()
    bob.open(opened)
    again = Side.start("bob", bob.disk)
    again.open(*on_stream)  # and the app acknowledges them: no event of theirs is left
    third = Side.start("bob", again.disk)
    assert third.sealed() == bob.sealed()
    third.open(*third.sealed())
    assert third.payloads() == [PAYLOAD, b"later"]


def test_what_waits_for_its_turn_goes_on_when_the_app_cannot_open_what_is_before() -> None:
    alice, bob = Side.start("alice"), Side.start("bob")
    bob.receive(*alice.send(), *alice.send(b"later", b"l"))
    opened, *on_stream = bob.sealed()
    bob.open(opened)
    again = Side.start("bob", bob.disk)
    again.open(*on_stream)
    again.core.opened(opened.message_id, None, "wrong key", 0.0)
    again.take()
    assert again.payloads() == [b"later"]
    assert MessageLost(b"", (opened.message_id,), "decryption failed: wrong key") in again.stream


def test_a_channel_that_is_opened_again_tells_all_of_them() -> None:
    alice, bob = Side.start("alice"), Side.start("bob")
    bob.receive(*alice.send())
    assert Side.start("bob", bob.disk, notify_again=True).sealed() == bob.sealed()


def test_what_the_app_never_opens_is_bounded() -> None:
    unopened = Unopened(max_count=3, max_bytes=100)
    added = [unopened.add(UnopenedSegment(str(n), "bob", n, 30)) for n in range(3)]
    assert added == [[], [], []]
    assert unopened.add(UnopenedSegment("3", "bob", 3, 10)) == ["0"]
    assert unopened.add(UnopenedSegment("4", "bob", 4, 95)) == ["1", "2", "3"]
    assert (len(unopened), unopened.bytes) == (1, 95)
    assert not unopened.answer("1", b"x", "")
    assert unopened.answer("4", b"x", "")
    assert [opened.segment.message_id for opened in unopened.ready()] == ["4"]
    assert (len(unopened), unopened.bytes) == (0, 0)


def test_what_waits_for_a_given_up_segment_goes_on() -> None:
    unopened = Unopened(max_count=4)
    for name, asked_again in (("0", False), ("1", True), ("2", False), ("3", False)):
        assert unopened.add(UnopenedSegment(name, "bob", int(name), 30), asked_again) == []
    assert unopened.answer("3", b"x", "")
    assert unopened.ready() == []
    assert not unopened.answer("3", b"x", "")  # repeated
    assert unopened.answer("0", b"x", "")
    assert [opened.segment.message_id for opened in unopened.ready()] == ["0"]
    assert unopened.add(UnopenedSegment("4", "bob", 4, 30)) == []
    assert unopened.add(UnopenedSegment("5", "bob", 5, 30)) == ["1"]
    assert [opened.segment.message_id for opened in unopened.ready()] == ["3"]
    assert (len(unopened), unopened.bytes) == (3, 90)


def test_given_up_segments_are_reported_and_leave_the_disk() -> None:
    alice, bob = Side.start("alice"), Side.start("bob")
    bob.core.unopened = Unopened(max_count=2)
    bob.receive(*alice.send())
    (lost,) = [event for event in bob.stream if isinstance(event, MessageLost)]
    assert lost.message_ids == (bob.sealed()[0].message_id,)
    assert len(Side.start("bob", bob.disk).core.unopened) == 2


@pytest.mark.parametrize("profile", ["raw", "js"])
def test_envelopes_are_not_for_hooks(profile: str) -> None:
    with pytest.raises(ValueError, match="encrypts envelopes"):
        ChannelSettings(profile=PROFILES[profile], hooks=True)
