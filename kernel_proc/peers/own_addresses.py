"""Our own addresses: bound, configured, mapped on a router, and observed by peers. Pure.

A single peer's observation is worthless; the majority of several, each in a different address group, is
accepted. Only the IP is believed: the port a peer sees is that of one outbound connection.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from kernel_proc.ip_group import ip_of

QUORUM: Final = 3
"""Observers, each in a different address group, that must see the same address; it also needs more than
half of all."""
OBSERVERS: Final = 64
"""Maximum observers whose last observation is remembered."""


def is_public(address: str) -> bool:
    """Return whether a multiaddr may be reachable from anywhere; names count as public."""
    ip = ip_of(address)
    return ip is None or ip.is_global


class OwnAddresses:
    """Our addresses. `bound` ones, without peer id, are set once the listeners are up."""

    def __init__(
        self,
        *,
        external: Sequence[str] = (),
        only_external: bool = False,
        external_ip: str | None = None,
        domain: str | None = None,
        observing: bool = False,
    ) -> None:
        self._external = tuple(one.split("/p2p/")[0] for one in external)
        self._only_external = only_external
        self._external_ip = external_ip
        self._domain = domain
        self._observing = observing and external_ip is None and not only_external
        self._bound: tuple[str, ...] = ()
        self._mapped: tuple[str | None, dict[int, int]] = None, {}
        self._relayed: tuple[str, ...] = ()
        self._seen: OrderedDict[tuple[int, str], str] = OrderedDict()
        self._observed: dict[int, str] = {}

    @property
    def observed(self) -> tuple[str, ...]:
        """The IP addresses that a majority of observers agrees on."""
        return tuple(self._observed.values())

    def bind(self, addresses: Iterable[str]) -> None:
        """Set the listeners' addresses, with wildcards replaced by the addresses of this machine."""
        self._bound = tuple(addresses)

    def map(self, ip: str | None, ports: Mapping[int, int]) -> bool:
        """Set the router's address, and at which of its TCP ports it passes connections on to which of ours.
        Return whether our announcement changed."""
        before, self._mapped = self._mapped, (ip, dict(ports))
        return self._mapped != before

    def relay(self, addresses: Sequence[str]) -> None:
        """Set the addresses through relays, which end with /p2p-circuit."""
        self._relayed = tuple(addresses)

    def observe(self, observer: str, address: str) -> bool:
        """Record at which multiaddr a peer in group `observer` sees us. Return whether our announcement
        changed."""
        ip = ip_of(address)
        if "/p2p-circuit" in address:
            return False  # the relay's
        if not self._observing or ip is None or not ip.is_global:
            return False
        key = ip.version, observer
        self._seen[key] = str(ip)
        self._seen.move_to_end(key)
        while len(self._seen) > OBSERVERS:
            self._seen.popitem(last=False)
        return self._agree(ip.version)

    def agreed(self, ip: str) -> bool:
        """Record an address on which others agreed by other means (discv5). Return whether our
        announcement changed."""
        parsed = ipaddress.ip_address(ip)
        if not self._observing or not parsed.is_global or self._observed.get(parsed.version) == ip:
            return False
        self._observed[parsed.version] = ip
        return True

    def _agree(self, version: int) -> bool:
        said = Counter(ip for (one, _), ip in self._seen.items() if one == version)
        ip, count = said.most_common(1)[0]
        if count < QUORUM or 2 * count <= said.total() or self._observed.get(version) == ip:
            return False
        self._observed[version] = ip
        return True

    def announced(self) -> tuple[str, ...]:
        """Return the addresses for identify, best first."""
        if self._only_external:
            return self._external
        found = [*self._external]
        outside = [self._external_ip] if self._external_ip else list(self._observed.values())
        router, ports = self._mapped
        for bound in self._bound:
            _, kind, _, rest = bound.split("/", 3)
            _, port, *more = rest.split("/")
            mapped = ports.get(int(port)) if kind == "ip4" else None
            if mapped is not None:
                rest = "/".join(("tcp", str(mapped), *more))
            if self._domain is not None and kind == "ip4":
                found.append(f"/dns4/{self._domain}/{rest}")
            if self._needs_name(bound):
                continue
            if mapped is not None:
                found.append(f"/ip4/{router}/{rest}")  # the port that a peer would see is another one
                continue
            found += [
                f"/ip{6 if ':' in ip else 4}/{ip}/{rest}" for ip in outside if (":" in ip) == (kind == "ip6")
            ]
        found += self._relayed
        bare = [one for one in self._bound if not self._needs_name(one)]
        # Loopback addresses are only useful to peers on this machine.
        found += [one for one in bare if not _is_loopback(one)] or bare
        return tuple(dict.fromkeys(found))

    def _needs_name(self, bound: str) -> bool:
        """Return whether a dial by IP address would fail: the certificate is that of the domain."""
        return self._domain is not None and bound.endswith("/wss")

    def dialable(self) -> tuple[str, ...]:
        """Return the announced addresses at which others may dial us directly: neither those on this machine
        only, nor those of relays."""
        return tuple(one for one in self.announced() if one not in self._relayed and not _is_loopback(one))

    def for_record(self) -> tuple[str, ...]:
        """Return the addresses for the ENR: it has little room, and private addresses are useless to
        others."""
        announced = self.announced()
        return tuple(filter(is_public, announced)) or announced


def _is_loopback(address: str) -> bool:
    ip = ip_of(address)
    return ip is not None and ip.is_loopback
