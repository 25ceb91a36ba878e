"""Waiting after failures: it grows, ends at the cap, and never overflows, however often something failed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.backoff import retry_delay
from ipc_schema.kernel.records import PeerRecord
from mapi_proc.peers import STORE, ServicePeers
from mapi_proc.send.task import backoff


@given(failures=st.integers(0, 10**9), factor=st.floats(1.0, 4.0))
def test_it_grows_to_the_cap_and_no_further(failures: int, factor: float) -> None:
    delay = retry_delay(failures, 2.0, factor, 60.0)
    assert 2.0 <= delay <= 60.0
    assert delay <= retry_delay(failures + 1, 2.0, factor, 60.0)


def test_a_service_peer_may_fail_for_days() -> None:
    peers = ServicePeers(lambda: 0.0, lambda: 0.5)
    peers.update([PeerRecord(peer_id="store", protocols=STORE)])
    for _ in range(5000):
        peers.failed(STORE, "store")
    assert peers.choose(STORE, 0, 1) == ["store"], "it is never given up"


def test_a_send_with_a_long_window_may_be_tried_for_days() -> None:
    assert backoff(10**6, 0.5) == backoff(100, 0.5)
