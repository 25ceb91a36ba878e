"""Sessions of reconciliation between two cores, over the real codec: any two sets become one."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_proc.protocols.sync.codec import (
    ItemSet,
    RangeKind,
    SyncPayload,
    SyncRange,
    decode_payload,
    encode_payload,
)
from kernel_proc.protocols.sync.index import KeyIndex
from kernel_proc.protocols.sync.invitations import Grant
from kernel_proc.protocols.sync.keys import SyncKey, key_at, make_key, time_of
from kernel_proc.protocols.sync.reconcile import (
    ReconcileLimits,
    Reconciliation,
    SyncWindow,
    TopicFilter,
    common_topics,
    partitions,
)

START, END = 1_000_000, 2_000_000
WINDOW = SyncWindow(START, END)
TOPIC = "/waku/2/rs/1/0"


class Side:
    """One end of a session. `grant` is what it asked for."""

    def __init__(
        self,
        keys: Iterable[SyncKey],
        limits: ReconcileLimits | None = None,
        window: SyncWindow = WINDOW,
        own: TopicFilter = TopicFilter(),  # noqa: B008 - immutable
    ) -> None:
        self.index = KeyIndex()
        for key in keys:
            self.index.add(key)
        self.grant = Grant(1 << 30, 1 << 40)
        self.core = Reconciliation(window, own, invite=self.grant.invite, limits=limits)

    @property
    def keys(self) -> set[SyncKey]:
        return set(self.index.keys(key_at(0), key_at(1 << 62)))

    def first(self) -> SyncPayload:
        return self.core.first(self.index)

    def answer(self, frame: bytes) -> bytes | None:
        """The frame to send back; None: the session has ended."""
        last: SyncPayload | None = None
        for last in self.core.answer(decode_payload(frame), self.index):  # noqa: B007 - the last one counts
            pass
        self.grant.wanted |= self.core.totals.wanted
        return None if last is None else encode_payload(last)


def session(one: Side, two: Side, most: int = 64) -> int:
    """Run a session that `one` opens, and give what was found, as far as it was asked for. Return frames."""
    frames, frame, turn = 1, encode_payload(one.first()), two
    while True:
        answer = turn.answer(frame)
        if answer is None:
            break
        frames += 1
        assert frames < most, "no end"
        if answer == b"\0":
            other = one if turn is two else two
            assert other.answer(answer) is None
            break
        frame, turn = answer, one if turn is two else two
    for giver, taker in ((one, two), (two, one)):
        sent = giver.core.totals.to_send
        assert len(sent) == len(set(sent))
        for key in sent:
            assert taker.grant.judge(time_of(key), key[8:], 1) == "taken"
            assert taker.index.add(key)
    return frames


def keys_of(random: Random, count: int, start: int = START, end: int = END) -> set[SyncKey]:
    return {make_key(random.randrange(start, end), random.randbytes(32)) for _ in range(count)}


TIMES = st.integers(START, END - 1) | st.integers(START, START + 3)
# Real hashes, which cover the time: the XOR of others may be zero, which is what "nothing" has.
KEYS = st.tuples(TIMES, st.integers(0, 1000)).map(
    lambda drawn: make_key(drawn[0], sha256(repr(drawn).encode()).digest())
)
SETS = st.sets(KEYS, max_size=40)


@given(SETS, SETS, SETS)
def test_any_two_sets_become_one(both: set[SyncKey], left: set[SyncKey], right: set[SyncKey]) -> None:
    one, two = Side(both | left), Side(both | right)
    session(one, two)
    assert one.keys == two.keys == both | left | right


@given(st.integers(0, 1 << 30))
@settings(max_examples=12)
def test_any_two_large_sets_become_one(seed: int) -> None:
    random = Random(seed)
    crowd = START + random.randrange(END - START - 10)
    both = keys_of(random, random.choice((0, 300, 2000))) | keys_of(random, 150, crowd, crowd + 5)
    left, right = (keys_of(random, random.choice((0, 1, 90, 400))) for _ in range(2))
    one, two = Side(both | left), Side(both | right)
    session(one, two)
    assert one.keys == two.keys == both | left | right


@given(st.integers(0, 1 << 30))
@settings(max_examples=12)
def test_with_tight_limits_several_sessions_do(seed: int) -> None:
    random = Random(seed)
    limits = ReconcileLimits(answer_bytes=4000, item_set=150, to_send=100)
    left, right = keys_of(random, 500), keys_of(random, random.choice((0, 1, 700)))
    one, two = Side(left, limits), Side(right, limits)
    for _ in range(40):
        session(one, two)
        if one.keys == two.keys:
            break
        one, two = Side(two.keys, limits), Side(one.keys, limits)  # the other one opens the next
    assert one.keys == two.keys == left | right


def test_equal_stores_need_one_answer() -> None:
    keys = keys_of(Random(1), 1000)
    one, two = Side(keys), Side(keys)
    assert session(one, two) == 2
    assert one.core.totals.round_trips == two.core.totals.round_trips == 1
    assert not one.core.totals.to_send
    assert not two.core.totals.wanted


def test_the_first_frame_is_the_fingerprint_of_the_window() -> None:
    keys = keys_of(Random(2), 50)
    outside = {make_key(START - 1, b"a" * 32), make_key(END + 1, b"b" * 32)}
    first = Side(keys | outside, own=TopicFilter((TOPIC,))).first()
    assert first == Side(keys, own=TopicFilter((TOPIC,))).first()
    assert first.pubsub_topics == (TOPIC,)
    (only,) = first.ranges
    assert (only.low, only.high, only.kind) == (key_at(START), key_at(END), RangeKind.FINGERPRINT)
    assert Side(()).first().ranges[0].content == bytes(32)


def answers(side: Side, *ranges: SyncRange) -> list[SyncRange]:
    """The ranges of the answer."""
    frame = side.answer(encode_payload(SyncPayload(ranges=ranges)))
    assert frame is not None
    return list(decode_payload(frame).ranges)


def test_each_rule_of_an_answer() -> None:
    few = sorted(keys_of(Random(3), 3))
    low, high = key_at(START), key_at(END)
    # a fingerprint that differs: nothing of ours, a few, many
    (none,) = answers(Side(()), SyncRange(low, high, b"x" * 32))
    assert none.content == ItemSet([], reconciled=True)
    (some,) = answers(Side(few), SyncRange(low, high, b"x" * 32))
    assert some.content == ItemSet(few, reconciled=False)
    hundred = sorted(keys_of(Random(4), 100))
    (full,) = answers(Side(hundred), SyncRange(low, high, b"x" * 32))
    assert full.content == ItemSet(hundred, reconciled=False)
    parts = answers(Side([*hundred, make_key(END - 1, b"e" * 32)]), SyncRange(low, high, b"x" * 32))
    assert [(one.low, one.high) for one in parts] == partitions(low, high)
    assert {one.kind for one in parts} == {RangeKind.ITEM_SET}
    # an item set: ours, reconciled, if theirs was not; else nothing more
    theirs = [few[0], make_key(START + 5, b"t" * 32)]
    side = Side(few)
    (ours,) = answers(side, SyncRange(low, high, ItemSet(sorted(theirs), reconciled=False)))
    assert ours.content == ItemSet(few, reconciled=True)
    assert side.core.totals.to_send == few[1:]
    assert side.core.totals.wanted == {theirs[1]}
    side = Side(few)
    assert side.answer(
        encode_payload(SyncPayload(ranges=[SyncRange(low, high, ItemSet([], reconciled=True))]))
    ) == (b"\0")
    assert side.core.totals.to_send == few
    # skips are merged, and a frame of skips only is not answered
    middle = key_at(START + 10)
    found = answers(
        Side(few),
        SyncRange(low, middle),
        SyncRange(middle, key_at(START + 20)),
        SyncRange(key_at(START + 20), high, b"x" * 32),
    )
    assert [one.kind for one in found] == [RangeKind.SKIP, RangeKind.ITEM_SET]
    assert (found[0].low, found[0].high) == (low, key_at(START + 20))
    assert Side(few).answer(encode_payload(SyncPayload(ranges=[SyncRange(low, high)]))) is None
    assert Side(few).answer(b"") is None


def test_no_peer_is_asked_for_messages_older_than_the_window() -> None:
    older = SyncRange(key_at(0), key_at(START - 1), b"x" * 32)
    side = Side(())
    assert side.answer(encode_payload(SyncPayload(ranges=[older]))) == b"\0"
    assert side.grant.judge(START - 10, b"h" * 32, 1) == "unasked"
    # a range that begins long before: only its parts within our window are asked for
    many = Side(keys_of(Random(5), 300))
    found = answers(many, SyncRange(key_at(0), key_at(END), b"x" * 32))
    assert found[0].kind is RangeKind.SKIP
    assert time_of(found[0].high) == END // 8 * 3
    assert many.grant.judge(10, b"h" * 32, 1) == "unasked"


def test_an_eighth_each_with_the_remainder_first() -> None:
    low, high = key_at(10), key_at(10 + 8 * 3 + 2)
    assert [time_of(b) - time_of(a) for a, b in partitions(low, high)] == [4, 4, 3, 3, 3, 3, 3, 3]
    assert partitions(key_at(10), key_at(17)) == []


def test_topics_in_common() -> None:
    assert common_topics((), ()) == ()
    assert common_topics(("a",), ()) == common_topics((), ("a",)) == ("a",)
    assert common_topics(("a", "b"), ("b", "c")) == ("b",)
    assert common_topics(("a",), ("b",)) is None


def test_hostile_ranges_stay_within_the_limits() -> None:
    random = Random(6)
    crowd = {make_key(START, random.randbytes(32)) for _ in range(2000)}
    limits = ReconcileLimits(answer_bytes=100_000, to_send=1000)
    # the same nanosecond over and over, each range with all of its messages
    high = make_key(START, b"\xff" + bytes(31))
    frame = encode_payload(
        SyncPayload(ranges=[SyncRange(key_at(START), high, b"x" * 32) for _ in range(3000)])
    )
    side = Side(crowd, limits)
    answer = side.answer(frame)
    assert answer is not None
    assert len(answer) < limits.answer_bytes + 2000 * 41
    assert side.core.totals.cut_short
    # everything is asked of us again and again: what is to be sent is bounded
    empty = ItemSet([], reconciled=True)
    frame = encode_payload(SyncPayload(ranges=[SyncRange(key_at(START), high, empty) for _ in range(3000)]))
    side = Side(crowd, limits)
    assert side.answer(frame) == b"\0"
    assert len(side.core.totals.to_send) == limits.to_send


def test_what_a_peer_lists_and_never_sends_is_bounded() -> None:
    """It took 150 MB for each session, without end."""
    side, wanted = Side([], ReconcileLimits(wanted=100)), keys_of(Random(8), 100)
    for keys in (sorted(wanted), sorted(keys_of(Random(9), 200)), sorted(wanted)):
        ranges = [SyncRange(key_at(START), key_at(END), ItemSet(keys, reconciled=False))]
        answer = side.answer(encode_payload(SyncPayload(ranges=ranges)))
        assert side.core.totals.wanted == wanted
        # what was asked for before and has not come is asked for again; what does not fit is left out
        assert (answer == b"\0") == (keys != sorted(wanted))
    assert side.core.totals.lacking == 2 * len(wanted)
    assert side.core.totals.cut_short


def test_one_message_against_a_full_hour_does_not_list_the_hour() -> None:
    limits = ReconcileLimits(item_set=200)
    keys = keys_of(Random(7), 3000)
    one, two = Side([make_key(START + 1, b"o" * 32)]), Side(keys, limits)
    frame = two.answer(encode_payload(one.first()))
    assert frame is not None
    listed = one.answer(frame)
    assert listed is not None
    session(one := Side(one.keys), two := Side(keys, limits))
    assert one.keys == two.keys


def test_a_window_lies_before_now() -> None:
    assert SyncWindow.before(4_000_000_000_000, 3600.0, 20.0) == (380_000_000_000, 3_980_000_000_000)
    assert SyncWindow.before(5, 3600.0, 20.0) == (0, 0)
