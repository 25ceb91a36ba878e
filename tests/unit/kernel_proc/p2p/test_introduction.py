"""Identify between two hosts: its contents, signatures, and what is stored."""

from __future__ import annotations

from dataclasses import replace

import trio

from kernel_proc.p2p import identify, introduction
from kernel_proc.p2p.api import Stream
from kernel_proc.p2p.introduction import SignedRecord
from kernel_proc.p2p.peer_record import open_envelope, seal
from tests.support.aio import trio_test
from tests.unit.kernel_proc.p2p.support import KEYS, ROOMY, host, until

ONE, TWO = "/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/tcp/2"


def test_a_record_is_signed_once_for_the_same_addresses() -> None:
    clock = iter((1000, 2000, 2000, 500))
    own = SignedRecord(KEYS[0], lambda: next(clock))
    first = own.of([ONE])
    assert first is not None
    assert own.of([ONE]) is first
    moved = own.of([ONE, TWO])
    assert moved is not None
    back, again = own.of([ONE]), own.of([TWO])
    assert back is not None
    assert again is not None
    # It grows with each change: a clock that stands still, or was set back, changes nothing of that.
    assert [record.seq for record in (first, moved, back, again)] == [1000, 2000, 2001, 2002]
    assert open_envelope(moved.envelope).addresses == (ONE, TWO)


def test_a_record_of_no_addresses_is_none() -> None:
    assert SignedRecord(KEYS[0]).of([]) is None


def test_the_sequence_grows_over_restarts() -> None:
    before, after = SignedRecord(KEYS[0]).of([ONE]), SignedRecord(KEYS[0], lambda: 10**15).of([TWO])
    assert before is not None
    assert after is not None
    assert after.seq > before.seq > 1_700_000_000_000


@trio_test()
async def test_a_peer_learns_our_signed_record_and_forgets_it_with_the_connection() -> None:
    async with host() as (far, _), host() as (near, events):
        far.set_announced([ONE])
        peer_id = await near.connect(far.listen_addresses[0])
        await events.wait_for("identified")
        identity = near.identity(peer_id)
        assert identity is not None
        assert identity.record is not None
        assert identity.record == far.own_record()
        assert identity.record.addresses == (ONE,)
        assert near.counters()["peer_records_refused"] == 0
        await near.disconnect(peer_id, "enough")
        assert near.identity(peer_id) is None


@trio_test()
async def test_connected_peers_are_notified_of_new_addresses() -> None:
    async with host() as (far, _), host() as (near, near_events), host() as (third, third_events):
        far.set_announced([ONE])
        for peer, events in ((near, near_events), (third, third_events)):
            await peer.connect(far.listen_addresses[0])
            await events.wait_for("identified")
        await until(
            lambda: far.identity(near.peer_id) is not None and far.identity(third.peer_id) is not None
        )
        far.set_announced([ONE])  # no news
        far.set_announced([ONE, TWO])
        for peer, events in ((near, near_events), (third, third_events)):
            await events.wait_for("identified", 2)
            identity = peer.identity(far.peer_id)
            assert identity is not None
            assert identity.listen_addresses == (ONE, TWO)
            assert identity.record == far.own_record()
            assert events.log.count(("identified", far.peer_id)) == 2


@trio_test()
async def test_an_unresponsive_peer_does_not_delay_the_others() -> None:
    limits = replace(ROOMY, negotiation_timeout=0.2)
    async with host(limits=limits) as (far, _), host() as (near, near_events), host() as (deaf, deaf_events):

        async def hang(stream: Stream) -> None:
            await trio.sleep_forever()

        deaf.set_stream_handler(identify.PUSH_PROTOCOL, hang)
        for peer, events in ((deaf, deaf_events), (near, near_events)):
            await peer.connect(far.listen_addresses[0])
            await events.wait_for("identified")
        await until(lambda: far.identity(near.peer_id) is not None and far.identity(deaf.peer_id) is not None)
        deaf.remove_stream_handler(identify.PUSH_PROTOCOL)  # refuses what it has promised
        far.set_announced([TWO])
        await near_events.wait_for("identified", 2)
        assert far.is_connected(deaf.peer_id)


@trio_test()
async def test_a_host_without_addresses_sends_no_record() -> None:
    async with host() as (far, events), host(listen=()) as (near, _):
        await near.connect(far.listen_addresses[0])
        await events.wait_for("identified")
        identity = far.identity(near.peer_id)
        assert identity is not None
        assert identity.record is None
        assert near.own_record() is None


@trio_test()
async def test_of_two_records_of_a_peer_the_newer_stays() -> None:
    async with host(KEYS[0]) as (far, _), host() as (near, events):
        await far.connect(near.listen_addresses[0])
        await events.wait_for("identified")

        async def push(seq: int | None) -> None:
            record = None if seq is None else seal(KEYS[0], [f"/ip4/192.0.2.1/tcp/{seq % 1000 + 1}"], seq)
            body = identify.encode(
                public_key=b"",
                agent=f"agent {seq}",
                protocols=(),
                listen_addresses=(),
                observed_address=None,
                record=record,
            )
            stream = await far.open_stream(near.peer_id, [identify.PUSH_PROTOCOL])
            await stream.write(body)
            await stream.close()
            await until(
                lambda: (known := near.identity(far.peer_id)) is not None and known.agent[6:] == str(seq)
            )

        def kept() -> int:
            identity = near.identity(far.peer_id)
            assert identity is not None
            assert identity.record is not None
            return identity.record.seq

        newest = 10**15
        for seq, expected in ((newest, newest), (5, newest), (None, newest), (newest + 1, newest + 1)):
            await push(seq)
            assert kept() == expected


def test_the_clock_of_the_sequence_counts_milliseconds() -> None:
    assert 1_700_000_000_000 < introduction._wall_clock_ms() < 10**14
