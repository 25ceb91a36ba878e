"""Settings and clocks of sending."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ipc_schema.config.mapi import MapiConfig
from ipc_schema.config.ratelimits import RateLimit
from mapi_proc.send.task import SEND_WINDOW


@dataclass(frozen=True, slots=True)
class SendSettings:
    """At most `in_flight` attempts run at once. `max_tasks` and `max_bytes` bound the sends that wait for the
    network; propagated sends that wait for a store's confirmation have the same bounds of their own.
    """

    window: float = SEND_WINDOW
    reliability: bool = True
    rate_limit: RateLimit | None = None
    max_tasks: int = 10_000
    max_bytes: int = 256 << 20
    in_flight: int = 128

    @classmethod
    def of(cls, config: MapiConfig) -> SendSettings:
        """Extract the options that concern sending."""
        return cls(
            window=config.messages.send_window,
            reliability=config.reliability,
            rate_limit=config.send_rate_limit,
            max_tasks=config.messages.outbox_max_messages,
            max_bytes=config.messages.outbox_max_bytes,
        )


class Timing(NamedTuple):
    """Clocks: `clock` is seconds of running time, `wall_ns` the wall clock, `steady_ns` dates what is on disk
    and counts the rate limit's epochs; `jitter` returns 0..1.
    """

    clock: Callable[[], float]
    wall_ns: Callable[[], int]
    steady_ns: Callable[[], int]
    jitter: Callable[[], float]
