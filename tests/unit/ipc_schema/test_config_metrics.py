from __future__ import annotations

from collections.abc import Callable

import pytest

from ipc_schema.config.kernel import KernelConfig, load_kernel_config
from ipc_schema.config.mapi import MapiConfig, derive_kernel, derive_mapi, load_mapi_config
from ipc_schema.config.metrics import MetricsConfig
from ipc_schema.config.options import ConfigError

Load = Callable[..., KernelConfig | MapiConfig]
BOTH = pytest.mark.parametrize(("load", "port"), [(load_kernel_config, 8008), (load_mapi_config, 8009)])


@BOTH
def test_off_unless_wanted_and_on_loopback_unless_configured(load: Load, port: int) -> None:
    off = MetricsConfig(prefix="logos_delivery_", address="127.0.0.1", port=None)
    assert load().metrics == off
    assert load(flags={"metrics-server": True}).metrics.port == port
    assert load(flags={"metrics-server": True, "ports-shift": 10}).metrics.port == port + 10
    assert load(flags={"metrics-server": True, "metrics-server-port": 0, "ports-shift": 9}).metrics.port == 0
    wide = load(
        flags={"metrics-server": True, "metrics-server-address": "0.0.0.0", "metrics-prefix": "waku_"}
    )
    assert (wide.metrics.address, wide.metrics.prefix) == ("0.0.0.0", "waku_")


@BOTH
def test_refusals(load: Load, port: int) -> None:
    for flags, key in (
        ({"metrics-prefix": "no-dash"}, "metrics-prefix"),
        ({"metrics-server-address": "everywhere"}, "metrics-server-address"),
        ({"metrics-server-port": 65536}, "metrics-server-port"),
        ({"ports-shift": 65000}, "ports-shift"),
        ({"metrics-server": True, "ipc-control": f"tcp://127.0.0.1:{port}"}, "port"),
    ):
        with pytest.raises(ConfigError, match=key):
            load(flags=flags)


def test_clashes_are_seen_before_anything_listens() -> None:
    with pytest.raises(ConfigError, match=r"port 60000 on 127.0.0.1 is already taken"):
        load_kernel_config(flags={"metrics-server": True, "metrics-server-port": 60000})
    assert load_kernel_config(flags={"metrics-server-port": 60000}).metrics.port is None


def test_what_has_no_effect_is_said() -> None:
    warnings = load_kernel_config(flags={"metrics-server-port": 1234}).warnings
    assert "metrics-server-port has no effect: metrics-server is off" in warnings


def test_a_node_of_both_gets_two_ports() -> None:
    overrides: dict[str, object] = {"metrics-server": True, "ports-shift": 5}
    kernel = load_kernel_config(flags=derive_kernel("", "core", overrides))
    mapi = load_mapi_config(flags=derive_mapi("", "core", overrides))
    assert (kernel.metrics.port, mapi.metrics.port) == (8013, 8014)
    with pytest.raises(ConfigError, match="belongs to one process"):
        derive_kernel("", "core", {"metrics-server-port": 1})


@pytest.mark.parametrize("load", [load_kernel_config, load_mapi_config])
def test_both_processes_tell_of_options_without_effect(load: Load) -> None:
    assert load(flags={"metrics-server-port": "1"}).warnings == (
        "metrics-server-port has no effect: metrics-server is off",
    )
    assert load(flags={"metrics-server-port": "1", "metrics-server": True}).warnings == ()
