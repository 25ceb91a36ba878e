"""Settings of the SDS core. Times are in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from mapi_proc.channels.sds.bloom import NIM
from mapi_proc.channels.sds.rolling import NARROW, Window


@dataclass(frozen=True, slots=True)
class SdsSettings:
    """Timing and bounds of a channel."""

    form: str = NIM
    causal_history: int = 10
    """Newest messages that each message refers to, besides those nothing refers to yet."""
    max_heads: int = 50
    max_references: int = 12 * 1024
    """Bytes of these references: others choose the length of their ids, and the content needs the room."""
    bloom: bool = True
    bloom_window: Window = NARROW

    ack_timeout: float = 30.0
    """Until the first retransmission; doubled with each."""
    ack_timeout_max: float = 300.0
    max_attempts: int = 8
    resends_at_once: int = 16

    request_min: float = 30.0
    """T_min of SDS-R."""
    request_max: float = 300.0
    """T_max of SDS-R, for requests and responses."""
    response_groups: int = 1
    requests_per_message: int = 3
    response_gap: float = 10.0
    """The same message is not repaired twice within this time."""

    retrieve_after: float = 2.0
    retrieve_max: float = 300.0
    lost_after: float = 900.0
    """Longer than one round of request and response at their slowest."""

    sync_min: float = 30.0
    """An idle channel's sync message; doubled while nothing changes."""
    sync_max: float = 300.0
    sync_after_content: float = 15.0
    sync_gap: float = 2.0

    lamport_jump: int = 86_400_000
    """Furthest step ahead of our clocks that is believed, in milliseconds."""
    lamport_jump_new: int = 365 * 86_400_000
    """The same while the channel is empty: a busy channel's Lamport time runs ahead by a second a message."""

    max_known: int = 20_000
    """Ids remembered, to recognise repeated messages and references."""
    max_history: int = 1_000
    """Messages kept for repair."""
    max_history_bytes: int = 8 << 20
    """Their bytes in memory; older ones are read from the disk."""
    max_waiting: int = 1_000
    max_waiting_bytes: int = 32 << 20
    max_missing: int = 5_000
    max_responses: int = 500
    max_outgoing: int = 2_000
    max_outgoing_bytes: int = 64 << 20
    on_disk: bool = True
    """False: of an app that is gone with its process nothing is stored, so unacknowledged messages stay in
    memory."""
