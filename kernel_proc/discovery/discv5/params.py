"""Parameters of discv5, with nwaku's (nim-eth's) values where they differ."""

from __future__ import annotations

from dataclasses import dataclass

from kernel_proc.discovery.discv5.packets import WAKU_PROTOCOL_ID


@dataclass(frozen=True, slots=True)
class Params:
    """Durations in seconds."""

    protocol_id: bytes = WAKU_PROTOCOL_ID

    # -- requests
    request_timeout: float = 2.0
    """Until the response arrives, including the handshake.

    discv5-wire recommends 0.5 to 1.5 s, nwaku waits 4 s; round trips above one second are rare, and a lookup
    waits for its slowest node.
    """
    challenge_timeout: float = 2.0
    """Until a WHOAREYOU is answered."""
    max_requests: int = 512
    """Maximum requests in progress; further ones fail immediately."""
    max_requests_per_node: int = 8

    # -- sessions
    sessions: int = 1024
    """Maximum sessions (nwaku: 256). One takes about 1 KiB."""
    challenges: int = 1024
    known_records: int = 1024
    """Verified records cached by their bytes, to avoid verifying them again."""

    # -- inbound rates
    packets_per_second: float = 50.0
    """Per IP address."""
    packets_burst: float = 200.0
    handshakes_per_second: float = 200.0
    """For all addresses together: each costs signature operations (about 0.2 ms)."""
    handshakes_burst: float = 400.0
    rate_addresses: int = 4096
    """IP addresses whose rate is tracked."""
    exempt_loopback: bool = False
    """Exempt loopback addresses from the limits per address, to run many nodes on one host."""

    # -- table
    bucket_size: int = 16
    replacements: int = 8
    table_ip_limit: int = 10
    """Maximum nodes per address group (`endpoint.group_of`) in the table."""
    bucket_ip_limit: int = 2
    max_failures: int = 3
    """Consecutive unanswered requests before a verified node is removed; an unverified one is removed at
    once."""
    ban_time: float = 900.0
    bans: int = 1024

    # -- lookups
    lookup_concurrency: int = 3
    lookup_results: int = 16
    lookup_distances: int = 3
    max_lookups: int = 4
    nodes_limit: int = 16
    """Maximum records returned for a FINDNODE."""
    nodes_parts: int = 16
    """Maximum NODES messages per response: in the worst case one record each."""
    walk_seeds: int = 8
    """Nodes of the table that a random walk starts with."""
    walk_silent: int = 6
    """Unanswered requests after which a walk is abandoned."""
    walk_pause: float = 5.0
    """Between random walks that find nothing new (nwaku: 5)."""

    # -- maintenance
    check_interval: float = 10.0
    """Between liveness checks of verified nodes: a random time up to this."""
    check_unverified_interval: float = 0.2
    """Between checks of nodes that were never checked."""
    refresh_interval: float = 300.0
    """Age after which a bucket is refreshed."""

    # -- our own address
    vote_window: float = 300.0
    vote_minimum: int = 3
    """Minimum number of nodes, each in a different address group, that see us at the same endpoint; also
    needs to be more than half of all votes."""
    votes: int = 200
