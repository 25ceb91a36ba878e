"""How a kernel finds its peers: what its client can see of that, and change."""

from __future__ import annotations

from collections.abc import Iterable

from ipc_schema.kernel.discovery import (
    DISCOVERY_BOOTNODES,
    DISCOVERY_LIST,
    DISCOVERY_START,
    DISCOVERY_STATUS,
    DISCOVERY_STOP,
    PEERS_KNOWN,
    BootnodesReply,
    BootnodesRequest,
    DiscoveryRunning,
    DiscoveryStatus,
    KnownPeersReply,
    KnownPeersRequest,
    ListReply,
    ListRequest,
)
from logos_client._calls import Calls, texts
from logos_client._services import PEER_TIMEOUT

__all__ = ["DiscoveryMethods"]


class DiscoveryMethods(Calls):
    """The part of a `KernelClient` that is about finding peers."""

    async def known_peers(self, limit: int = 100) -> KnownPeersReply:
        """The node's peer store: the `limit` (500) most valuable peers of it, connected or not, and how many
        there are in all.

            known = await kernel.known_peers()
            for peer in known.peers:
                if not peer.connected and peer.retry_ms:
                    print(peer.peer_id, "is dialled in", peer.retry_ms // 1000, "s:", peer.why)

        `retry_ms`: until the node would dial it again, 0: at any time; `failures`: dials that failed in a
        row; `why`: what went wrong the last time; `last_success_ms`: ms since 1970, 0: never. `enr` is its
        signed record as text, empty where none is known. Raises `BadRequestError`.
        """
        request = KnownPeersRequest(limit=limit)
        return await self._call(KnownPeersReply, PEERS_KNOWN, request.to_body())

    async def discovery(self) -> DiscoveryStatus:
        """How the node finds its peers: its own record and addresses, discv5, lists in the DNS, and whether
        it has what it wants.

            status = await kernel.discovery()
            print(status.enr, "online" if status.online else "offline")
            if status.short:
                print("looks for peers on", status.short_shards, "and for", status.short_services)
        """
        return await self._call(DiscoveryStatus, DISCOVERY_STATUS)

    async def discovery_start(self) -> DiscoveryRunning:
        """Start discv5, until `discovery_stop` or the end of the kernel, whatever the configuration says.

            if (await kernel.discovery_start()).changed:
                print("it did not run before")

        Raises `NotReadyError` (its UDP port is taken).
        """
        return await self._call(DiscoveryRunning, DISCOVERY_START)

    async def discovery_stop(self) -> DiscoveryRunning:
        """Stop discv5: its UDP port is free, and the node's record says so. Connections stay.

        assert not (await kernel.discovery_stop()).running
        """
        return await self._call(DiscoveryRunning, DISCOVERY_STOP)

    async def discovery_bootnodes(self, enrs: str | Iterable[str], *, add: bool = False) -> int:
        """Enter discv5 by these nodes (at most 64 records, as text: `enr:…`) instead of those it had; with
        `add` beside them. How many boot nodes there are now.

            other = (await elsewhere.discovery()).enr
            await kernel.discovery_bootnodes(other, add=True)

        It holds until the kernel ends, also while discv5 does not run. Raises `BadRequestError` (no record,
        or its signature is wrong; nothing is changed then).
        """
        request = BootnodesRequest(enrs=texts(enrs), add=add)
        reply = await self._call(BootnodesReply, DISCOVERY_BOOTNODES, request.to_body())
        return reply.boot_nodes

    async def discovery_list(
        self, url: str, *, name_server: str | None = None, use: bool = True, timeout: float = PEER_TIMEOUT
    ) -> ListReply:
        """Have the kernel read a signed list of nodes in the DNS (EIP-1459) once, at most 500 records.

            found = await kernel.discovery_list("enrtree://AKA3AM6L…@nodes.example.org", use=False)
            print(found.seq, len(found.enrs), "" if found.complete else found.errors)

        `name_server`: `<IP>[:<port>]` to ask instead of those configured. `use`: the node takes the nodes for
        its own, and dials those it wants. `enrs` are records as text, whose signatures were checked; where
        `complete` is False something is left out, for the reasons in `errors`.

        Raises `BadRequestError` (no such URL), `NoPeersError` (no root with the right signature, or nobody
        answers), `DeadlineError`.
        """
        request = ListRequest(url=url, name_server=name_server, use=use)
        return await self._call(ListReply, DISCOVERY_LIST, request.to_body(), timeout=timeout)
