"""The counters of a host: every refusal and failure that a peer can cause has one."""

from __future__ import annotations

COUNTERS = (
    "accepted",
    "dialled",
    "circuits_dialled",
    "circuits_accepted",
    "refused_ip",
    "refused_total",
    "refused_peer",
    "refused_half_open",
    "refused_half_open_ip",
    "half_open_evicted",
    "handshake_failed",
    "handler_errors",
    "streams_refused",
    "streams_replaced",
    "streams_lingered_out",
    "write_timeouts",
    "frozen_evicted",
    "window_overruns",
    "buffer_overruns",
    "protocol_violations",
    "idle_frames_refused",
    "negotiations_failed",
    "identify_failed",
    "peer_records_refused",
    "connection_errors",
    "listener_errors",
)


class Counters:
    """Monotonic counters. Call with a name to increment it."""

    def __init__(self) -> None:
        self._values: dict[str, int] = dict.fromkeys(COUNTERS, 0)

    def __call__(self, name: str) -> None:
        self._values[name] += 1

    def as_dict(self) -> dict[str, int]:
        return dict(self._values)
