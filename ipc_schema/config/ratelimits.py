"""The option `rate-limit`: requests served per protocol, in nwaku's grammar
`[store|storev3|lightpush|px|filter:]<volume>/<period><h|m|s|ms>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ipc_schema.config.kinds import Kind

RATE_LIMITED_PROTOCOLS: Final = ("store", "lightpush", "px", "filter")

_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_FORM: Final = re.compile(r"(?:([a-z0-9]+):)?([0-9]{1,9})/([0-9]{1,9})(h|ms|m|s)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """`volume` requests in `period` seconds."""

    volume: int
    period: float


@dataclass(frozen=True, slots=True)
class RateLimitSetting:
    """One value of the option: `limit` for `protocol`, or for every protocol without a setting of its own
    (None)."""

    text: str
    protocol: str | None
    limit: RateLimit | None
    """None: no limit (volume 0)."""


DEFAULT_RATE_LIMITS: Final[Mapping[str, RateLimit | None]] = {
    "store": None,
    "lightpush": RateLimit(5, 1.0),
    "px": RateLimit(5, 1.0),
    "filter": RateLimit(100, 1.0),
}
"""nwaku's defaults."""


def parse_rate_limit(raw: object) -> RateLimitSetting:
    """Parse one value. Raises `ValueError`."""
    match = _FORM.fullmatch(raw.strip()) if isinstance(raw, str) else None
    if match is None:
        raise ValueError(
            f"{raw!r} is not a rate limit: "
            "[store|lightpush|px|filter:]<volume>/<period><h|m|s|ms>, such as 5/1s"
        )
    name = match[1].lower() if match[1] else None
    # nwaku distinguished store versions; there is one left.
    protocol = "store" if name == "storev3" else name
    if protocol is not None and protocol not in RATE_LIMITED_PROTOCOLS:
        raise ValueError(f"{match[1]!r} is not one of {', '.join(RATE_LIMITED_PROTOCOLS)}")
    volume, period = int(match[2]), int(match[3]) * _UNITS[match[4].lower()]
    if not period:
        raise ValueError(f"{raw!r}: a period of 0")
    return RateLimitSetting(match[0], protocol, RateLimit(volume, period) if volume else None)


RATE_LIMIT: Final = Kind("rate limit", parse_rate_limit, lambda setting: str(setting.text))


def rate_limits(settings: Iterable[RateLimitSetting]) -> dict[str, RateLimit | None]:
    """Return the limit of each protocol: its own setting, else the one without a protocol, else the
    default.

    The last setting for a protocol wins, but `store` does not override `storev3`.
    """
    general: dict[str, RateLimit | None] = dict(DEFAULT_RATE_LIMITS)
    own: dict[str, RateLimit | None] = {}
    exact: dict[str, RateLimit | None] = {}
    for setting in settings:
        if setting.protocol is None:
            general = dict.fromkeys(RATE_LIMITED_PROTOCOLS, setting.limit)
        elif setting.text.lower().startswith("storev3:"):
            exact[setting.protocol] = setting.limit
        else:
            own[setting.protocol] = setting.limit
    return general | own | exact
