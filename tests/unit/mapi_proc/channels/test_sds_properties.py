"""Properties of the SDS core under any order, any repetition and any hostile history."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from mapi_proc.channels.events import ChannelChanges
from mapi_proc.channels.sds.bloom import NIM
from mapi_proc.channels.sds.core import SdsCore
from mapi_proc.channels.sds.message import HistoryEntry, SdsMessage, encode_sds
from mapi_proc.channels.sds.settings import SdsSettings
from mapi_proc.channels.sds.state import Deliver, SdsState
from tests.simulation.channels.disk import Disk

WALL = 1_700_000_000
NS = WALL * 10**9


def message(name: str, lamport: int, before: tuple[str, ...], content: bytes = b"x") -> SdsMessage:
    history = tuple(HistoryEntry(other) for other in before)
    return SdsMessage(NIM, name, "channel", "mallory", WALL + lamport, history, b"", content)


class Machine:
    """A core with a disk, and what it delivered."""

    def __init__(self, settings: SdsSettings, disk: Disk | None = None) -> None:
        self.core = SdsCore("channel", "bob", settings, Random(1))
        self.disk = disk or Disk()
        self.delivered: list[str] = []
        rows = [row for row in self.disk.rows.values() if row.state is not SdsState.WAITING]
        self.core.restore(self.disk.meta, rows, [], 0.0)

    def receive(self, one: SdsMessage, now: float = 0.0) -> None:
        self.core.receive(one, encode_sds(one), b"", one.content, now, NS)
        self.take()

    def take(self) -> None:
        outputs, changes = self.core.take()
        self.disk.apply(ChannelChanges(changes))
        self.delivered += [output.message.message_id for output in outputs if isinstance(output, Deliver)]

    def check(self) -> None:
        """The invariants of the incoming buffer, and that the disk holds what memory holds."""
        incoming, log = self.core.incoming, self.core.log
        assert incoming.bytes == sum(waiting.cost for waiting in incoming.waiting.values())
        needed: dict[str, set[str]] = {}
        for name, waiting in incoming.waiting.items():
            assert waiting.needs
            assert name not in log
            for need in waiting.needs:
                assert not log.settled(need)
                # What is waited for is either here and waits too, or is asked for.
                assert (need in incoming.waiting) != (need in incoming.missing), need
                needed.setdefault(need, set()).add(name)
        assert incoming._needed_by == needed
        for name, missing in incoming.missing.items():
            assert missing.needed_by == needed.get(name, set())
        settings = self.core.settings
        assert len(incoming.waiting) <= settings.max_waiting
        assert len(incoming.missing) <= settings.max_missing
        assert len(log) <= settings.max_known
        assert set(log.heads) <= set(log.records)
        on_disk = {name: row.state for name, row in self.disk.rows.items() if row.state is not SdsState.LOST}
        assert {name for name, state in on_disk.items() if state is SdsState.WAITING} == set(incoming.waiting)
        assert {name for name, state in on_disk.items() if state is not SdsState.WAITING} == {
            name for _, name in log.ordered()
        }


@st.composite
def honest_history(draw: st.DrawFn) -> list[SdsMessage]:
    """Messages of which each refers to earlier ones only, as honest participants write them."""
    messages: list[SdsMessage] = []
    for number in range(draw(st.integers(1, 25))):
        names = [one.message_id for one in messages]
        before = tuple(draw(st.lists(st.sampled_from(names), max_size=4, unique=True))) if names else ()
        messages.append(message(f"m{number}", number, before))
    return messages


@settings(max_examples=150)
@given(honest_history(), st.data())
def test_any_order_gives_the_same_log_and_a_causal_order(
    history: list[SdsMessage], draw: st.DataObject
) -> None:
    arrivals = draw.draw(st.permutations(history * 2))
    restart_at = draw.draw(st.integers(0, len(arrivals)))
    machine = Machine(SdsSettings())
    for number, one in enumerate(arrivals):
        if number == restart_at:
            delivered = machine.delivered
            machine = Machine(SdsSettings(), machine.disk)
            machine.delivered = delivered
            for row in sorted(machine.disk.rows.values(), key=lambda row: row.order):
                if row.state is SdsState.WAITING:
                    machine.receive(next(m for m in history if m.message_id == row.message_id))
        machine.receive(one)
        machine.check()
    assert [name for _, name in machine.core.log.ordered()] == [one.message_id for one in history]
    assert sorted(machine.delivered) == sorted(one.message_id for one in history)
    place = {name: number for number, name in enumerate(machine.delivered)}
    for one in history:
        assert all(place[entry.message_id] < place[one.message_id] for entry in one.causal_history)


names = st.sampled_from([f"n{number}" for number in range(12)])
hostile = st.lists(
    st.tuples(names, st.integers(0, 20), st.lists(names, max_size=6), st.booleans(), st.floats(0, 2000)),
    max_size=60,
)
TIGHT = SdsSettings(
    max_waiting=4,
    max_missing=6,
    max_known=8,
    max_history=4,
    max_history_bytes=200,
    lost_after=900,
    max_heads=2,
)


@settings(max_examples=300)
@given(hostile)
def test_hostile_histories_break_no_invariant(
    steps: list[tuple[str, int, list[str], bool, float]],
) -> None:
    machine, now = Machine(TIGHT), 0.0
    for name, lamport, before, sync, passed in steps:
        now += passed
        machine.receive(message(name, lamport, tuple(before), b"" if sync else b"x"), now)
        machine.check()
        machine.core.tick(now, NS)
        machine.take()
        machine.check()
        if sync:
            machine.core.send([b"mine"], now, NS)
            machine.take()
            machine.core.release(list(machine.core.outgoing.pending))
            machine.take()
            machine.check()
