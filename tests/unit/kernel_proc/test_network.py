"""From the kernel's configuration to the host's."""

from __future__ import annotations

import math

import pytest

from ipc_schema.config.discovery import MIN_RELAY_CONNECTIONS
from ipc_schema.config.kernel import load_kernel_config
from kernel_proc.network import host_limits, listen_addresses, no_peers_text, score_params
from kernel_proc.relay.params import GossipParams


@pytest.mark.parametrize(
    ("flags", "addresses"),
    [
        ({"tcp-port": 1}, ["/ip4/127.0.0.1/tcp/1"]),
        ({"listen-address": "::1", "tcp-port": 0}, ["/ip6/::1/tcp/0"]),
        (
            {"tcp-port": 1, "websocket-support": True, "websocket-port": 2, "ports-shift": 5},
            ["/ip4/127.0.0.1/tcp/6", "/ip4/127.0.0.1/tcp/7/ws"],
        ),
    ],
)
def test_listen_addresses(flags: dict[str, object], addresses: list[str]) -> None:
    assert listen_addresses(load_kernel_config(flags=flags)) == addresses


@pytest.mark.parametrize(("total", "inbound"), [(150, 120), (10, 8), (2, 1), (1, 1)])
def test_some_connections_stay_free_for_dialling(total: int, inbound: int) -> None:
    flags = {"max-connections": total, "ip-colocation-limit": 3, "relay": False}
    config = load_kernel_config(flags=flags)
    limits = host_limits(config)
    assert (limits.max_connections, limits.max_inbound, limits.max_per_ip) == (total, inbound, 3)


@pytest.mark.parametrize("limit", [0, 5, 50])
def test_the_limit_of_one_place_is_the_same_for_admission_and_score(limit: int) -> None:
    config = load_kernel_config(flags={"ip-colocation-limit": limit})
    assert host_limits(config).max_per_ip == score_params(config).colocation_threshold == limit


def test_the_fewest_relay_connections_hold_a_full_mesh() -> None:
    assert GossipParams().d_high == MIN_RELAY_CONNECTIONS


@pytest.mark.parametrize(
    ("connected", "troubles", "text"),
    [
        (1, [], "1 peer connected, none on shard 3"),
        (2, [(5.0, "refused")], "2 peers connected, none on shard 3"),
        (0, [], "no peer is connected"),
        (
            0,
            [(5.0, "refused"), (9.0, "timed out"), (7.0, "reset")],
            "no peer is connected; last dial: timed out",
        ),
        (
            0,
            [(9.0, "timed out"), (math.inf, "/dns4/nowhere.invalid/tcp/1: name does not resolve")],
            "no peer is connected; last dial: /dns4/nowhere.invalid/tcp/1: name does not resolve",
        ),
    ],
)
def test_why_a_message_found_no_peer(connected: int, troubles: list[tuple[float, str]], text: str) -> None:
    assert no_peers_text(3, connected, troubles) == text
