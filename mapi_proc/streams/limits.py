"""Bounds of app streams, the shared cache budget, counters."""

from __future__ import annotations

from dataclasses import dataclass

from logos_sockets.window import WINDOW

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class DurableLimits:
    """Bounds of a named app's stream: on disk, and in memory while the app is slow.

    `max_bytes` and `max_age` (ns) are kept to within 1/64. `tail_bytes` bounds unsent events kept in memory
    besides the disk; `page_bytes` and `page_events` bound one read from disk.
    """

    max_bytes: int = 256 << 20
    max_age: int = 7 * 24 * 3600 * NANOSECONDS
    tail_bytes: int = 4 << 20
    page_bytes: int = 512 << 10
    page_events: int = 512


def connection_window(max_bytes: int) -> int:
    """Return how many bytes libzmq may hold for the connection of an app whose stream may hold `max_bytes`:
    a part of these, so that the bound covers both together."""
    return min(WINDOW, max_bytes // 4)


@dataclass(frozen=True, slots=True)
class EphemeralLimits:
    """Bounds of the events waiting in memory for an ephemeral app without credit."""

    max_bytes: int = 16 << 20
    max_events: int = 20_000


@dataclass(slots=True)
class CacheBudget:
    """Bytes that the tails of all durable streams may take together. Beyond it a stream reads from disk."""

    limit: int = 64 << 20
    used: int = 0
