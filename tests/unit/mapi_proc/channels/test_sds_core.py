"""The SDS state machine: order, acknowledgement, retransmission, repair, loss, bounds, restarts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from mapi_proc.channels.events import ChannelChanges
from mapi_proc.channels.profiles import MAX_RAW
from mapi_proc.channels.sds.bloom import JS, NIM, Bloom
from mapi_proc.channels.sds.core import OutgoingFullError, SdsCore
from mapi_proc.channels.sds.message import MAX_ID, HistoryEntry, SdsMessage, decode_sds, encode_sds
from mapi_proc.channels.sds.settings import SdsSettings
from mapi_proc.channels.sds.state import (
    Acknowledged,
    Deliver,
    Discarded,
    GaveUp,
    Lost,
    Output,
    Retrieve,
    SdsState,
    Send,
    SendKind,
)
from tests.simulation.channels.disk import Disk

WALL = 1_700_000_000
QUIET = SdsSettings(sync_min=1e6, sync_max=1e6, sync_after_content=1e6)
"""No sync messages, so that a test sees only what it is about."""


class Peer:
    """A core with a disk and hand-driven time."""

    def __init__(self, name: str, settings: SdsSettings = QUIET, disk: Disk | None = None) -> None:
        self.disk = disk or Disk()
        self.core = SdsCore("channel", name, settings, Random(name))
        self.now = 0.0
        rows = [row for row in self.disk.rows.values() if row.state is not SdsState.WAITING]
        self.core.restore(self.disk.meta, rows, [], self.now)

    def take(self) -> list[Output]:
        outputs, changes = self.core.take()
        self.disk.apply(ChannelChanges(changes))
        return outputs

    def wall(self) -> int:
        return int((WALL + self.now) * 1e9)

    def send(self, *contents: bytes) -> list[bytes]:
        self.core.send(list(contents), self.now, self.wall())
        return [output.raw or b"" for output in self.take() if isinstance(output, Send)]

    def receive(self, raw: bytes, hint: bytes = b"") -> list[Output]:
        message = decode_sds(raw)
        self.core.receive(message, raw, hint, message.content, self.now, self.wall())
        return self.take()

    def contents(self, raw: bytes) -> list[bytes]:
        return [output.message.content for output in self.receive(raw) if isinstance(output, Deliver)]

    def tick(self, now: float) -> list[Output]:
        self.now = now
        self.core.tick(now, self.wall())
        return self.take()


def sent(outputs: list[Output], kind: SendKind) -> list[Send]:
    return [output for output in outputs if isinstance(output, Send) and output.kind is kind]


def craft(name: str, lamport: int, *before: str, content: bytes = b"x", sender: str = "mallory") -> bytes:
    history = tuple(HistoryEntry(other) for other in before)
    return encode_sds(SdsMessage(NIM, name, "channel", sender, WALL + lamport, history, b"", content))


# --- order --------------------------------------------------------------------------------------------------


def test_messages_wait_for_those_before_them() -> None:
    alice, bob = Peer("alice"), Peer("bob")
    first, second, third = alice.send(b"1", b"2", b"3")
    assert bob.contents(third) == []
    assert bob.contents(second) == []
    assert bob.core.incoming.missing
    assert bob.contents(first) == [b"1", b"2", b"3"]
    assert bob.core.synced
    assert [row.state for row in bob.disk.rows.values()] == [SdsState.HELD] * 3


def test_equal_contents_at_the_same_moment_are_two_messages() -> None:
    alice, bob = Peer("alice"), Peer("bob")
    messages = [*alice.send(b"same", b"same"), *alice.send(b"same")]
    assert [content for raw in messages for content in bob.contents(raw)] == [b"same"] * 3


def test_repeated_messages_are_delivered_once() -> None:
    alice, bob = Peer("alice"), Peer("bob")
    first, second = alice.send(b"1", b"2")
    assert bob.contents(second) == []
    assert bob.contents(second) == []
    assert bob.contents(first) == [b"1", b"2"]
    assert bob.receive(second) == [Discarded(decode_sds(second).message_id, "duplicate")]


def test_the_clock_is_past_everything_seen_and_not_behind_the_wall() -> None:
    alice, bob = Peer("alice"), Peer("bob")
    bob.receive(craft("ahead", 500))
    (raw,) = bob.send(b"b")
    assert decode_sds(raw).lamport == WALL + 501
    (raw,) = alice.send(b"a")
    assert decode_sds(raw).lamport == WALL + 1


def test_two_forms_in_one_channel_share_the_order() -> None:
    nim, js = Peer("nim"), Peer("js", replace(QUIET, form=JS))
    (first,) = nim.send(b"1")
    assert js.contents(first) == [b"1"]
    (second,) = js.send(b"2")
    assert nim.contents(second) == [b"2"]
    (third,) = nim.send(b"3")
    assert js.contents(third) == [b"3"]
    assert nim.core.log.ordered() == js.core.log.ordered()
    assert [decode_sds(raw).form for raw in (first, second, third)] == [NIM, JS, NIM]


def test_absurd_clocks_are_refused() -> None:
    bob = Peer("bob")
    day = 86_400
    assert bob.receive(craft("far", 400 * day)) == [Discarded("far", "lamport")]
    assert bob.contents(craft("busy channel", 300 * day)) == [b"x"]
    assert bob.receive(craft("jump", 302 * day)) == [Discarded("jump", "lamport")]
    assert bob.contents(craft("step", 301 * day)) == [b"x"]


def test_false_references_do_not_hold_anything_up() -> None:
    bob = Peer("bob")
    assert bob.contents(craft("self", 1, "self")) == [b"x"]
    assert bob.contents(craft("one", 5, "two")) == []
    # "two" is not before "one": they would wait for each other.
    assert bob.contents(craft("two", 6, "one")) == [b"x", b"x"]
    assert bob.core.synced


def test_a_message_refers_to_every_message_that_no_other_one_refers_to() -> None:
    bob = Peer("bob", replace(QUIET, causal_history=2))
    for number in range(10):
        bob.receive(craft(f"m{number}", number))
    (raw,) = bob.send(b"all")
    assert [entry.message_id for entry in decode_sds(raw).causal_history] == [f"m{n}" for n in range(10)]
    (raw,) = bob.send(b"next")
    assert len(decode_sds(raw).causal_history) == 2


def test_a_message_without_order_is_delivered_at_once() -> None:
    bob = Peer("bob")
    raw = encode_sds(SdsMessage(JS, "e", "channel", "alice", None, (HistoryEntry("never"),), b"", b"now"))
    assert bob.contents(raw) == [b"now"]
    assert len(bob.core.log) == 0
    own = encode_sds(SdsMessage(JS, "e", "channel", "bob", None, (), b"", b"now"))
    assert bob.receive(own) == [Discarded("e", "own")]


# --- acknowledgement and retransmission ---------------------------------------------------------------------


@pytest.mark.parametrize("bloom", [True, False])
def test_acknowledged_by_history_or_filter(bloom: bool) -> None:
    alice, bob = Peer("alice"), Peer("bob", replace(QUIET, bloom=bloom, causal_history=1, max_heads=1))
    messages = alice.send(b"1", b"2", b"3")
    for raw in messages:
        bob.receive(raw)
    (answer,) = bob.send(b"answer")
    names = [decode_sds(raw).message_id for raw in messages]
    acknowledged = [output for output in alice.receive(answer) if isinstance(output, Acknowledged)]
    assert acknowledged == [Acknowledged(name, "bob") for name in (names if bloom else names[-1:])]


def test_own_messages_acknowledge_nothing() -> None:
    alice = Peer("alice")
    alice.send(b"1")
    (second,) = alice.send(b"2")
    twin = Peer("alice")
    twin.core.outgoing.add(decode_sds(second).causal_history[0].message_id, b"x", None)
    assert not any(isinstance(output, Acknowledged) for output in twin.receive(second))


def test_unacknowledged_messages_are_sent_again_with_back_off_and_then_given_up() -> None:
    alice = Peer("alice", replace(QUIET, max_attempts=4))
    (raw,) = alice.send(b"1")
    name = decode_sds(raw).message_id
    times, now = [], 0.0
    alice.core.transmitted(name, b"hash", now)
    while True:
        due = alice.core.next_time()
        assert due is not None
        outputs = alice.tick(due)
        if GaveUp(name) in outputs:
            break
        again = sent(outputs, SendKind.AGAIN)
        if again:
            assert again == [Send(name, raw, SendKind.AGAIN)]
            times.append(due)
            alice.core.transmitted(name, b"", due)
    assert times == [30.0, 90.0, 210.0]


def test_nothing_is_sent_again_while_its_transmission_is_under_way() -> None:
    alice = Peer("alice")
    alice.send(b"1")
    assert sent(alice.tick(10_000.0), SendKind.AGAIN) == []


def test_too_much_unacknowledged_is_refused_whole() -> None:
    alice = Peer("alice", replace(QUIET, max_outgoing=3))
    alice.send(b"1", b"2")
    with pytest.raises(OutgoingFullError, match="2 messages"):
        alice.core.send([b"3", b"4"], 0.0, alice.wall())
    assert alice.take() == []
    assert len(alice.core.log) == 2


# --- missing messages ---------------------------------------------------------------------------------------


def test_missing_messages_are_asked_for_again_and_answered() -> None:
    alice, bob = Peer("alice"), Peer("bob", replace(QUIET, lost_after=1e6))
    first, second = alice.send(b"1", b"2")
    bob.receive(second)
    requests = []
    for _ in range(3):
        due = bob.core.next_time()
        assert due is not None
        (sync,) = sent(bob.tick(due), SendKind.SYNC)
        (entry,) = decode_sds(sync.raw or b"").repair_requests
        requests.append(due)
        assert entry.message_id == decode_sds(first).message_id
    assert 30 <= requests[0] <= 300
    alice.receive(sync.raw or b"")
    (answer,) = sent(alice.tick(1.0), SendKind.REPAIR)  # its own message: at once
    assert answer.raw == first
    assert bob.contents(first) == [b"1", b"2"]


def test_a_third_participant_answers_later_unless_another_did() -> None:
    alice, bob, carol = Peer("alice"), Peer("bob"), Peer("carol")
    first, second = alice.send(b"1", b"2")
    for raw in (first, second):
        carol.receive(raw)
    bob.receive(second)
    due = bob.core.next_time()
    assert due is not None
    (sync,) = sent(bob.tick(due), SendKind.SYNC)
    carol.receive(sync.raw or b"")
    assert sent(carol.tick(300.0), SendKind.REPAIR) == [
        Send(decode_sds(first).message_id, first, SendKind.REPAIR)
    ]
    carol.receive(sync.raw or b"")  # within the gap: not again
    assert sent(carol.tick(301.0), SendKind.REPAIR) == []
    carol.now = 400.0
    carol.receive(sync.raw or b"")
    carol.receive(first)
    assert sent(carol.tick(800.0), SendKind.REPAIR) == []


def test_another_participants_request_puts_ours_off() -> None:
    alice, bob, carol = Peer("alice"), Peer("bob"), Peer("carol")
    _, second = alice.send(b"1", b"2")
    for peer in (bob, carol):
        peer.receive(second)
    (missing,) = bob.core.incoming.missing.values()
    bob.now = before = missing.request_at - 0.001
    (sync,) = sent(carol.tick(300.0), SendKind.SYNC)
    bob.receive(sync.raw or b"")
    assert missing.request_at > before + 29


def test_stores_are_asked_by_hint() -> None:
    alice, bob = Peer("alice"), Peer("bob", replace(QUIET, request_min=290, lost_after=1e6))
    (first,) = alice.send(b"1")
    name = decode_sds(first).message_id
    alice.core.transmitted(name, b"hash of the first", 0.0)
    (second,) = alice.send(b"2")
    bob.receive(second)
    retrievals: list[float] = []
    while len(retrievals) < 3:
        due = bob.core.next_time()
        assert due is not None
        for output in bob.tick(due):
            if isinstance(output, Retrieve):
                assert output.entries == (HistoryEntry(name, b"hash of the first", "alice"),)
                retrievals.append(due)
    assert [round(b - a) for a, b in pairwise(retrievals)] == [10, 20]


def test_what_never_comes_is_lost_and_holds_nothing_up() -> None:
    alice, bob = Peer("alice"), Peer("bob", replace(QUIET, lost_after=900))
    first, second, third = alice.send(b"1", b"2", b"3")
    bob.receive(second)
    bob.receive(third)
    outputs = bob.tick(900.0)
    name = decode_sds(first).message_id
    assert [
        entry.message_id for output in outputs if isinstance(output, Lost) for entry in output.entries
    ] == [name]
    assert [output.message.content for output in outputs if isinstance(output, Deliver)] == [b"2", b"3"]
    again = Peer("bob", disk=bob.disk)
    assert again.contents(craft("later", 10, name)) == [b"x"]
    assert again.contents(first) == [b"1"]  # late is better than never


def test_a_message_that_waits_serves_repair_too() -> None:
    alice, bob, carol = Peer("alice"), Peer("bob"), Peer("carol")
    _, second, third = alice.send(b"1", b"2", b"3")
    bob.receive(second)  # it waits for the first, which no participant has
    carol.receive(third)
    for due in (300.0, 302.0):
        for sync in sent(carol.tick(due), SendKind.SYNC):
            bob.now = due
            bob.receive(sync.raw or b"")
    assert [answer.raw for answer in sent(bob.tick(610.0), SendKind.REPAIR)] == [second]


def test_what_was_given_up_is_asked_for_again_when_a_participant_has_it() -> None:
    alice, bob = Peer("alice", SdsSettings()), Peer("bob", replace(QUIET, lost_after=900))
    first, second = alice.send(b"1", b"2")
    bob.receive(second)
    assert any(isinstance(output, Lost) for output in bob.tick(900.0))
    assert bob.core.synced
    due = alice.core.next_time()
    assert due is not None
    (sync,) = sent(alice.tick(due), SendKind.SYNC)
    bob.receive(sync.raw or b"")
    assert list(bob.core.incoming.missing) == [decode_sds(first).message_id]
    assert not any(isinstance(output, Lost) for output in bob.tick(1900.0)), "it is reported once"
    bob.receive(sync.raw or b"")
    assert bob.contents(first) == [b"1"]
    assert bob.core.synced


# --- sync messages ------------------------------------------------------------------------------------------


def syncs(peer: Peer, until: float) -> list[float]:
    times = []
    while (due := peer.core.next_time()) is not None and due < until:
        if sent(peer.tick(due), SendKind.SYNC):
            times.append(due)
    return times


def test_an_idle_channel_sends_sync_messages_less_and_less_often() -> None:
    alice = Peer("alice", SdsSettings(max_attempts=1))
    alice.send(b"1")
    times = syncs(alice, 3600.0)
    gaps = [b - a for a, b in pairwise(times)]
    assert times[0] <= 30
    assert gaps[0] <= 60
    assert all(150 <= gap <= 300 for gap in gaps[5:])


def test_an_empty_channel_is_silent() -> None:
    assert syncs(Peer("alice", SdsSettings()), 1e9) == []


def test_received_content_is_acknowledged_soon() -> None:
    alice, bob = Peer("alice"), Peer("bob", SdsSettings())
    (raw,) = alice.send(b"1")
    bob.receive(raw)
    due = bob.core.next_time()
    assert due is not None
    assert due <= 15
    (sync,) = sent(bob.tick(due), SendKind.SYNC)
    assert [output for output in alice.receive(sync.raw or b"") if isinstance(output, Acknowledged)] == [
        Acknowledged(decode_sds(raw).message_id, "bob")
    ]


@pytest.mark.parametrize("senders", [1, 2])
def test_a_busy_channel_does_not_put_acknowledgement_off(senders: int) -> None:
    others = [Peer(f"sender-{number}") for number in range(senders)]
    bob = Peer("bob", SdsSettings())
    spoke = []
    for step in range(1200):
        for peer in (*others, bob):
            peer.now = step / 10
        for raw in others[step % senders].send(b"%d" % step):
            for peer in (*others, bob):
                if peer is not others[step % senders]:
                    peer.receive(raw)
        due = bob.core.next_time()
        if due is not None and due <= bob.now and sent(bob.tick(bob.now), SendKind.SYNC):
            spoke.append(bob.now)
    assert spoke
    assert max(b - a for a, b in pairwise([0.0, *spoke])) <= 65


def test_a_sync_message_that_another_made_needless_waits() -> None:
    alice, bob, carol = Peer("alice"), Peer("bob", SdsSettings()), Peer("carol", SdsSettings())
    (raw,) = alice.send(b"1")
    bob.receive(raw)
    carol.receive(raw)
    due = bob.core.next_time()
    assert due is not None
    (sync,) = sent(bob.tick(due), SendKind.SYNC)
    carol.receive(sync.raw or b"")
    later = carol.core.next_time()
    assert later is not None
    assert later >= 15


def test_sync_messages_show_what_is_missing_but_are_not_in_the_log() -> None:
    alice, bob = Peer("alice", SdsSettings()), Peer("bob")
    alice.send(b"1")
    due = alice.core.next_time()
    assert due is not None
    (sync,) = sent(alice.tick(due), SendKind.SYNC)
    assert bob.receive(sync.raw or b"") == []
    assert len(bob.core.incoming.missing) == 1
    assert len(bob.core.log) == 0
    # nim-sds refers to sync messages like to any other.
    assert bob.contents(craft("later", 9, decode_sds(sync.raw or b"").message_id)) == [b"x"]


# --- bounds -------------------------------------------------------------------------------------------------


def test_the_last_in_order_gives_way_when_too_many_wait() -> None:
    bob = Peer("bob", replace(QUIET, max_waiting=3))
    for number in (5, 3, 4):
        bob.receive(craft(f"m{number}", number, "never"))
    assert Discarded("m5", "waiting_full") in bob.receive(craft("m2", 2, "never"))
    assert Discarded("m9", "waiting_full") in bob.receive(craft("m9", 9, "never"))
    assert sorted(bob.core.incoming.waiting) == ["m2", "m3", "m4"]
    assert sorted(bob.disk.rows) == ["m2", "m3", "m4"]
    assert bob.core.incoming.bytes == sum(waiting.cost for waiting in bob.core.incoming.waiting.values())


def test_without_a_disk_unacknowledged_messages_stay_in_memory() -> None:
    """Of more than 8 MB the first were never sent again, and the payload was undeliverable."""
    alice = Peer("alice", replace(QUIET, max_history_bytes=1, on_disk=False))
    raws = alice.send(b"1", b"2")
    for name in list(alice.core.outgoing.pending):
        alice.core.transmitted(name, b"", 0.0)
    again = [output for output in alice.tick(QUIET.ack_timeout) if isinstance(output, Send)]
    assert sorted(output.raw or b"" for output in again) == sorted(raws)


def test_filters_of_any_size_do_not_hash_what_is_pending_again() -> None:
    """Each size cost two hashes for each unacknowledged message: 30 ms for a message of a few bytes."""
    alice = Peer("alice")
    alice.send(b"1", b"2")
    for capacity in range(10, 20):
        bloom = Bloom(NIM, capacity).encode()
        sync = replace(decode_sds(craft(f"m{capacity}", 1)), content=b"", bloom=bloom)
        assert alice.receive(encode_sds(sync)) == []
    assert [list(pending.hashes) for pending in alice.core.outgoing.pending.values()] == [[NIM], [NIM]]


def test_references_count_as_memory_of_what_waits() -> None:
    """10 MB of messages that refer to 1,000 others each took 250 MB."""
    bob = Peer("bob", replace(QUIET, max_waiting_bytes=1 << 20))
    many = [f"never-{number}" for number in range(1000)]
    for number in range(10):
        bob.receive(craft(f"m{number}", number, *many))
    assert sorted(bob.core.incoming.waiting) == ["m0", "m1", "m2"]
    bob.tick(QUIET.lost_after)
    assert bob.core.incoming.bytes == 0


def test_what_is_missing_is_bounded() -> None:
    bob = Peer("bob", replace(QUIET, max_missing=5))
    many = [f"n{number}" for number in range(4)]
    bob.receive(craft("one", 1, *many))
    assert bob.receive(craft("two", 2, "a", "b", "c")) == [Discarded("two", "missing_full")]
    bob.receive(
        encode_sds(SdsMessage(NIM, "s", "channel", "m", WALL, (HistoryEntry("a"), HistoryEntry("b"))))
    )
    assert len(bob.core.incoming.missing) == 5


def test_forgotten_messages_are_not_delivered_again() -> None:
    alice, bob = Peer("alice"), Peer("bob", replace(QUIET, max_known=10, max_history=5))
    messages = [raw for number in range(30) for raw in alice.send(b"%d" % number)]
    for raw in messages:
        bob.receive(raw)
    assert len(bob.core.log) == len(bob.disk.rows) == 10
    assert [output for raw in messages for output in bob.receive(raw) if isinstance(output, Deliver)] == []
    with_raw = [row for row in bob.disk.rows.values() if row.raw is not None and row.state is SdsState.DONE]
    assert with_raw == []
    assert len(bob.core.log.records) == 5


def test_history_bytes_are_bounded_in_memory_and_read_from_the_disk() -> None:
    alice = Peer("alice", replace(QUIET, max_history_bytes=100_000))
    messages = [alice.send(bytes(10_000))[0] for _ in range(10)]
    assert sum(len(record.raw or b"") for record in alice.core.log.records.values()) <= 100_000
    request = (HistoryEntry(decode_sds(messages[0]).message_id, b"", "alice"),)
    alice.receive(encode_sds(SdsMessage(NIM, "s", "channel", "bob", WALL, (), b"", b"", request)))
    (answer,) = sent(alice.tick(1.0), SendKind.REPAIR)
    assert answer.raw is None
    assert alice.disk.rows[answer.message_id].raw == messages[0]


def test_ids_of_any_length_leave_room_for_the_content() -> None:
    """Otherwise no message of ours would be below the network's limit once others have sent a few."""
    alice = Peer("alice")
    heads = {f"{number:h>{MAX_ID}}" for number in range(60)}
    for number, name in enumerate(sorted(heads)):
        alice.receive(craft(name, number, sender="s" * MAX_ID))
        alice.receive(craft(f"waits {number}", number, f"{number:m>{MAX_ID}}"))
    alice.now = 1e4  # repairs are due
    referred: set[str] = set()
    for _ in range(20):
        (raw,) = alice.send(bytes(MAX_RAW))
        assert len(raw) < 150_000, "of 153,600, and there is more around it"
        referred |= {entry.message_id for entry in decode_sds(raw).causal_history}
    assert heads <= referred, "none is left out for good"


# --- restarts -----------------------------------------------------------------------------------------------


def test_a_restart_keeps_the_log_the_clock_and_the_references() -> None:
    alice, bob = Peer("alice"), Peer("bob")
    first, second, third = alice.send(b"1", b"2", b"3")
    bob.receive(first)
    bob.receive(craft("aside", 700))
    again = Peer("bob", disk=bob.disk)
    assert again.core.log.ordered() == bob.core.log.ordered()
    assert again.contents(first) == []
    assert again.contents(second) == [b"2"]
    (raw,) = again.send(b"mine")
    message = decode_sds(raw)
    assert message.lamport == WALL + 701
    assert {"aside", decode_sds(second).message_id} <= {e.message_id for e in message.causal_history}
    assert again.contents(third) == [b"3"]


def test_own_messages_from_before_the_state_was_lost_are_not_delivered() -> None:
    alice = Peer("alice")
    (raw,) = alice.send(b"1")
    fresh = Peer("alice")
    assert fresh.receive(raw) == [Discarded(decode_sds(raw).message_id, "own")]
    assert fresh.core.log.ordered() == alice.core.log.ordered()
