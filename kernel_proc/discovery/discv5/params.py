"""The numbers of discv5, with nwaku's (nim-eth's) beside ours where they differ."""

from __future__ import annotations

from dataclasses import dataclass

from kernel_proc.discovery.discv5.packets import WAKU_PROTOCOL_ID

__all__ = ["Params"]


@dataclass(frozen=True, slots=True)
class Params:
    """Times in seconds."""

    protocol_id: bytes = WAKU_PROTOCOL_ID

    # -- requests
    request_timeout: float = 2.0
    """Until a response is there, with the handshake before it. The specification recommends 0.5 to 1.5,
    nwaku waits 4; round trips above one second are rare, and a lookup waits for its slowest."""
    challenge_timeout: float = 2.0
    """Until the answer to a WHOAREYOU is there."""
    max_requests: int = 512
    """Under way at once. Further ones fail at once."""
    max_requests_per_node: int = 8

    # -- sessions
    sessions: int = 1024
    """nwaku: 256. One is about 1 KiB."""
    challenges: int = 1024
    known_records: int = 1024
    """Verified records remembered by their bytes, so that the same ones need not be verified again."""

    # -- rates of what comes in
    packets_per_second: float = 50.0
    """From one IP address."""
    packets_burst: float = 200.0
    handshakes_per_second: float = 200.0
    """From all addresses together: each costs signatures (about 0.2 ms)."""
    handshakes_burst: float = 400.0
    rate_addresses: int = 4096
    """IP addresses whose rate is remembered."""
    exempt_loopback: bool = False
    """No limits per address for this machine's own: for many nodes on one host."""

    # -- table
    bucket_size: int = 16
    replacements: int = 8
    table_ip_limit: int = 10
    """Nodes of one group of addresses (`endpoint.group_of`) in the table."""
    bucket_ip_limit: int = 2
    max_failures: int = 3
    """Requests in a row that a node once verified may leave without answer; one never verified none."""
    ban_time: float = 900.0
    bans: int = 1024

    # -- lookups
    lookup_concurrency: int = 3
    lookup_results: int = 16
    lookup_distances: int = 3
    max_lookups: int = 4
    nodes_limit: int = 16
    """Records that a FINDNODE gives."""
    nodes_parts: int = 16
    """Parts of an answer that are waited for: one record each, at worst."""
    walk_seeds: int = 8
    """Nodes of the table that a random walk asks first."""
    walk_silent: int = 6
    """Nodes without answer after which a walk is left."""
    walk_pause: float = 5.0
    """Between two random walks, when they show nothing new (nwaku: 5)."""

    # -- upkeep
    check_interval: float = 10.0
    """Between two liveness checks of verified nodes: a random time up to this."""
    check_unverified_interval: float = 0.2
    """Between two checks of nodes that were never checked."""
    refresh_interval: float = 300.0
    """A bucket not looked into for so long is looked into."""

    # -- our own address
    vote_window: float = 300.0
    vote_minimum: int = 3
    """Nodes, each of another group of addresses, that must see us at the same endpoint; and more than half
    of all that say anything."""
    votes: int = 200
