"""A channel as its caller sees it: profiles, encryption, sizes, the ends of sends, restarts."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.errors import IpcError
from mapi_proc.channels.channel import (
    ChannelCore,
    ChannelSettings,
)
from mapi_proc.channels.encryption import Cipher, CipherError, XChaCha
from mapi_proc.channels.events import (
    MOST_LOST_IDS,
    ChannelOutput,
    Delivered,
    DeliveryError,
    MessageLost,
    Received,
    ReceiveRefused,
    SendError,
    Sent,
    SyncStatus,
    Transmit,
)
from mapi_proc.channels.profiles import MARK, MAX_RAW, PROFILES
from mapi_proc.channels.sds.bloom import JS, NIM
from mapi_proc.channels.sds.message import HistoryEntry, SdsMessage, decode_sds, encode_sds
from mapi_proc.channels.sds.settings import SdsSettings
from mapi_proc.channels.sds.state import SendKind
from mapi_proc.channels.segmentation.message import decode_segment
from mapi_proc.channels.segmentation.split import SplitLimits
from tests.simulation.channels.disk import Disk

WALL = 1_700_000_000
KEY, OTHER = bytes(32), bytes([1]) * 32


class Member:
    """A channel with a disk; what it wants sent is in `wire`."""

    def __init__(
        self,
        name: str,
        profile: str = "reference",
        cipher: Cipher | None = None,
        disk: Disk | None = None,
        split: SplitLimits | None = None,
        **sds: float,
    ) -> None:
        form = PROFILES[profile].form
        settings = ChannelSettings(
            profile=PROFILES[profile],
            sds=replace(SdsSettings(form=form), **sds),  # type: ignore[arg-type]
            split=split or SplitLimits(),
        )
        self.disk = disk or Disk()
        self.core = ChannelCore("channel", name, settings, Random(name), cipher)
        self.now = 0.0
        self.events: list[ChannelOutput] = []
        self.wire: list[Transmit] = []
        self.core.restore(self.disk.load(), self.now, self.wall())
        self.take()

    def wall(self) -> int:
        return int((WALL + self.now) * 1e9)

    def take(self) -> None:
        outputs, changes = self.core.take()
        self.disk.apply(changes)
        self.wire += [output for output in outputs if isinstance(output, Transmit)]
        self.events += [output for output in outputs if not isinstance(output, Transmit)]

    def send(self, payload: bytes, request: bytes = b"r", ephemeral: bool = False) -> list[bytes]:
        before = len(self.wire)
        self.core.send(request, payload, ephemeral, self.now, self.wall())
        self.take()
        return [transmit.payload or b"" for transmit in self.wire[before:]]

    def receive(self, *payloads: bytes) -> list[bytes]:
        """The payloads that the app gets."""
        before = len(self.events)
        for payload in payloads:
            self.core.receive(payload, b"\xaa" * 32, self.now, self.wall())
            self.take()
        return [event.payload for event in self.events[before:] if isinstance(event, Received)]

    def report(self) -> None:
        """Everything that was sent is with the network."""
        for transmit in self.wire:
            self.core.transmitted(transmit.message_id, b"\xbb" * 32, self.now)
            self.core.confirmed(transmit.message_id)
        self.take()

    def tick(self, now: float) -> None:
        self.now = now
        self.core.tick(now, self.wall())
        self.take()

    def sync(self) -> bytes:
        """The next sync message."""
        before = len(self.wire)
        while not any(transmit.kind is SendKind.SYNC for transmit in self.wire[before:]):
            due = self.core.next_time()
            assert due is not None
            self.tick(max(due, self.now))
        return self.wire[-1].payload or b""


# --- profiles -----------------------------------------------------------------------------------------------


def test_the_profiles() -> None:
    (wire,) = Member("alice").send(b"hello")
    message = decode_sds(wire)
    assert (message.form, decode_segment(message.content).payload) == (NIM, b"hello")
    (wire,) = Member("alice", "raw").send(b"hello")
    assert (decode_sds(wire).form, decode_sds(wire).content) == (NIM, b"hello")
    (wire,) = Member("alice", "js").send(b"hello")
    assert (decode_sds(wire).form, decode_sds(wire).content) == (JS, b"hello")
    assert [PROFILES[name].meta for name in ("reference", "raw", "js")] == [MARK, MARK, b""]


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("writer", PROFILES)
@pytest.mark.parametrize("reader", PROFILES)
def test_every_profile_reads_every_other(writer: str, reader: str, encrypted: bool) -> None:
    cipher = XChaCha([KEY]) if encrypted else None
    alice, bob = Member("alice", writer, cipher), Member("bob", reader, cipher)
    wire = alice.send(b"hello", b"1") + alice.send(b"again", b"2")
    assert bob.receive(*wire) == [b"hello", b"again"]
    assert alice.receive(*bob.send(b"answer")) == [b"answer"]
    if (writer, reader).count("js") != 1:
        assert [event for event in alice.events if isinstance(event, Delivered)] == [
            Delivered(b"1", "bob"),
            Delivered(b"2", "bob"),
        ]


def test_payloads_in_many_segments_with_parity_and_loss() -> None:
    split = SplitLimits(parity_rate=0.25)
    alice, bob = Member("alice", split=split, lost_after=900.0), Member("bob", lost_after=900.0)
    payload = bytes(range(256)) * 4096
    wire = alice.send(payload)
    assert len(wire) == 11 + 3
    assert bob.receive(*wire[:4], *wire[5:]) == []  # the gap holds up what comes after it
    bob.tick(900.0)
    assert [event.payload for event in bob.events if isinstance(event, Received)] == [payload]
    # One segment was lost, which one of three shards of parity makes good.
    assert bob.events.count(ReceiveRefused("duplicate_segment")) == 2


@pytest.mark.parametrize(
    ("profile", "payload", "text"),
    [
        ("reference", b"", "^bad_request: empty payload$"),
        ("reference", bytes(102_272 * 256 + 1), r"^bad_request: segmentation failed: .* 257 \+ 0 segments"),
        ("js", bytes(MAX_RAW + 1), "^bad_request: segmentation failed: profile js has none"),
    ],
)
def test_refused_payloads(profile: str, payload: bytes, text: str) -> None:
    alice = Member("alice", profile)
    with pytest.raises(IpcError, match=text):
        alice.send(payload)
    assert alice.disk.requests == {}


# --- encryption ---------------------------------------------------------------------------------------------


def test_content_is_sealed_and_the_envelope_open_or_all_of_it() -> None:
    (wire,) = Member("alice", "reference", XChaCha([KEY])).send(b"secret text")
    assert b"secret text" not in wire
    assert decode_sds(wire).channel_id == "channel"
    (wire,) = Member("alice", "js", XChaCha([KEY])).send(b"secret text")
    assert b"channel" not in wire


@pytest.mark.parametrize("profile", PROFILES)
def test_a_wrong_key_opens_nothing_and_acknowledges_nothing(profile: str) -> None:
    alice, bob = Member("alice", profile, XChaCha([KEY])), Member("bob", profile, XChaCha([OTHER]))
    (wire,) = alice.send(b"secret")
    assert bob.receive(wire, wire) == []
    assert len(bob.core.sds.log) == 0
    assert bob.disk.rows == {}
    lost = [event for event in bob.events if isinstance(event, MessageLost)]
    if profile == "reference":
        text = "decryption failed: wrong key, or the message was changed (messageHash: 0x" + "aa" * 32 + ")"
        assert [event.reason for event in lost] == [text]  # once, however often it comes
    else:
        assert lost == []
        assert ReceiveRefused("not_ours") in bob.events


def test_plain_content_is_refused_where_there_is_a_key() -> None:
    (wire,) = Member("mallory").send(b"plain")
    assert Member("bob", cipher=XChaCha([KEY])).receive(wire) == []


def test_content_is_bound_to_channel_and_sender() -> None:
    cipher = XChaCha([KEY])
    sealed = cipher.encrypt(b"x", b"content\0channel\0alice")
    for context in (b"content\0channel\0bob", b"content\0other\0alice", b""):
        with pytest.raises(CipherError):
            cipher.decrypt(sealed, context)
    assert cipher.decrypt(sealed, b"content\0channel\0alice") == b"x"


def test_keys_change_over() -> None:
    both = XChaCha([OTHER, KEY])
    assert both.decrypt(XChaCha([KEY]).encrypt(b"old", b""), b"") == b"old"
    assert XChaCha([OTHER]).decrypt(both.encrypt(b"new", b""), b"") == b"new"


def test_xchacha_vector() -> None:
    # draft-irtf-cfrg-xchacha-03, A.3.1
    key = bytes(range(0x80, 0xA0))
    nonce = bytes(range(0x40, 0x58))
    plain = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    sealed = XChaCha([key], lambda _: nonce).encrypt(plain, bytes.fromhex("50515253c0c1c2c3c4c5c6c7"))
    assert sealed[:40].hex() == nonce.hex() + "bd6d179d3e83d43b9576579493c0e939"
    assert sealed[-16:].hex() == "c0875924c1c7987947deafd8780acf49"


def test_keys_are_checked_and_never_shown() -> None:
    for keys in ([], [bytes(31)], [KEY] * 9):
        with pytest.raises(ValueError, match="key"):
            XChaCha(keys)
    assert repr(XChaCha([b"k" * 32])) == "XChaCha(1 keys)"


@given(st.binary(max_size=100))
def test_no_bytes_but_the_ciphertext_decrypt(data: bytes) -> None:
    with pytest.raises(CipherError):
        XChaCha([KEY]).decrypt(data, b"")


class Broken:
    """A hook that fails after some calls."""

    def __init__(self, good: int) -> None:
        self.good = good

    def encrypt(self, plain: bytes, context: bytes) -> bytes:
        self.good -= 1
        if self.good < 0:
            raise CipherError("out of order")
        return b"sealed" + plain

    def decrypt(self, sealed: bytes, context: bytes) -> bytes:
        return sealed.removeprefix(b"sealed")


@pytest.mark.parametrize("profile", PROFILES)
def test_a_hook_that_fails_fails_the_send_and_leaves_nothing(profile: str) -> None:
    split = SplitLimits(segment_size=192)
    alice = Member("alice", profile, Broken(2 if profile == "reference" else 0), split=split)
    with pytest.raises(IpcError, match=r"^bad_request: encryption failed: out of order$"):
        alice.send(bytes(300))
    alice.take()
    assert alice.wire == []
    assert (alice.disk.rows, alice.disk.requests) == ({}, {})


# --- the ends of a send -------------------------------------------------------------------------------------


def ends(member: Member) -> list[ChannelOutput]:
    return [
        event for event in member.events if isinstance(event, Sent | Delivered | SendError | DeliveryError)
    ]


def test_sent_when_all_segments_are_delivered_when_one_participant_has_all() -> None:
    alice, bob, carol = (
        Member(name, split=SplitLimits(segment_size=192)) for name in ("alice", "bob", "carol")
    )
    wire = alice.send(bytes(150))
    assert len(wire) == 3
    assert ends(alice) == []
    alice.report()
    assert ends(alice) == [Sent(b"r")]
    bob.receive(*wire[:2])
    carol.receive(*wire[:1], wire[2])
    alice.receive(bob.sync())
    alice.receive(carol.sync())
    assert ends(alice) == [Sent(b"r")]
    carol.receive(wire[1])
    alice.receive(carol.sync())
    assert ends(alice) == [Sent(b"r"), Delivered(b"r", "carol")]
    assert alice.disk.requests == {}
    assert alice.core.sds.outgoing.pending == {}


def test_without_a_node_is_a_delivery_error() -> None:
    alice = Member("alice", max_attempts=3)
    alice.send(b"1")
    for _ in range(20):
        alice.report()
        alice.tick(alice.now + 400)
    assert ends(alice) == [Sent(b"r"), DeliveryError(b"r", "no participant acknowledged it")]
    assert [transmit.kind for transmit in alice.wire if transmit.kind is not SendKind.SYNC] == [
        SendKind.FIRST,
        SendKind.AGAIN,
        SendKind.AGAIN,
    ]


def test_acknowledged_in_parts_only_is_a_delivery_error_after_a_while() -> None:
    alice, bob = Member("alice", split=SplitLimits(segment_size=192)), Member("bob")
    first, _ = alice.send(bytes(100))
    alice.tick(10_000.0)  # not sent yet: no time runs
    alice.report()
    bob.receive(first)
    alice.receive(bob.sync())
    for _ in range(100):
        alice.tick(alice.now + 100)
        alice.report()
        if len(ends(alice)) > 1:
            break
    assert ends(alice)[0] == Sent(b"r")
    assert isinstance(ends(alice)[1], DeliveryError)


def test_never_with_the_network_is_a_send_error() -> None:
    alice = Member("alice", max_attempts=2)
    alice.send(b"1")
    for _ in range(5):
        for transmit in alice.wire:
            alice.core.failed(transmit.message_id, alice.now)
        alice.tick(alice.now + 400)
    assert ends(alice) == [SendError(b"r", "one or more segments failed")]


def test_a_repeated_request_is_sent_once() -> None:
    alice = Member("alice")
    assert len(alice.send(b"1")) == 1
    assert alice.send(b"1") == []
    for payload, ephemeral in ((b"2", False), (b"1", True)):
        with pytest.raises(IpcError, match=r"^conflict: "):
            alice.send(payload, ephemeral=ephemeral)


def test_ephemeral_sends_and_all_repairs_and_syncs_are_not_for_stores() -> None:
    alice = Member("alice")
    alice.send(b"kept", b"1")
    alice.send(b"passing", b"2", ephemeral=True)
    alice.sync()
    assert [(transmit.kind, transmit.ephemeral) for transmit in alice.wire] == [
        (SendKind.FIRST, False),
        (SendKind.FIRST, True),
        (SendKind.SYNC, True),
    ]


def test_too_much_unacknowledged_is_busy() -> None:
    alice = Member("alice", max_outgoing=1)
    alice.send(b"1", b"1")
    with pytest.raises(IpcError, match=r"^busy: "):
        alice.send(b"2", b"2")
    assert set(alice.disk.requests) == {b"1"}


# --- receiving ----------------------------------------------------------------------------------------------


def test_other_traffic_on_the_topic_is_not_ours() -> None:
    bob = Member("bob")
    other = ChannelCore("another channel", "alice", ChannelSettings(), Random(1))
    other.send(b"r", b"hello", False, 0.0, WALL * 10**9)
    outputs, _ = other.take()
    wire = [output.payload or b"" for output in outputs if isinstance(output, Transmit)]
    assert bob.receive(b"", b"hello", *wire) == []
    assert bob.events == [ReceiveRefused("not_ours")] * 3


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_without_an_exception(data: bytes) -> None:
    for cipher in (None, XChaCha([KEY])):
        Member("bob", cipher=cipher).receive(data)


def test_what_is_missing_is_reported_when_it_begins_and_ends() -> None:
    alice, bob = Member("alice"), Member("bob")
    first, second, third = (alice.send(b"%d" % n, b"%d" % n)[0] for n in range(3))
    bob.receive(third, second, first)
    assert [event for event in bob.events if isinstance(event, SyncStatus)] == [SyncStatus(2), SyncStatus(0)]


# --- restarts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_what_waits_survives_a_restart_at_every_step(profile: str, encrypted: bool) -> None:
    cipher = XChaCha([KEY]) if encrypted else None
    split = SplitLimits(segment_size=192, parity_rate=0.5)
    alice = Member("alice", profile, cipher, split=split)
    payloads = [b"first", bytes(150), b"last"]
    wire = [raw for n, payload in enumerate(payloads) for raw in alice.send(payload, b"%d" % n)]
    for order in (wire, wire[::-1]):
        disk, got = Disk(), []
        for raw in order:
            got += Member("bob", profile, cipher, disk).receive(raw)
        assert got == payloads
        assert disk.leftovers == {}


def test_sends_survive_a_restart_and_are_sent_again() -> None:
    alice = Member("alice")
    (wire,) = alice.send(b"1")
    again = Member("alice", disk=alice.disk)
    again.tick(10.0)
    assert [transmit.payload for transmit in again.wire if transmit.kind is SendKind.AGAIN] == [wire]
    bob = Member("bob")
    bob.receive(wire)
    again.receive(bob.sync())
    assert ends(again) == [Sent(b"r"), Delivered(b"r", "bob")]


def test_half_joined_payloads_that_get_no_further_are_lost_with_an_event() -> None:
    alice, bob = Member("alice", split=SplitLimits(segment_size=192)), Member("bob")
    first, _ = alice.send(bytes(100))
    bob.receive(first)
    bob.tick(3600.0)
    (lost,) = [event for event in bob.events if isinstance(event, MessageLost)]
    assert (lost.reason, len(lost.message_ids)) == ("Expired", 1)


def test_what_never_came_is_all_named() -> None:
    """Only the first 256 were."""
    bob, names = Member("bob"), [f"never-{number}" for number in range(600)]
    history = tuple(map(HistoryEntry, names))
    bob.receive(encode_sds(SdsMessage(NIM, "m", "channel", "mallory", WALL, history, b"", b"x")))
    bob.tick(bob.core.settings.sds.lost_after)
    lost = [event.message_ids for event in bob.events if isinstance(event, MessageLost)]
    assert sorted(name for ids in lost for name in ids) == sorted(names)
    assert [len(ids) for ids in lost] == [MOST_LOST_IDS, MOST_LOST_IDS, 600 - 2 * MOST_LOST_IDS]
