from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.p2p.api import PeerIdText, Stream, StreamClosed
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.identify import PROTOCOL as IDENTIFY
from kernel_proc.protocols.framing import MessageReader, encode_frame
from kernel_proc.protocols.metadata import (
    PROTOCOL,
    Metadata,
    MetadataError,
    MetadataProtocol,
    decode,
    encode,
)
from tests.support.aio import trio_test
from tests.unit.kernel_proc.p2p.support import Recorder, echo, host, until

VECTORS = [
    vector
    for vector in json.loads((Path(__file__).parents[1] / "vectors" / "nwaku.json").read_text())
    if vector["protocol"] == "metadata"
]


# --- codec ---


def test_every_frame_seen_with_nwaku_decodes() -> None:
    assert len(VECTORS) == 8
    for vector in VECTORS:
        frame = bytes.fromhex(vector["hex"])
        assert frame[0] == len(frame) - 1
        assert decode(frame[1:]) == Metadata(42, (0,)), vector


def test_ours_is_what_nwaku_writes_byte_for_byte() -> None:
    (written,) = {vector["hex"] for vector in VECTORS if vector["direction"].startswith("nwaku->py")}
    assert encode_frame(encode(Metadata(42, (0,)))).hex() == written


@pytest.mark.parametrize(
    ("hexed", "form"),
    [
        ("08011001100210ac02", "field 2 unpacked (66/WAKU2-METADATA, nwaku)"),
        ("080112040102ac02", "field 2 packed (js-waku)"),
        ("08011a040102ac02", "field 3 packed (go-waku)"),
        ("08011801180218ac02", "field 3 unpacked"),
        ("080110091a040102ac02", "field 3 wins over field 2"),
        ("08071a0401020102080110051a02ac02", "repeated packed fields add up, the last cluster wins"),
    ],
)
def test_all_forms_of_shards_are_read(hexed: str, form: str) -> None:
    assert decode(bytes.fromhex(hexed)) == Metadata(1, (1, 2, 300)), form


def test_shards_are_written_unpacked_in_field_2_and_packed_in_field_3() -> None:
    assert encode(Metadata(16, (1, 300))).hex() == "0810" + "1001" + "10ac02" + "1a03" + "01ac02"
    assert encode(Metadata(16, ())).hex() == "0810"
    assert encode(Metadata(0, ())).hex() == "0800"
    assert encode(Metadata(None, ())) == b""


def test_too_many_shards_are_nonsense() -> None:
    with pytest.raises(MetadataError, match="1025 shards"):
        decode(encode(Metadata(1, tuple(range(1025)))))


@given(
    st.builds(
        Metadata, st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2**32 - 1), unique=True).map(tuple)
    )
)
def test_messages_round_trip(metadata: Metadata) -> None:
    assert decode(encode(metadata)) == metadata


@given(st.binary(max_size=100))
def test_any_bytes_are_metadata_or_an_error(body: bytes) -> None:
    try:
        decode(body)
    except MetadataError:
        return


# --- both sides on real hosts ---


@asynccontextmanager
async def node(
    cluster: int,
    shards: Sequence[int] = (),
    *,
    timeout: float = 5.0,
    settle: float = 0.0,
    patience: float = 2.0,
    foreign: dict[str, str] | None = None,
) -> AsyncIterator[tuple[Libp2pHost, Recorder, MetadataProtocol, list[tuple[PeerIdText, Metadata]]]]:
    learned: list[tuple[PeerIdText, Metadata]] = []
    async with host() as (running, events), trio.open_nursery() as nursery:
        protocol = MetadataProtocol(
            running,
            cluster=cluster,
            shards=lambda: shards,
            learned=lambda peer_id, metadata: learned.append((peer_id, metadata)),
            other_network=({} if foreign is None else foreign).__setitem__,
            timeout=timeout,
            settle=settle,
            patience=patience,
        )
        nursery.start_soon(protocol.run)
        yield running, events, protocol, learned
        nursery.cancel_scope.cancel()


@trio_test()
async def test_two_nodes_of_one_cluster_learn_each_others_shards() -> None:
    async with node(42, [3, 1]) as (one, _, one_md, learned), node(42, [5]) as (two, _, two_md, _):
        await two.connect(one.listen_addresses[0])
        await until(lambda: one_md.peer_shards(two.peer_id) is not None)
        await until(lambda: two_md.peer_shards(one.peer_id) is not None)
        assert two_md.peer_shards(one.peer_id) == (1, 3)
        assert one_md.peer_shards(two.peer_id) == (5,)
        assert set(learned) == {(two.peer_id, Metadata(42, (5,)))}
        await until(lambda: one_md.counters()["answered"] == two_md.counters()["answered"] == 1)
        assert one.is_connected(two.peer_id)
        await one.disconnect(two.peer_id, "done")
        assert one_md.peer_shards(two.peer_id) is None


@trio_test()
async def test_shards_are_asked_for_at_each_answer() -> None:
    shards = [1]
    async with node(42, shards) as (one, _, _, _), host() as (two, _):
        peer_id = await two.connect(one.listen_addresses[0])
        two.set_stream_handler(PROTOCOL, _answer(b"\x02\x08\x2a"))
        assert await ask(two, peer_id) == Metadata(42, (1,))
        shards.append(7)
        assert await ask(two, peer_id) == Metadata(42, (1, 7))


