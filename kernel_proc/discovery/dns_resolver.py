"""TXT lookups with dnspython under trio, using the operator's name servers or those of the system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import dns.exception
import dns.name
import dns.rdatatype
from dns.rdtypes.ANY.TXT import TXT

from ipc_schema.config.discovery import NameServer

TIMEOUT: Final = 3.0
"""Seconds per server."""
LIFETIME: Final = 8.0
"""Seconds per name, over all servers and retries."""


class DnsFailure(Exception):
    """A name has no usable TXT record, or no server responded."""


class DnsTxtResolver:
    """Query over UDP, and over TCP for truncated answers. Raise DnsFailure without a system name server."""

    def __init__(self, servers: Sequence[NameServer] = (), *, lifetime: float = LIFETIME) -> None:
        # Imported late: dnspython's resolver pulls in QUIC and asyncio, which nodes without DNS discovery do
        # not need.
        import dns.asyncresolver

        try:
            self._resolver = dns.asyncresolver.Resolver(configure=not servers)
        except dns.exception.DNSException as error:
            raise DnsFailure(f"cannot determine the system's name servers: {error}") from error
        if servers:
            self._resolver.nameservers = [server.ip for server in servers]
            self._resolver.nameserver_ports = {server.ip: server.port for server in servers}
        self._resolver.timeout = TIMEOUT
        self._resolver.lifetime = lifetime
        self._resolver.use_edns(0, 0, 1232)

    async def txt(self, name: str) -> list[str]:
        """Return the TXT records of a name, with the strings of each joined. Raise DnsFailure."""
        try:
            answer = await self._resolver.resolve(
                dns.name.from_text(name), dns.rdatatype.TXT, search=False, raise_on_no_answer=False
            )
        except (dns.exception.DNSException, OSError) as error:
            raise DnsFailure(f"{name}: {error}") from error
        return [
            b"".join(data.strings).decode("ascii", "replace")
            for data in answer.rrset or ()
            if isinstance(data, TXT)
        ]
