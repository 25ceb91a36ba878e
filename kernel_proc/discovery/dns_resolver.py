"""TXT records by dnspython, under trio: the operator's name servers, or those of the system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import dns.exception
import dns.name
import dns.rdatatype
from dns.rdtypes.ANY.TXT import TXT

from ipc_schema.config.discovery import NameServer
from kernel_proc.discovery.dns_client import DnsFailure

__all__ = ["DnsTxtResolver"]

TIMEOUT: Final = 3.0
"""Seconds for one server."""
LIFETIME: Final = 8.0
"""Seconds for one name, all servers and repeats."""


class DnsTxtResolver:
    """Asks over UDP, and over TCP what does not fit. Raises DnsFailure when the system has no name server."""

    def __init__(self, servers: Sequence[NameServer] = (), *, lifetime: float = LIFETIME) -> None:
        # Here and not above: dnspython's resolver brings QUIC and asyncio with it, for a node that asks no
        # DNS too.
        import dns.asyncresolver

        try:
            self._resolver = dns.asyncresolver.Resolver(configure=not servers)
        except dns.exception.DNSException as error:
            raise DnsFailure(f"the name servers of the system are not known: {error}") from error
        if servers:
            self._resolver.nameservers = [server.ip for server in servers]
            self._resolver.nameserver_ports = {server.ip: server.port for server in servers}
        self._resolver.timeout = TIMEOUT
        self._resolver.lifetime = lifetime
        self._resolver.use_edns(0, 0, 1232)

    async def txt(self, name: str) -> list[str]:
        """See `TxtResolver`."""
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
