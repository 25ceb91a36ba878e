"""Lists of peers fit a reply, whatever the peers say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.frames import encode_reply
from ipc_schema.kernel.discovery import KnownPeersReply, KnownRecord
from ipc_schema.kernel.methods import LeaseAcquireReply, PeersListReply
from ipc_schema.kernel.records import PeerRecord
from ipc_schema.streams import StreamState
from kernel_proc.ipc.methods.fitting import PROTOCOL_BYTES, fitting, fitting_states

LONG = tuple(f"/{number:0254}/" for number in range(512))
"""More than identify lets through (64 KiB)."""


def test_peers_with_long_lists_do_not_make_the_list_unsendable() -> None:
    """A score of such peers was enough for `peers.list` to be answered too_large, for everybody."""
    peers = [PeerRecord(peer_id=f"p{number}", protocols=LONG) for number in range(150)]
    fitted = fitting(peers)
    encode_reply(bytes(16), bytes(16), PeersListReply(peers=fitted, total=150).to_body())
    assert [peer.peer_id for peer in fitted] == [peer.peer_id for peer in peers]
    assert all(0 < sum(map(len, peer.protocols)) <= PROTOCOL_BYTES for peer in fitted)


def test_what_does_not_fit_is_left_out_from_the_end() -> None:
    peers = [
        KnownRecord(peer_id=f"p{number}", addresses=("/dns4/" + "x" * 3000,) * 2, enr="e" * 400)
        for number in range(500)
    ]
    fitted = fitting(peers)
    encode_reply(bytes(16), bytes(16), KnownPeersReply(total=500, peers=fitted).to_body())
    assert 100 < len(fitted) < 500
    assert list(fitted) == peers[: len(fitted)]


@given(
    st.lists(st.builds(PeerRecord, peer_id=st.text(max_size=60), protocols=st.tuples(st.text(max_size=40))))
)
def test_usual_protocol_lists_are_not_truncated(peers: list[PeerRecord]) -> None:
    assert fitting(peers) == tuple(peers)


def test_streams_with_long_coverage_fit_by_their_newest_intervals() -> None:
    coverage = tuple((1 << 60, (1 << 60) + number) for number in range(256))
    states = [
        StreamState(
            stream=f"m/65535/{shard}",
            shard=shard,
            epoch=bytes(8),
            first=1 << 60,
            last=1 << 60,
            coverage=coverage,
        )
        for shard in range(1024)
    ]
    shown = fitting_states(states)
    assert len(shown) == 1024
    encode_reply(bytes(16), bytes(16), LeaseAcquireReply(leases=shown, ttl_ms=1).to_body())
    assert all(state.coverage == coverage[-len(state.coverage) :] and state.coverage for state in shown)
    assert fitting_states(states[:100]) == tuple(states[:100])
    many = fitting_states(states * 64)
    encode_reply(bytes(16), bytes(16), LeaseAcquireReply(leases=many, ttl_ms=1).to_body())
    assert len(many) > 4096
