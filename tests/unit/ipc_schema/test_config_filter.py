"""Options of filter and peer exchange."""

from __future__ import annotations

import pytest

from ipc_schema.config.kernel import load_kernel_config
from ipc_schema.config.options import ConfigError
from ipc_schema.config.ratelimits import RateLimit

NODE = "/ip4/127.0.0.1/tcp/60001/p2p/16Uiu2HAm4v86W3bmT1BiH6oSPzcsSr24iDQpSN5Qa992BCjjwgrD"


def test_the_defaults_are_nwakus() -> None:
    services = load_kernel_config().services
    assert (services.filter, services.filternode, services.peer_exchange) == (True, None, True)
    assert (
        services.filter_subscription_timeout,
        services.filter_max_peers_to_serve,
        services.filter_max_criteria,
    ) == (
        300,
        1000,
        1000,
    )
    assert services.rate_limits["filter"] == RateLimit(100, 1.0)
    assert services.rate_limits["px"] == RateLimit(5, 1.0)


def test_values_of_ones_own() -> None:
    services = load_kernel_config(
        flags={
            "filter-subscription-timeout": "60",
            "filter-max-peers-to-serve": "20",
            "filter-max-criteria": "50",
            "filternode": NODE,
            "peer-exchange-node": NODE,
            "rate-limit": ["filter:30/1m"],
        }
    ).services
    assert (
        services.filter_subscription_timeout,
        services.filter_max_peers_to_serve,
        services.filter_max_criteria,
    ) == (60, 20, 50)
    assert services.nodes == (NODE, NODE)
    assert services.rate_limits["filter"] == RateLimit(30, 60.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("filter-max-criteria", "0"),
        ("filter-max-peers-to-serve", "many"),
        ("filter-subscription-timeout", "0"),
        ("filternode", "/ip4/127.0.0.1/tcp/60001"),
        ("peer-exchange-node", "nonsense"),
    ],
)
def test_what_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        load_kernel_config(flags={name: value})


def test_options_without_effect_are_reported() -> None:
    flags = {"filter": "false", "filter-max-criteria": "5"}
    assert "filter-max-criteria has no effect: filter is off" in load_kernel_config(flags=flags).warnings
    flags = {"relay": "false", "filter": "true"}
    assert "filter has no effect: relay is off" in load_kernel_config(flags=flags).warnings
