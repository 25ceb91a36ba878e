"""Streams of the kernel: their state, gaps, replay and coverage, without I/O (SPEC.md, "Streams")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ipc_schema.streams.coverage import MAX_INTERVALS, CoverageLog, holes
from ipc_schema.streams.gaps import GapTracker, Step
from ipc_schema.streams.held import HeldEvents
from ipc_schema.streams.ring import (
    EVENT_OVERHEAD,
    MAX_REPLAY_BYTES,
    MAX_REPLAY_EVENTS,
    ReplayBatch,
    ReplayRing,
    RingBudget,
)
from ipc_schema.streams.state import StreamState

__all__ = [
    "EPOCH_SIZE",
    "EVENT_OVERHEAD",
    "INSTANCE_SIZE",
    "MAX_INTERVALS",
    "MAX_REPLAY_BYTES",
    "MAX_REPLAY_EVENTS",
    "CoverageLog",
    "GapTracker",
    "HeldEvents",
    "ReplayBatch",
    "ReplayRing",
    "RingBudget",
    "Step",
    "StreamState",
    "holes",
    "new_epoch",
    "new_instance",
]

INSTANCE_SIZE: Final = 16
EPOCH_SIZE: Final = 8


def new_instance(random_bytes: Callable[[int], bytes]) -> bytes:
    """Draw the instance id of a process: 16 random bytes, once at its start (pass `os.urandom`)."""
    return random_bytes(INSTANCE_SIZE)


def new_epoch(random_bytes: Callable[[int], bytes]) -> bytes:
    """Draw a stream epoch: 8 random bytes, at every activation of a stream."""
    return random_bytes(EPOCH_SIZE)
