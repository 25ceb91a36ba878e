"""Addresses of transports that are not spoken here, wherever addresses are read: they are skipped, and the
peer's other address is dialled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import cast

import pytest

from ipc_schema.config.addresses import can_dial
from ipc_schema.config.kernel import KernelConfig, load_kernel_config
from ipc_schema.config.options import ConfigError
from kernel_proc.discovery import enr_values
from kernel_proc.discovery.enr import Enr, sign_record
from kernel_proc.discovery.enr_identity import Identity
from kernel_proc.metrics import Registry
from kernel_proc.p2p import addresses, identify, peer_ids
from kernel_proc.p2p._libp2p import Multiaddr
from kernel_proc.p2p.api import Host
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.peer_record import open_envelope, seal
from kernel_proc.p2p.varint import encode as varint
from kernel_proc.peering.settings import PeeringError, check_announced, operators_peers
from kernel_proc.peers.clock import PeerClock
from kernel_proc.peers.known import KnownPeer
from kernel_proc.peers.manager import PeerManager
from kernel_proc.peers.offers import evaluate
from kernel_proc.peers.plan import Targets
from kernel_proc.peers.settings import ManagerSettings
from kernel_proc.peers.store import PeerStore
from kernel_proc.peers.store_file import save_peers, snapshot
from kernel_proc.relay.rpc import PeerInfo
from tests.unit.kernel_proc.peers.test_manager import FakeHost, View

SECRET = bytes(31) + b"\7"
KEY = NodeKey(SECRET)
PEER = KEY.peer_id
RELAY_PEER = "16Uiu2HAmTUbnxLGT9JvV6mu9oPyDjqHK4Phs1VDJNUgESgNSkuby"
CERTIFICATE = "uEiAkH5a4DPGKUuOBjYw0CgwjvcJCJMD2K_1aluKR_tpevQ"
GOOD = "/ip4/192.0.2.7/tcp/60000"
STRANGE = {
    "quic": "/ip4/192.0.2.7/udp/4001/quic-v1",
    "webtransport": f"/ip4/192.0.2.7/udp/4001/quic-v1/webtransport/certhash/{CERTIFICATE}",
    "webrtc-direct": f"/ip4/192.0.2.7/udp/4001/webrtc-direct/certhash/{CERTIFICATE}",
    "webrtc": f"/ip4/192.0.2.7/tcp/4001/p2p/{RELAY_PEER}/p2p-circuit/webrtc",
    "onion": "/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:1234",
    "unix": "/unix/run/node.sock",
    "http": "/dns4/node.example/tcp/443/tls/http/http-path/waku",
    "memory": "/memory/1",
    "dnsaddr": "/dnsaddr/node.example",
    "zone": "/ip6zone/eth0/ip6/fe80::1/tcp/1",
}
NEWEST = "/ip4/192.0.2.7/tcp/1/newest"
"""Stands for a protocol whose code is in no table yet."""
IN_BINARY = {**STRANGE, "unknown": NEWEST}
Learn = Callable[[Sequence[str]], tuple[str, ...]]


def to_bytes(text: str) -> bytes:
    if text == NEWEST:
        return b"\x04\xc0\x00\x02\x07\x06\x00\x01" + varint(0x0FFF_FFFF)
    return bytes(Multiaddr(text).to_bytes())


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write what no parser of ours would."""
    monkeypatch.setattr(addresses, "to_bytes", to_bytes)
    monkeypatch.setattr(enr_values, "_to_bytes", to_bytes)


def manager(path: Path | None = None) -> PeerManager:
    host = FakeHost()
    store = PeerStore(300, rng=Random(1), keep=lambda _peer: False, own_id="me")
    settings = ManagerSettings(
        targets=Targets(total=50, relay_out=8, relay_in=16, service=25),
        per_group=3,
        loopback=False,
        usable=can_dial,
        path=path,
    )
    clock = PeerClock(lambda: 1_800_000_000.0, lambda: 1.0, "boot")
    return PeerManager(cast("Host", host), store, settings, View(), Registry(""), Random(2), clock=clock)


def learned(read: Sequence[str]) -> tuple[str, ...]:
    """What the manager would dial of what was read."""
    made = manager()
    made.learn(PEER, read, "test")
    known = made.store.get(PEER)
    return known.addresses if known else ()


