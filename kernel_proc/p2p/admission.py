"""Connection limits, before and after the handshake. Pure: counts only, no sockets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from kernel_proc.ip_group import ip_group
from kernel_proc.p2p.limits import HostLimits


class Admission:
    """Count connections against the limits.

    An inbound connection calls `admit` on accept (before reading a byte), `establish` after its handshake,
    and `release` at its end; an outbound one calls `establish` and `release`, and `dialling` before. A
    refusal is the name of the counter to increment.

    Connections that we dialled count towards the limit per IP too: otherwise a host could double its share by
    making us dial it, and the relay's colocation score (P6), which counts both directions, would penalise all
    of them. Only inbound connections are refused for it: outbound dials are the caller's choice.
    """

    def __init__(self, limits: HostLimits) -> None:
        self._limits = limits
        self._half_open: Counter[str] = Counter()
        self._per_ip: Counter[str] = Counter()
        self._dialling: Counter[str] = Counter()
        self._inbound_total = 0
        self.half_open = 0
        """Number of inbound connections in their handshake."""
        self._outbound_total = 0
        self._per_peer: Counter[str] = Counter()

    @property
    def established(self) -> int:
        """Number of connections past their handshake, in both directions."""
        return self._inbound_total + self._outbound_total

    def admit(self, ip: str) -> str | None:
        """Reserve a half-open slot for an inbound connection, or return why not."""
        limits, group = self._limits, ip_group(ip)
        if self.half_open >= limits.max_half_open:
            return "refused_half_open"
        if limits.max_half_open_per_ip and self._half_open[group] >= limits.max_half_open_per_ip:
            return "refused_half_open_ip"
        if limits.max_per_ip and self._at(group) + self._half_open[group] >= limits.max_per_ip:
            return "refused_ip"
        # Half-open ones do not count here: connections that never finish must not keep out those that do.
        if self._inbound_total >= limits.max_inbound or self.established >= limits.max_connections:
            return "refused_total"
        self._half_open[group] += 1
        self.half_open += 1
        return None

    def settle(self, ip: str) -> None:
        """Return the half-open slot: the handshake succeeded or failed."""
        self._decrement(self._half_open, ip_group(ip))
        self.half_open -= 1

    def establish(self, peer_id: str, ip: str, *, inbound: bool) -> str | None:
        """Reserve a slot for a connection past its handshake, or return why not."""
        limits = self._limits
        if self._per_peer[peer_id] >= limits.max_per_peer:
            return "refused_peer"
        if inbound and limits.max_per_ip and self._at(ip_group(ip)) >= limits.max_per_ip:
            return "refused_ip"  # a dial to the same address started during the handshake
        if self.established >= limits.max_connections or (
            inbound and self._inbound_total >= limits.max_inbound
        ):
            return "refused_total"
        self._per_peer[peer_id] += 1
        self._per_ip[ip_group(ip)] += 1
        if inbound:
            self._inbound_total += 1
        else:
            self._outbound_total += 1
        return None

    def release(self, peer_id: str, ip: str, *, inbound: bool) -> None:
        """Return the slot of `establish`."""
        self._decrement(self._per_peer, peer_id)
        self._decrement(self._per_ip, ip_group(ip))
        if inbound:
            self._inbound_total -= 1
        else:
            self._outbound_total -= 1

    @contextmanager
    def dialling(self, ip: str) -> Iterator[None]:
        """Reserve a slot at an address while it is being dialled."""
        group = ip_group(ip)
        self._dialling[group] += 1
        try:
            yield
        finally:
            self._decrement(self._dialling, group)

    def _at(self, group: str) -> int:
        return self._per_ip[group] + self._dialling[group]

    def can_dial(self) -> bool:
        """Return whether there is room for another outbound connection."""
        return self.established < self._limits.max_connections

    @staticmethod
    def _decrement(counter: Counter[str], key: str) -> None:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]  # do not remember peers that are gone
