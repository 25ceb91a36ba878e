"""`rate-limit`: nwaku's grammar, its defaults, and which setting wins."""

from __future__ import annotations

import pytest

from ipc_schema.config.kernel import load_kernel_config
from ipc_schema.config.options import ConfigError
from ipc_schema.config.ratelimits import (
    DEFAULT_RATE_LIMITS,
    RATE_LIMIT,
    RateLimit,
    parse_rate_limit,
    rate_limits,
)


@pytest.mark.parametrize(
    ("text", "protocol", "limit"),
    [
        ("10/1s", None, RateLimit(10, 1.0)),
        ("store:30/2m", "store", RateLimit(30, 120.0)),
        ("storev3:30/1h", "store", RateLimit(30, 3600.0)),
        ("lightpush:1/500ms", "lightpush", RateLimit(1, 0.5)),
        ("PX:7/1S", "px", RateLimit(7, 1.0)),
        (" filter:0/1s ", "filter", None),
    ],
)
def test_grammar(text: str, protocol: str | None, limit: RateLimit | None) -> None:
    setting = parse_rate_limit(text)
    assert (setting.protocol, setting.limit) == (protocol, limit)
    assert parse_rate_limit(RATE_LIMIT.show(setting)) == setting


@pytest.mark.parametrize(
    "text", ["", "5", "5/s", "x:5/1s", "5/1", "5/0s", "-5/1s", "5/1d", "store:", 5, "a b:5/1s"]
)
def test_text_that_is_not_a_limit_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"rate limit|not one of|period of 0"):
        parse_rate_limit(text)


def limits(*texts: str) -> dict[str, RateLimit | None]:
    return rate_limits(map(parse_rate_limit, texts))


def test_defaults_are_those_of_nwaku() -> None:
    assert (
        limits()
        == DEFAULT_RATE_LIMITS
        == {
            "store": None,
            "lightpush": RateLimit(5, 1.0),
            "px": RateLimit(5, 1.0),
            "filter": RateLimit(100, 1.0),
        }
    )


def test_the_own_setting_wins_over_the_general_one_in_any_order() -> None:
    for texts in (("2/1s", "store:9/1s"), ("store:9/1s", "2/1s")):
        found = limits(*texts)
        assert found["store"] == RateLimit(9, 1.0)
        assert found["lightpush"] == found["px"] == found["filter"] == RateLimit(2, 1.0)
    assert limits("storev3:1/1s", "store:9/1s")["store"] == RateLimit(1, 1.0)
    assert limits("store:9/1s", "store:0/1s")["store"] is None
    assert limits("lightpush:0/1s")["lightpush"] is None
    assert limits("lightpush:0/1s")["px"] == RateLimit(5, 1.0)


def test_the_option() -> None:
    config = load_kernel_config(flags={"rate-limit": ["lightpush:9/1s", "3/1m"]})
    assert config.services.rate_limits["lightpush"] == RateLimit(9, 1.0)
    assert config.services.rate_limits["store"] == RateLimit(3, 60.0)
    (row,) = [row for row in config.describe() if row["name"] == "rate-limit"]
    assert row["value"] == ["lightpush:9/1s", "3/1m"]
    with pytest.raises(ConfigError, match="rate-limit"):
        load_kernel_config(flags={"rate-limit": ["much"]})
