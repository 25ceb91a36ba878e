"""The kernel's configuration."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from typing import Any

import pytest

from ipc_schema.config.addresses import is_multiaddr
from ipc_schema.config.kernel import KERNEL_SCHEMA, KernelConfig, load_kernel_config
from ipc_schema.config.options import ConfigError
from ipc_schema.config.presets import PRESETS
from ipc_schema.config.sources import parse_toml
from ipc_schema.hello import NetworkInfo

KEY = "02" + "ab" * 32


def config(**flags: object) -> KernelConfig:
    return load_kernel_config(flags={name.replace("_", "-"): value for name, value in flags.items()})


def refused(**flags: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config(**flags)
    return caught.value


def test_without_a_preset_it_is_a_local_network() -> None:
    kernel = config()
    assert kernel.network == NetworkInfo(
        cluster=0, shard_count=1, max_message_size=153_600, preset="", rln_required=False
    )
    assert kernel.listen_address == "127.0.0.1"
    assert kernel.entry_nodes == kernel.static_nodes == ()
    assert kernel.shards == ()
    assert (kernel.tcp_port, kernel.websocket_port) == (60000, None)
    assert kernel.peers.relay
    assert kernel.peers.nodekey is None
    assert kernel.sockets.lease_ttl == 60.0
    assert kernel.sockets.replay_budget == 64 * 1024 * 1024
    assert kernel.ipc_dir == "data/run"
    assert kernel.warnings == ()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_the_network_and_listens_to_the_world(name: str) -> None:
    kernel = config(preset=name)
    assert kernel.network == PRESETS[name].network
    assert kernel.listen_address == "0.0.0.0"
    assert kernel.entry_nodes == tuple(filter(is_multiaddr, PRESETS[name].entry_nodes))
    assert kernel.resolved.source_of("cluster-id").source() == f"preset {name}"


def test_a_preset_may_stand_in_any_source_under_any_name() -> None:
    file = parse_toml('[kernel]\npreset = "logosdev"', "f")
    assert load_kernel_config(file=file).network.cluster == 3
    environ = {"LOGOS_KERNEL_PRESET": "status.prod"}
    assert load_kernel_config(file=file, environ=environ).network.max_message_size == 1_048_576
    assert load_kernel_config(file=file, environ=environ, flags={"preset": ""}).network.cluster == 0


def test_explicit_values_beat_the_preset_and_are_warned_about() -> None:
    own = "/ip4/127.0.0.1/tcp/5"
    kernel = config(preset="logos.test", cluster_id=42, listen_address="127.0.0.1", entry_node=[own])
    assert kernel.network == dataclasses.replace(PRESETS["logos.test"].network, cluster=42)
    assert kernel.listen_address == "127.0.0.1"
    assert kernel.entry_nodes == (*PRESETS["logos.test"].entry_nodes, own)
    assert kernel.warnings == ("cluster-id 42 (flag --cluster-id) overrides 2 of the preset logos.test",)


def test_relay_peer_exchange_is_off_unless_asked_for_and_needs_relay() -> None:
    assert not config().peers.relay_peer_exchange
    assert config(relay_peer_exchange=True).peers.relay_peer_exchange
    assert config(relay=False, relay_peer_exchange=True).warnings == (
        "relay-peer-exchange has no effect: relay is off",
    )


def test_a_preset_brings_its_discovery() -> None:
    status = config(preset="status.prod")
    assert len(status.discovery.dns_trees) == 1
    assert status.discovery.discv5
    assert config(preset="twn").discovery.dns_trees == PRESETS["twn"].entry_nodes[:1]


@pytest.mark.parametrize("named", [{"cluster_id": 9}, {"entry_node": ["/ip4/192.0.2.1/tcp/5"]}])
def test_a_network_named_without_a_preset_is_joined_as_one_with_a_preset(named: dict[str, object]) -> None:
    kernel = config(**named)
    assert kernel.listen_address == "0.0.0.0"
    assert kernel.discovery.discv5
    assert kernel.discovery.peer_exchange
    assert kernel.resolved.source_of("listen-address").source().startswith("default with ")
    local = config(**named, listen_address="127.0.0.1")
    assert not local.discovery.discv5
    assert not local.discovery.peer_exchange
    assert not config(**named, discv5_discovery=False).discovery.discv5
    assert config(**named, listen_address="192.0.2.9").listen_address == "192.0.2.9"
    alone = config()
    assert (alone.listen_address, alone.discovery.discv5) == ("127.0.0.1", False)


def test_twn_needs_proofs() -> None:
    kernel = config(preset="twn")
    assert kernel.network.rln_required
    assert any("RLN" in warning for warning in kernel.warnings)
    assert any("RLN" in warning for warning in config(cluster_id=1).warnings)
    assert not config(cluster_id=1).network.rln_required


def test_ports_are_shifted_but_automatic_ones_stay() -> None:
    kernel = config(ports_shift=3, websocket_support=True)
    assert (kernel.tcp_port, kernel.websocket_port) == (60003, 8003)
    kernel = config(ports_shift=3, tcp_port=0, websocket_support=True, websocket_port=0)
    assert (kernel.tcp_port, kernel.websocket_port) == (0, 0)
    error = refused(ports_shift=6000)
    assert error.key == "ports-shift"
    assert "tcp-port" in str(error)


def test_port_clashes_are_refused_naming_both() -> None:
    error = refused(tcp_port=9000, websocket_support=True, websocket_port=9000)
    assert error.key == "websocket-port"
    assert "tcp-port" in str(error)
    assert config(tcp_port=9000, websocket_port=9000).warnings == (
        "websocket-port has no effect: websocket-support is off",
    )
    error = refused(tcp_port=9000, ipc_requests="tcp://127.0.0.1:9000")
    assert error.key == "ipc-requests"
    assert "tcp-port" in str(error)


def test_a_secure_websocket_needs_its_files() -> None:
    paths = {"websocket_secure_cert_path": "/c/chain.pem", "websocket_secure_key_path": "/c/key.pem"}
    kernel = config(websocket_support=True, websocket_secure_support=True, **paths)
    assert kernel.websocket_tls == ("/c/chain.pem", "/c/key.pem")
    error = refused(websocket_support=True, websocket_secure_support=True)
    assert error.key == "websocket-secure-support"
    assert "websocket-secure-key-path" in str(error)
    assert config(websocket_secure_support=True).warnings == (
        "websocket-secure-support has no effect: websocket-support is off",
    )
    plain = config(websocket_support=True, **paths)
    assert plain.websocket_tls is None
    assert plain.warnings == (
        "websocket-secure-key-path has no effect: websocket-secure-support is off",
        "websocket-secure-cert-path has no effect: websocket-secure-support is off",
    )


def test_one_address_stands_for_both_ip_versions() -> None:
    assert config(listen_address="::").listen_hosts == ("0.0.0.0", "::")
    assert config(listen_address="::1").listen_hosts == ("::1",)


def test_endpoints_fit_and_differ() -> None:
    kernel = config(data_dir="/d", ipc_control="tcp://127.0.0.1:7001")
    assert kernel.endpoints == (
        "ipc:///d/run/kernel/events",
        "ipc:///d/run/kernel/requests",
        "tcp://127.0.0.1:7001",
    )
    error = refused(data_dir="/" + "d" * 90)
    assert error.key == "ipc-dir"
    assert "107" in str(error)
    error = refused(ipc_requests="ipc:///tmp/a", ipc_control="ipc:///tmp/a")
    assert error.key == "ipc-control"
    assert "ipc-requests" in str(error)


@pytest.mark.parametrize(
    ("flags", "key", "text"),
    [
        ({"shard": [8], "num_shards_in_network": 8}, "shard", "the network has 8"),
        ({"shard": ["0"], "relay": False}, "shard", "needs relay"),
        ({"protected_shard": [f"1:{KEY}"]}, "protected-shard", "the network has 1"),
        ({"protected_shard": [f"0:{KEY}", f"0:03{KEY[2:]}"]}, "protected-shard", "two keys"),
        ({"num_shards_in_network": 1025}, "num-shards-in-network", "1024"),
        ({"cluster_id": 65536}, "cluster-id", "65535"),
        ({"max_msg_size": "150iB"}, "max-msg-size", "150KiB"),
        ({"max_msg_size": "1B"}, "max-msg-size", "1KiB"),
        ({"entry_node": ["enrtree://a@b"]}, "entry-node", "base32"),
        ({"discv5_bootstrap_node": ["enr:short"]}, "discv5-bootstrap-node", "node record"),
        ({"nat": "pcp"}, "nat", "upnp, pmp"),
        ({"relay_service_ratio": "50:60"}, "relay-service-ratio", "percent"),
        ({"dns_addrs_name_server": ["dns.example"]}, "dns-addrs-name-server", "IP address"),
        ({"dns4_domain_name": "a b"}, "dns4-domain-name", "domain"),
        ({"ext_multiaddr_only": True}, "ext-multiaddr-only", "no ext-multiaddr"),
        ({"preset": "nope"}, "preset", "twn"),
        ({"mode": "core"}, "mode", "no such option"),
        ({"rest": True}, "rest", "no such option"),
        ({"tcp_prot": 1}, "tcp-prot", "did you mean tcp-port?"),
        ({"ipc_group": "a b"}, "ipc-group", "group"),
    ],
)
def test_refusals_name_the_key(flags: dict[str, object], key: str, text: str) -> None:
    error = refused(**flags)
    assert error.key == key
    assert text in str(error)


@pytest.mark.parametrize(
    ("total", "ratio", "ways"),
    [
        (14, "50:50", "raise max-connections to 15 or relay-service-ratio to 51:49, or turn relay off"),
        (150, "4:96", "raise max-connections to 176 or relay-service-ratio to 5:95,"),
        (8, "50:50", "raise max-connections to 15 or relay-service-ratio to 88:12,"),
        (7, "100:0", "raise max-connections to 8, or"),
        (7, "0:100", "raise max-connections to 8 and relay-service-ratio to 100:0, or"),
        (150, "0:100", "raise relay-service-ratio to 5:95, or"),
    ],
)
def test_relay_without_room_for_a_mesh_is_refused(total: int, ratio: str, ways: str) -> None:
    error = refused(max_connections=total, relay_service_ratio=ratio)
    assert error.key == "max-connections"
    assert ways in str(error)
    for option, value in re.findall(r"(max-connections|relay-service-ratio) to (\S+?)[, ]", str(error)):
        given = {"max_connections": total, "relay_service_ratio": ratio}
        if " and " in ways:
            given = {"max_connections": 8, "relay_service_ratio": "100:0"}
        given[option.replace("-", "_")] = value
        assert config(**given).discovery.relay_connections == 8
    off = config(relay=False, max_connections=total, relay_service_ratio=ratio)
    assert off.peers.max_connections == total


def test_static_sharding_knows_any_shard() -> None:
    kernel = config(num_shards_in_network=0, shard=[1, "64", 1023], protected_shard=[f"64:{KEY}"])
    assert kernel.network.shard_count == 0
    assert kernel.shards == (1, 64, 1023)
    assert kernel.protected_shards[0].public_key.hex() == KEY


def test_a_node_of_a_known_network_carries_every_shard_unless_it_names_some() -> None:
    assert config(preset="logos.test").shards == tuple(range(8))
    assert config(preset="logos.test", num_shards_in_network=3).shards == (0, 1, 2)
    assert config(preset="logos.test", shard=[5]).shards == (5,)
    assert config(preset="logos.test", shard="none").shards == ()
    assert config(preset="logos.test", relay=False).shards == ()
    assert config(preset="logos.test", num_shards_in_network=0).shards == ()
    assert config(num_shards_in_network=8).shards == ()


def test_all_and_none_stand_for_every_shard_and_for_no_shard() -> None:
    assert config(num_shards_in_network=8, shard="all").shards == tuple(range(8))
    assert config(num_shards_in_network=8, shard=["ALL"]).shards == tuple(range(8))
    assert config(num_shards_in_network=8, shard="None").shards == ()
    assert config(relay=False, shard="none").shards == ()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"shard": ["all", 1]}, "stand alone"),
        ({"shard": ["none", "all"]}, "stand alone"),
        ({"shard": "all", "relay": False}, "needs relay"),
        ({"shard": "all", "num_shards_in_network": 0}, "name each"),
        ({"shard": "every"}, "expected a shard, or all, or none"),
        ({"shard": 1024}, "expected a shard, or all, or none"),
    ],
)
def test_what_no_shard_can_be(options: dict[str, Any], text: str) -> None:
    error = refused(**options)
    assert error.key == "shard"
    assert text in str(error)


def test_the_key_is_kept_out_of_what_is_printed() -> None:
    kernel = config(nodekey="11" * 32)
    assert kernel.peers.nodekey == b"\x11" * 32
    printed = repr(kernel) + json.dumps(kernel.describe())
    assert "11" * 32 not in printed
    assert repr(b"\x11" * 32) not in printed


def test_describe_is_plain_data_for_every_option() -> None:
    rows = config(tcp_port=0, preset="status.prod").describe()
    assert [row["name"] for row in rows] == [option.name for option in KERNEL_SCHEMA]
    by_name: dict[str, Any] = {row["name"]: row for row in rows}
    assert by_name["tcp-port"]["value"] == 0
    assert (by_name["tcp-port"]["origin"], by_name["tcp-port"]["detail"]) == ("flag", "--tcp-port")
    assert by_name["max-msg-size"]["value"] == "1MiB"
    assert by_name["max-msg-size"]["default"] == "150KiB"
    assert by_name["max-msg-size"]["origin"] == "preset"
    json.dumps(rows)


def test_the_kernels_configuration_does_not_load_the_messaging_apis() -> None:
    code = (
        "import sys, ipc_schema.config.kernel, ipc_schema.config.sources;"
        "print([name for name in sys.modules if 'mapi' in name or name in ('asyncio', 'zmq', 'trio')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert ran.stdout.strip() == "[]"