def by_identify(strange: str) -> Sequence[str]:
    key = KEY.libp2p_key_pair().public_key.serialize()
    message = identify.encode(
        public_key=key,
        agent="a",
        protocols=("/p/1",),
        listen_addresses=(strange, GOOD),
        observed_address=strange,
    )
    prefix = next(at for at, byte in enumerate(message) if byte < 0x80) + 1
    read = identify.decode(PEER, message[prefix:])
    assert read.protocols == ("/p/1",)
    return read.listen_addresses


def by_peer_record(strange: str) -> Sequence[str]:
    return open_envelope(seal(KEY, (strange, GOOD), 1).envelope).addresses


def by_prune(strange: str) -> Sequence[str]:
    info = PeerInfo(peer_ids.to_bytes(PEER), seal(KEY, (strange, GOOD), 1).envelope)
    found = evaluate(info, lambda _peer: False, lambda: True).record
    assert found is not None
    return found.addresses


def by_node_record(strange: str) -> Sequence[str]:
    """As discv5, lists in the DNS, peer exchange and configured records carry it."""
    listed = enr_values.encode_multiaddrs((strange, GOOD), 300, PEER)
    record = sign_record(Identity(SECRET), 1, {b"multiaddrs": listed})
    return Enr.from_bytes(record.raw).addresses


@pytest.mark.usefixtures("raw")
@pytest.mark.parametrize("strange", IN_BINARY.values(), ids=IN_BINARY)
@pytest.mark.parametrize("reader", [by_identify, by_peer_record, by_prune, by_node_record])
def test_what_a_peer_sends(reader: Callable[[str], Sequence[str]], strange: str) -> None:
    assert learned(reader(strange)) == (f"{GOOD}/p2p/{PEER}",)


@pytest.mark.parametrize("strange", IN_BINARY.values(), ids=IN_BINARY)
def test_what_is_in_the_peer_store(strange: str, tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    there = KnownPeer(PEER, (f"{strange}/p2p/{PEER}", f"{GOOD}/p2p/{PEER}"))
    clock = PeerClock(lambda: 1_800_000_000.0, lambda: 1.0, "boot")
    save_peers(path, snapshot([there, KnownPeer("other", (strange,))]), clock.stamp())
    made = manager(path)
    made.restore()
    assert {peer.peer_id: peer.addresses for peer in made.store} == {PEER: (f"{GOOD}/p2p/{PEER}",)}


@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("option", ["staticnode", "entry-node", "storenode", "filternode", "lightpushnode"])
def test_what_the_operator_configures(option: str, strange: str) -> None:
    named = f"{strange}/p2p/{PEER}"
    several = option in ("staticnode", "entry-node")
    value = [named, f"{GOOD}/p2p/{PEER}"] if several else named
    config = load_kernel_config(flags={option: value})
    assert configured(config) == ([f"{GOOD}/p2p/{PEER}"] if several else [])
    (line,) = [one for one in config.warnings if option in one]
    assert line.startswith(f"{option} is skipped: ")
    assert "is not spoken here" in line


def configured(config: KernelConfig) -> list[str]:
    return [*config.static_nodes, *config.entry_nodes, *config.services.nodes]


def test_a_typing_error_is_still_one() -> None:
    with pytest.raises(ConfigError, match="cannot dial /newest over tcp"):
        load_kernel_config(flags={"staticnode": [NEWEST]})


def test_other_transports_may_be_announced_if_they_have_a_binary_form() -> None:
    config = load_kernel_config(flags={"ext-multiaddr": [STRANGE["quic"]]})
    assert config.discovery.external_addresses == (STRANGE["quic"],)
    check_announced(config.discovery.external_addresses)
    with pytest.raises(PeeringError, match=r"ext-multiaddr: .* is not a multiaddr"):
        check_announced(["/ip4/192.0.2.7/udp/port/quic-v1"])


def test_a_static_node_behind_a_relay_is_dialled_through_it() -> None:
    behind = f"{GOOD}/p2p/{RELAY_PEER}/p2p-circuit/p2p/{PEER}"
    config = load_kernel_config(flags={"staticnode": [behind]})
    assert config.static_nodes == (behind,)
    assert operators_peers(config) == {PEER, RELAY_PEER}
    assert not any("staticnode" in warning for warning in config.warnings)
    nowhere = f"{GOOD}/p2p-circuit/p2p/{PEER}"  # without the relay's peer id
    config = load_kernel_config(flags={"staticnode": [nowhere]})
    assert config.static_nodes == ()
    assert any(warning.startswith("staticnode is skipped") for warning in config.warnings)
