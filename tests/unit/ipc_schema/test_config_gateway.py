"""Options of the gateway."""

from __future__ import annotations

import pytest

from ipc_schema.config.gateway import load_gateway_config
from ipc_schema.config.options import ConfigError


def test_defaults_are_those_of_nwaku() -> None:
    config = load_gateway_config()
    assert config.rest is None
    assert config.metrics is None
    config = load_gateway_config(flags={"rest": "true", "metrics-server": "true"})
    assert config.rest is not None
    assert (config.rest.address, config.rest.port) == ("127.0.0.1", 8645)
    assert config.metrics is not None
    assert (config.metrics.address, config.metrics.port) == ("127.0.0.1", 8008)
    assert (config.options.rest_relay_cache_capacity, config.metrics_prefix) == (50, "logos_delivery_")
    assert config.warnings == ()


def test_the_sockets_of_the_node_lie_below_the_run_directory() -> None:
    config = load_gateway_config(flags={"data-dir": "/d"})
    assert config.kernel.requests == "ipc:///d/run/kernel/requests"
    assert config.mapi is not None
    assert config.mapi.apps == "ipc:///d/run/mapi/apps"
    config = load_gateway_config(flags={"kernel-dir": "/k", "mapi": False, "ipc-dir": "/i"})
    assert config.kernel.control == "ipc:///k/kernel/control"
    assert config.mapi is None
    assert config.ipc_dir == "/i"


def test_ports_are_shifted_and_do_not_clash() -> None:
    config = load_gateway_config(flags={"rest": True, "metrics-server": True, "ports-shift": 10})
    assert config.rest is not None
    assert config.metrics is not None
    assert (config.rest.port, config.metrics.port) == (8655, 8018)
    with pytest.raises(ConfigError, match="already taken"):
        load_gateway_config(flags={"rest": True, "metrics-server": True, "rest-port": 8008})


@pytest.mark.parametrize("listener", ["rest", "metrics-server"])
def test_others_reach_it_with_a_token_only(listener: str) -> None:
    flags: dict[str, object] = {listener: True, f"{listener}-address": "0.0.0.0"}
    with pytest.raises(ConfigError, match="set rest-token-file"):
        load_gateway_config(flags=flags)
    config = load_gateway_config(flags={**flags, "rest-token-file": "/tokens"})
    assert config.options.rest_token_file == "/tokens"
    assert ("without TLS" in "".join(config.warnings)) == (listener == "rest")


def test_certificate_and_key_belong_together() -> None:
    with pytest.raises(ConfigError, match=r"rest-tls-key.*together"):
        load_gateway_config(flags={"rest": True, "rest-tls-key": "/k"})


def test_options_without_effect_are_named() -> None:
    warnings = load_gateway_config(
        flags={"rest-port": 1, "rest-admin": True, "metrics-server-port": 2}
    ).warnings
    assert "rest-admin has no effect: rest is off" in warnings
    assert "rest-port has no effect: rest is off" in warnings
    assert "metrics-server-port has no effect: metrics-server is off" in warnings
    assert load_gateway_config(flags={"dashboard": True, "rest-port": 1}).warnings == ()
