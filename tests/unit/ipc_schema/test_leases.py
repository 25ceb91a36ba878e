from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ipc_schema.leases import LeaseTable

TTL = 10
consumers = st.sampled_from(["mapi", "tool", "other"])
shards = st.integers(0, 3)


class LeaseMachine(RuleBasedStateMachine):
    """The model: a map from (consumer, shard) to the end of its lease."""

    def __init__(self) -> None:
        super().__init__()
        self.table = LeaseTable(TTL)
        self.model: dict[tuple[str, int], int] = {}
        self.now = 0

    def active(self) -> set[int]:
        return {shard for _, shard in self.model}

    @rule(consumer=consumers, shard=shards)
    def acquire(self, consumer: str, shard: int) -> None:
        new = shard not in self.active()
        self.model[consumer, shard] = self.now + TTL
        assert self.table.acquire(consumer, shard, self.now) is new

    @rule(consumer=consumers, shard=shards)
    def release(self, consumer: str, shard: int) -> None:
        before = self.active()
        self.model.pop((consumer, shard), None)
        assert self.table.release(consumer, shard) is (before != self.active())

    @rule(wait=st.integers(0, 12))
    def time_passes(self, wait: int) -> None:
        self.now += wait
        before = self.active()
        self.model = {key: end for key, end in self.model.items() if end > self.now}
        assert set(self.table.expire(self.now)) == before - self.active()

    @invariant()
    def agrees(self) -> None:
        assert len(self.table) == len(self.model)
        for consumer in ("mapi", "tool", "other"):
            held = sorted(shard for holder, shard in self.model if holder == consumer)
            assert self.table.holds_any(consumer) is bool(held)
            assert [shard for shard in range(4) if self.table.is_held(consumer, shard)] == held
        assert all(self.table.is_active(shard) is (shard in self.active()) for shard in range(4))


TestLeases = LeaseMachine.TestCase


def test_a_time_to_live_is_positive() -> None:
    with pytest.raises(ValueError):
        LeaseTable(0)
