"""The Messaging API's configuration, and the kernel that it derives."""

from __future__ import annotations

import dataclasses
import json

import pytest

from ipc_schema.config.kernel import load_kernel_config
from ipc_schema.config.mapi import MAPI_SCHEMA, MapiConfig, Mode, derive_kernel, derive_mapi, load_mapi_config
from ipc_schema.config.options import ConfigError
from ipc_schema.config.presets import PRESETS
from ipc_schema.hello import NetworkInfo


def config(**flags: object) -> MapiConfig:
    return load_mapi_config(flags={name.replace("_", "-"): value for name, value in flags.items()})


def refused(**flags: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config(**flags)
    return caught.value


def test_defaults() -> None:
    mapi = config()
    assert mapi.mode is Mode.CORE
    assert mapi.preset == ""
    assert mapi.messages.auto_subscribe
    assert mapi.messages.send_window == 60.0
    assert mapi.reliability
    assert mapi.endpoints == ("ipc://data/run/mapi/apps", "ipc://data/run/mapi/control")
    assert mapi.kernel == load_kernel_config().endpoints


def test_the_kernel_is_looked_for_beside_it_or_where_configured() -> None:
    assert config(data_dir="/d").kernel.requests == "ipc:///d/run/kernel/requests"
    assert config(ipc_dir="/run/logos").kernel.requests == "ipc:///run/logos/kernel/requests"
    assert config(ipc_dir="/run/logos", kernel_dir="/k").kernel.control == "ipc:///k/kernel/control"
    assert config(kernel_requests="tcp://127.0.0.1:7000").kernel.requests == "tcp://127.0.0.1:7000"
    assert refused(kernel_dir="/" + "k" * 100).key == "kernel-dir"


def test_reliability_is_the_presets() -> None:
    for name, preset in PRESETS.items():
        assert config(preset=name).reliability is preset.reliability


@pytest.mark.parametrize(
    ("flags", "key", "text"),
    [
        ({"mode": "both"}, "mode", "core, edge"),
        ({"preset": "x"}, "preset", "twn"),
        ({"journal_total_bytes": "1MiB"}, "journal-total-bytes", "journal-max-bytes"),
        ({"ipc_apps": "ipc://a", "ipc_control": "ipc://a"}, "ipc-control", "ipc-apps"),
        ({"send_window": 0}, "send-window", "1s"),
        ({"tcp_port": 1}, "tcp-port", "no such option in [mapi]"),
        ({"send_windw": 1}, "send-windw", "did you mean send-window?"),
    ],
)
def test_refusals_name_the_key(flags: dict[str, object], key: str, text: str) -> None:
    error = refused(**flags)
    assert error.key == key
    assert text in str(error)


NETWORK = NetworkInfo(cluster=3, shard_count=8, max_message_size=153_600, preset="logos.dev")


def test_a_kernel_that_meets_the_expectations_is_accepted() -> None:
    config().check_network(NETWORK)
    config(preset="logosdev").check_network(NETWORK)
    config(cluster_id=3, num_shards_in_network=8, max_msg_size="150KiB").check_network(NETWORK)


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        ({"preset": "twn"}, "preset"),
        ({"cluster_id": 0}, "cluster-id"),
        ({"num_shards_in_network": 1}, "num-shards-in-network"),
        ({"max_msg_size": "1MiB"}, "max-msg-size"),
    ],
)
def test_a_kernel_on_another_network_is_refused(flags: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match="contradicts the kernel") as caught:
        config(**flags).check_network(NETWORK)
    assert caught.value.key == key


def test_a_preset_is_not_met_by_a_kernel_without_one() -> None:
    with pytest.raises(ConfigError, match="has none"):
        config(preset="logos.dev").check_network(dataclasses.replace(NETWORK, preset=""))


def test_overrides_are_divided_between_the_processes() -> None:
    overrides: dict[str, object] = {
        "tcp-port": 0,
        "send-window": "5s",
        "data-dir": "/d",
        "cluster-id": 7,
        "nodekey": None,
    }
    kernel = derive_kernel("logos.test", "core", overrides)
    assert kernel == {
        "preset": "logos.test",
        "relay": True,
        "tcp-port": 0,
        "data-dir": "/d",
        "cluster-id": 7,
        "nodekey": None,
    }
    mapi = derive_mapi("logos.test", Mode.CORE, overrides)
    assert mapi == {
        "preset": "logos.test",
        "mode": "core",
        "send-window": "5s",
        "data-dir": "/d",
        "cluster-id": 7,
    }
    load_mapi_config(flags=mapi).check_network(load_kernel_config(flags=kernel).network)


def test_the_mode_decides_about_relay() -> None:
    assert derive_kernel("", Mode.EDGE, {}) == {"preset": "", "relay": False}
    assert derive_kernel("", "core", {}) == {"preset": "", "relay": True}
    assert derive_mapi("", Mode.EDGE, {})["mode"] == "edge"


@pytest.mark.parametrize(
    ("overrides", "key", "text"),
    [
        ({"relay": False}, "relay", "mode"),
        ({"mode": "edge"}, "mode", "argument of its own"),
        ({"preset": "twn"}, "preset", "argument of its own"),
        ({"ipc-control": "ipc://x"}, "ipc-control", "one process"),
        ({"tcp-prot": 0}, "tcp-prot", "did you mean tcp-port?"),
        ({"send-windo": 0}, "send-windo", "did you mean send-window?"),
        ({"qqqqqq": 0}, "qqqqqq", "no such option"),
    ],
)
def test_bad_overrides_are_refused_by_both(overrides: dict[str, object], key: str, text: str) -> None:
    for derive in (derive_kernel, derive_mapi):
        with pytest.raises(ConfigError, match=key) as caught:
            derive("", "core", overrides)
        assert caught.value.key == key
        assert text in str(caught.value)


def test_bad_values_are_refused_when_deriving() -> None:
    with pytest.raises(ConfigError, match="tcp-port"):
        derive_kernel("", "core", {"tcp-port": 70_000})
    with pytest.raises(ConfigError, match="preset"):
        derive_kernel("nowhere", "core", {})
    with pytest.raises(ConfigError, match="mode"):
        derive_kernel("", "centre", {})


def test_describe_is_plain_data_for_every_option() -> None:
    rows = config(send_window="90s").describe()
    assert [row["name"] for row in rows] == [option.name for option in MAPI_SCHEMA]
    by_name = {row["name"]: row for row in rows}
    assert by_name["send-window"]["value"] == "90s"
    assert by_name["journal-max-age"]["default"] == "7d"
    assert by_name["cluster-id"]["value"] is None
    json.dumps(rows)