@trio_test()
async def test_of_two_clusters_both_know_whichever_disconnects_first() -> None:
    foreign: dict[str, str] = {}
    async with (
        node(1, foreign=foreign) as (one, one_events, one_md, learned),
        node(2, foreign=foreign) as (two, two_events, two_md, _),
    ):
        await two.connect(one.listen_addresses[0])
        await one_events.wait_for("disconnected")
        await two_events.wait_for("disconnected")
        reasons = one_events.reasons + two_events.reasons
        assert any(reason.startswith("metadata: peer is in cluster") for reason in reasons), reasons
        assert foreign == {
            two.peer_id: "metadata: peer is in cluster 2, ours is 1",
            one.peer_id: "metadata: peer is in cluster 1, ours is 2",
        }
        assert one_md.counters()["other_cluster"] + two_md.counters()["other_cluster"] >= 1
        assert learned == []


def _answer(reply: bytes | None):  # type: ignore[no-untyped-def]
    async def handler(stream: Stream) -> None:
        if reply is None:
            await trio.sleep_forever()
        await stream.read()
        await stream.write(reply or b"")

    return handler


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"\x00", "reports no cluster"),
        (b"\x02\x08\x05", "is in cluster 5"),
        (b"\x02\xff\xff", "varint"),
        (b"", "without a response"),
        (b"\xff\xff\xff\xff\x0f", "maximum of 16384"),
        (b"\x05\x08", "middle of a message"),
        (None, "no response within"),
    ],
)
@trio_test()
async def test_a_bad_answer_or_none_is_a_disconnect_with_the_reason(reply: bytes | None, reason: str) -> None:
    async with host() as (two, _):
        two.set_stream_handler(PROTOCOL, _answer(reply))
        async with node(42, timeout=0.5) as (one, events, _, _):
            await one.connect(two.listen_addresses[0])
            await events.wait_for("disconnected")
            assert reason in events.reasons[0]


@trio_test()
async def test_a_peer_without_the_protocol_is_disconnected() -> None:
    async with node(42) as (one, events, metadata, _), host() as (two, _):
        await two.connect(one.listen_addresses[0])
        await events.wait_for("disconnected")
        assert PROTOCOL in events.reasons[0]
        assert metadata.counters()["failed"] == 1


async def ask(near: Libp2pHost, peer_id: PeerIdText, request: bytes = b"\x08\x2a") -> Metadata:
    stream = await near.open_stream(peer_id, [PROTOCOL])
    await stream.write(encode_frame(request))
    await stream.close()
    body = await MessageReader(stream, 1000).read()
    assert body is not None
    return decode(body)


@trio_test()
async def test_an_answer_waits_until_the_asker_has_put_us_into_its_books() -> None:
    async with host() as (two, _), node(42, settle=0.3) as (one, events, _, _):
        two.set_stream_handler(PROTOCOL, _answer(b"\x02\x08\x2a"))
        peer_id = await two.connect(one.listen_addresses[0])
        await until(lambda: bool(one.connections()))
        since = one.connections()[0].since
        await ask(two, peer_id)
        assert trio.current_time() - since >= 0.3
        assert ("identified", two.peer_id) in events.log


@trio_test()
async def test_a_peer_that_is_never_identified_is_answered_all_the_same_but_late() -> None:
    async with host() as (two, _), node(42, patience=0.4) as (one, _, _, _):
        two.set_stream_handler(PROTOCOL, _answer(b"\x02\x08\x2a"))
        two.remove_stream_handler(IDENTIFY)
        peer_id = await two.connect(one.listen_addresses[0])
        started = trio.current_time()
        assert await ask(two, peer_id) == Metadata(42, ())
        assert trio.current_time() - started >= 0.4


@trio_test()
async def test_bad_requests_cost_their_stream_and_are_counted() -> None:
    async with host() as (two, _), node(42) as (one, _, metadata, _):
        two.set_stream_handler(PROTOCOL, _answer(b"\x02\x08\x2a"))
        peer_id = await two.connect(one.listen_addresses[0])
        for junk in (b"\xff" * 20, b"\x02\xff\xff"):
            stream = await two.open_stream(peer_id, [PROTOCOL])
            with pytest.raises(StreamClosed):  # noqa: PT012 - whether the write or the read fails is open
                await stream.write(junk)
                await stream.read()
        assert metadata.counters()["bad_messages"] == 2
        assert one.counters()["handler_errors"] == 0
        assert await ask(two, peer_id) == Metadata(42, ())


@trio_test()
async def test_a_request_that_does_not_come_to_its_end_costs_its_stream_and_is_counted() -> None:
    async with host() as (two, _), node(42, timeout=0.3) as (one, _, metadata, _):
        two.set_stream_handler(PROTOCOL, _answer(b"\x02\x08\x2a"))
        peer_id = await two.connect(one.listen_addresses[0])
        stream = await two.open_stream(peer_id, [PROTOCOL])
        await stream.write(b"\x05\x08")
        with pytest.raises(StreamClosed):
            await stream.read()
        assert metadata.counters()["stalled"] == 1
        assert await ask(two, peer_id) == Metadata(42, ())


@trio_test()
async def test_peers_that_were_there_before_are_asked_too() -> None:
    async with host() as (one, _), node(42, [9]) as (two, _, _, _):
        one.set_stream_handler("/echo", echo)
        metadata = MetadataProtocol(one, cluster=42, shards=lambda: (), settle=0.0)
        await one.connect(two.listen_addresses[0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(metadata.run)
            await until(lambda: metadata.peer_shards(two.peer_id) == (9,))
            nursery.cancel_scope.cancel()
