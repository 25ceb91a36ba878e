"""Options of the service protocols."""

from __future__ import annotations

import pytest

from ipc_schema.config.kernel import load_kernel_config
from ipc_schema.config.options import ConfigError

PEER = "16Uiu2HAm4v86W3bmT1BiH6oSPzcsSr24iDQpSN5Qa992BCjjwgrD"
NODE = f"/ip4/127.0.0.1/tcp/60001/p2p/{PEER}"


def test_defaults_are_those_of_nwaku() -> None:
    services = load_kernel_config().services
    assert (services.store, services.lightpush) == (False, True)
    assert services.store_message_db_url == "sqlite://store.sqlite3"
    assert str(services.store_message_retention_policy) == "time:172800"
    assert services.nodes == ()


def test_service_nodes_need_a_peer_id() -> None:
    services = load_kernel_config(flags={"storenode": NODE, "lightpushnode": NODE}).services
    assert services.nodes == (NODE, NODE)
    with pytest.raises(ConfigError, match=r"storenode.*the peer id is missing"):
        load_kernel_config(flags={"storenode": "/ip4/127.0.0.1/tcp/60001"})


def test_a_store_node_stays_on_every_shard_unless_configured() -> None:
    flags = {"store": True, "num-shards-in-network": 3, "cluster-id": 9}
    assert load_kernel_config(flags=flags).shards == (0, 1, 2)
    assert load_kernel_config(flags=flags | {"shard": [1]}).shards == (1,)
    assert load_kernel_config(flags=flags | {"relay": False}).shards == ()
    static = load_kernel_config(flags=flags | {"num-shards-in-network": 0})
    assert static.shards == ()
    assert any("store archives leased shards only with static" in text for text in static.warnings)
    leased = load_kernel_config(flags=flags | {"shard": "none"})
    assert leased.shards == ()
    assert any("store archives leased shards only with shard=none" in text for text in leased.warnings)


def test_a_password_is_not_shown() -> None:
    url = "postgres://waku:s:e%2Fc%40ret@localhost:5432/store?password=alsosecret&x=1"
    flags = {"store": True, "store-message-db-url": url, "store-message-db-read-url": url}
    config = load_kernel_config(flags=flags)
    assert config.services.store_message_db_url == config.services.store_message_db_read_url == url
    for name in ("store-message-db-url", "store-message-db-read-url"):
        (row,) = [row for row in config.describe() if row["name"] == name]
        assert row["value"] == "postgres://waku:***@localhost:5432/store?password=***&x=1"
    assert "ret" not in repr(config).replace("retention", "")
    with pytest.raises(ConfigError) as refused:
        load_kernel_config(flags={"store-message-db-url": "waku:secret@host"})
    assert "secret" not in str(refused.value)


def test_options_without_effect_are_reported() -> None:
    def warnings(**flags: object) -> str:
        return "\n".join(
            load_kernel_config(flags={k.replace("_", "-"): v for k, v in flags.items()}).warnings
        )

    assert "store-message-retention-policy has no effect: store is off" in warnings(
        store_message_retention_policy="time:60"
    )
    assert "lightpush has no effect: relay is off" in warnings(lightpush=True, relay=False)
    assert "nothing new comes in" in warnings(store=True, relay=False)
    assert "lightpush" not in warnings(relay=False)
