"""Options of the bridge: what the check passes, the process can start with."""

from __future__ import annotations

import pytest

from ipc_schema.config.bridge import load_bridge_config
from ipc_schema.config.options import ConfigError
from ipc_schema.config.sources import parse_toml


def test_the_table_of_the_one_file() -> None:
    text = """
[kernel]
shard = [1]
[bridge]
nats-url = ["nats1.example:4222", "tls://nats2.example"]
nats-credentials = "/etc/logos/bridge.creds"
nats-prefix = "waku.prod"
nats-replicas = 3
bridge-content-topic = ["/weather/1/berlin/json"]
bridge-duplicate-window = "5m"
"""
    config = load_bridge_config(environ={}, file=parse_toml(text, "node.toml"))
    nats, outward = config.nats, config.outward
    assert nats.nats_url == ("nats://nats1.example:4222", "tls://nats2.example")
    assert (nats.nats_prefix, nats.nats_replicas) == ("waku.prod", 3)
    assert outward.bridge_duplicate_window == 300.0
    assert outward.bridge_content_topic == ("/weather/1/berlin/json",)
    assert outward.bridge_shard == ()
    assert [warning for warning in config.warnings if "without TLS" in warning] == [
        "nats://nats1.example:4222 may be reached without TLS: use tls://, or set nats-tls-ca"
    ]


def test_without_a_server_there_is_no_bridge() -> None:
    assert not load_bridge_config(flags={}, environ={}).nats.nats_url


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        ({"nats-url": ["http://x"]}, "nats-url"),
        ({"nats-url": ["nats://user:secret@x"]}, "nats-url"),
        ({"nats-url": ["nats://x:99999"]}, "nats-url"),
        ({"nats-prefix": "a.>"}, "nats-prefix"),
        ({"nats-prefix": "a..b"}, "nats-prefix"),
        ({"nats-tls-cert": "/c"}, "nats-tls-cert"),
        ({"nats-credentials": "/c", "nats-nkey-seed": "/s"}, "nats-nkey-seed"),
        ({"bridge-content-topic": ["weather"]}, "bridge-content-topic"),
        ({"bridge-shard": ["1024"]}, "bridge-shard"),
        ({"bridge-duplicate-window": "10s"}, "bridge-duplicate-window"),
        ({"nats-url": ["nats://x"], "bridge-out": "false", "bridge-in": "false"}, "bridge-out"),
        ({"nats-url": ["nats://x"], "bridge-out": "false", "mapi": "false"}, "bridge-out"),
        ({"bridge-duplicate-window": "10m", "bridge-max-age": "5m"}, "bridge-duplicate-window"),
    ],
)
def test_what_cannot_work_is_refused_by_its_name(flags: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_bridge_config(flags=flags, environ={})
    assert key in str(caught.value)
    assert "secret" not in str(caught.value)
