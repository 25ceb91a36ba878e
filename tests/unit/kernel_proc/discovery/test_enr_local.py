"""Our own record: current, with a sequence number that goes on."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kernel_proc.discovery.enr import Enr
from kernel_proc.discovery.enr_identity import Identity
from kernel_proc.discovery.enr_local import LocalEnr, split_addresses
from kernel_proc.discovery.enr_values import Capability

ME = Identity(random.Random(1).randbytes(32))
NOW_MS = 1_700_000_000_000


def local(path: Path | None = None, now_ms: int = NOW_MS, identity: Identity = ME) -> LocalEnr:
    made = LocalEnr(identity, path, now_ms=now_ms)
    made.set_capabilities(Capability.RELAY | Capability.LIGHTPUSH)
    made.set_shards(1, [0, 3])
    made.set_addresses(["/ip4/192.0.2.7/tcp/60000"])
    made.set_udp(udp4=9000, udp6=None)
    return made


def test_the_first_record() -> None:
    record = Enr.from_text(local().record.text)
    assert record.seq == NOW_MS
    assert record.capabilities == Capability.RELAY | Capability.LIGHTPUSH
    assert record.shards is not None
    assert record.shards.shards == {0, 3}
    assert (record.ip4, record.tcp4, record.udp4) == ("192.0.2.7", 60000, 9000)
    assert record.peer_id == ME.peer_id


def test_each_change_increments_seq_and_notifies() -> None:
    mine = local()
    notified: list[Enr] = []
    before = mine.record.seq
    mine.add_listener(notified.append)
    mine.set_shards(1, [0, 3])  # no change
    assert notified == []
    mine.set_shards(1, [0, 3, 4])
    mine.set_udp(udp4=9001, udp6=None)
    mine.set_udp(udp4=9001, udp6=9002)
    mine.set_udp(udp4=9001, udp6=None)
    assert [record.seq - before for record in notified] == [1, 2, 3, 4]
    assert notified[-1] == mine.record
    assert mine.record.udp4 == 9001
    assert b"udp6" not in mine.record.pairs


def test_a_batch_is_one_record() -> None:
    mine = local()
    notified: list[Enr] = []
    before = mine.record
    mine.add_listener(notified.append)
    with mine.batch():
        mine.set_udp(udp4=9001, udp6=None)
        mine.set_shards(2, [])
        assert mine.record == before
    assert notified == [mine.record]
    assert mine.record.shards is None
    with mine.batch():
        mine.set_udp(udp4=9002, udp6=None)
        mine.set_udp(udp4=9001, udp6=None)
    assert len(notified) == 1


def test_many_shards_change_the_form() -> None:
    mine = local()
    mine.set_shards(5, range(64))
    assert b"rs" not in mine.record.pairs
    assert mine.record.shards is not None
    assert mine.record.shards.shards == set(range(64))
    mine.set_shards(5, range(63))
    assert b"rsv" not in mine.record.pairs


# --- restarts ---------------------------------------------------------------------------------------------


def test_the_sequence_number_goes_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "enr"
    first = local(path).record
    # The clock was set back meanwhile; the file is what counts.
    same = local(path, now_ms=5)
    assert same.record == first
    same.set_udp(udp4=9009, udp6=None)
    assert same.record.seq == first.seq + 1
    third = local(path, now_ms=5)
    assert third.record.seq == first.seq + 2


@pytest.mark.parametrize("damage", [b"", b"enr:", b"\xff\xfe\x00", b"x" * 5000])
def test_a_damaged_file_starts_from_the_clock(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "enr"
    local(path).record  # noqa: B018
    path.write_bytes(damage)
    assert local(path, now_ms=NOW_MS + 60_000).record.seq == NOW_MS + 60_000


def test_the_record_of_another_key_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "enr"
    local(path, now_ms=NOW_MS + 60_000, identity=Identity(random.Random(2).randbytes(32))).record  # noqa: B018
    assert local(path).record.seq == NOW_MS


def test_a_disk_that_refuses_costs_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = local(tmp_path / "missing" / "enr")
    assert mine.record.seq == NOW_MS
    assert "cannot store" in caplog.text


# --- addresses --------------------------------------------------------------------------------------------


def test_addresses_of_the_host_find_their_places() -> None:
    mine = local()
    mine.set_addresses(
        [
            f"/ip4/192.0.2.8/tcp/60001/p2p/{ME.peer_id}",
            "/ip4/192.0.2.9/tcp/60002",
            "/ip6/2001:db8::1/tcp/60003",
            "/dns4/node.example.org/tcp/8000/wss",
            "/ip4/0.0.0.0/tcp/60004",
            "/ip4/192.0.2.8/tcp/0",
        ]
    )
    record = mine.record
    assert (record.ip4, record.tcp4, record.udp4) == ("192.0.2.8", 60001, 9000)
    assert (record.ip6, record.tcp6) == ("2001:db8::1", 60003)
    assert [address.rpartition("/p2p/")[0] for address in record.addresses] == [
        "/ip4/192.0.2.9/tcp/60002",
        "/dns4/node.example.org/tcp/8000/wss",
        "/ip4/192.0.2.8/tcp/60001",
        "/ip6/2001:db8::1/tcp/60003",
    ]
    mine.set_addresses([])
    assert (mine.record.ip4, mine.record.tcp4, mine.record.udp4) == ("192.0.2.8", None, 9000)
    assert mine.record.addresses == ()


def test_circuit_addresses_are_not_plain() -> None:
    plain, rest = split_addresses(["/ip4/192.0.2.8/tcp/1/p2p/16Uiu2HAx/p2p-circuit"])
    assert plain == {}
    assert len(rest) == 1


def test_addresses_that_do_not_fit_are_dropped_from_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    mine = local()
    names = [f"/dns4/{'x' * 40}-{number}.example.org/tcp/8000/wss" for number in range(9)]
    mine.set_addresses(names)
    kept = [address.rpartition("/p2p/")[0] for address in mine.record.addresses]
    assert 0 < len(kept) < len(names)
    assert kept == names[: len(kept)]
    assert f"{len(names) - len(kept)} addresses did not fit" in caplog.text
    # More shards take more room, and less of it gives room back.
    mine.set_shards(1, range(40))
    assert len(mine.record.addresses) < len(kept)
    mine.set_shards(1, [0])
    assert [address.rpartition("/p2p/")[0] for address in mine.record.addresses] == kept


def test_what_cannot_be_written_changes_nothing() -> None:
    mine = local()
    before = mine.record
    with pytest.raises(ValueError):
        mine.set_addresses(["/ip4/192.0.2.9/tcp/60002", "/nonsense/1"])
    with pytest.raises(ValueError):
        mine.set_addresses(["/ip4/192.0.2.8/tcp/70000"])
    with pytest.raises(ValueError):
        mine.set_shards(1, [5000])
    assert mine.record == before
    mine.set_udp(udp4=9000, udp6=None)
    assert mine.record == before
