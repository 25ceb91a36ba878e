"""Peer discovery of a kernel: its state, and methods to change it."""

from __future__ import annotations

from collections.abc import Iterable

from ipc_schema.kernel.discovery import (
    DISCOVERY_BOOTNODES,
    DISCOVERY_FIND_NODE,
    DISCOVERY_LIST,
    DISCOVERY_START,
    DISCOVERY_STATUS,
    DISCOVERY_STOP,
    PEERS_KNOWN,
    BootnodesReply,
    BootnodesRequest,
    DiscoveryRunning,
    DiscoveryStatus,
    FindNodeReply,
    FindNodeRequest,
    KnownPeersReply,
    KnownPeersRequest,
    ListReply,
    ListRequest,
)
from logos_client._calls import Calls, texts
from logos_client._services import PEER_TIMEOUT


class DiscoveryMethods(Calls):
    """The discovery part of a `KernelClient`."""

    async def known_peers(self, limit: int = 100) -> KnownPeersReply:
        """List the best `limit` (500) peers of the node's peer store, connected or not, and their total
        number.

            known = await kernel.known_peers()
            for peer in known.peers:
                if not peer.connected and peer.retry_ms:
                    print(peer.peer_id, "is dialled in", peer.retry_ms // 1000, "s:", peer.why)

        `retry_ms`: until the node would dial it again, 0: at any time; `failures`: consecutive failed
        dials; `why`: the last failure; `last_success_ms`: ms since 1970, 0: never. `enr` is its signed
        record as text, empty if unknown. Raises `BadRequestError`.
        """
        request = KnownPeersRequest(limit=limit)
        return await self._call(KnownPeersReply, PEERS_KNOWN, request.to_body())

    async def discovery(self) -> DiscoveryStatus:
        """Return the state of discovery: the node's own record and addresses, discv5, DNS lists, and missing
        peers.

            status = await kernel.discovery()
            print(status.enr, "online" if status.online else "offline")
            if status.short:
                print("looks for peers on", status.short_shards, "and for", status.short_services)
        """
        return await self._call(DiscoveryStatus, DISCOVERY_STATUS)

    async def discovery_start(self) -> DiscoveryRunning:
        """Start discv5 until `discovery_stop` or the end of the kernel, whatever the configuration says.

            if (await kernel.discovery_start()).changed:
                print("it did not run before")

        Raises `NotReadyError` (its UDP port is taken).
        """
        return await self._call(DiscoveryRunning, DISCOVERY_START)

    async def discovery_stop(self) -> DiscoveryRunning:
        """Stop discv5: its UDP port is released, and the node's record updated. Connections stay.

        assert not (await kernel.discovery_stop()).running
        """
        return await self._call(DiscoveryRunning, DISCOVERY_STOP)

    async def discovery_bootnodes(self, enrs: str | Iterable[str], *, add: bool = False) -> int:
        """Bootstrap discv5 from these nodes (at most 64 records as text, `enr:…`). Return the number of boot
        nodes.

        They replace the current ones; with `add`, they join them.

            other = (await elsewhere.discovery()).enr
            await kernel.discovery_bootnodes(other, add=True)

        Lasts until the kernel ends, even while discv5 does not run. Raises `BadRequestError` (not a record,
        or an invalid signature; nothing changes then).
        """
        request = BootnodesRequest(enrs=texts(enrs), add=add)
        reply = await self._call(BootnodesReply, DISCOVERY_BOOTNODES, request.to_body())
        return reply.boot_nodes

    async def discovery_list(
        self, url: str, *, name_server: str | None = None, use: bool = True, timeout: float = PEER_TIMEOUT
    ) -> ListReply:
        """Have the kernel read a signed node list in the DNS (EIP-1459) once, at most 500 records.

            found = await kernel.discovery_list("enrtree://AKA3AM6L…@nodes.example.org", use=False)
            print(found.seq, len(found.enrs), "" if found.complete else found.errors)

        `name_server`: `<IP>[:<port>]` to ask instead of the configured ones. `use`: the node adds the nodes
        to its store, and dials those it wants. `enrs` are records as text with verified signatures; if
        `complete` is False, some were skipped for the reasons in `errors`.

        Raises `BadRequestError` (not such a URL), `NoPeersError` (no root with a valid signature, or no
        answer), `DeadlineError`.
        """
        request = ListRequest(url=url, name_server=name_server, use=use)
        return await self._call(ListReply, DISCOVERY_LIST, request.to_body(), timeout=timeout)

    async def find_node(self, enr: str, distances: Iterable[int] = ()) -> FindNodeReply:
        """Ask a node by discv5 which nodes it knows at these distances from itself (at most three of 1 to
        256; 0: its own record).

            reply = await kernel.find_node(enr, [256, 255])
            for one in reply.nodes:
                print(one.peer_id, one.cluster, one.shards, one.capabilities)

        Without distances the record is only decoded. `answered` is False, with the reason in `why`, if no
        response came or the node has no address that can be reached. Raises `BadRequestError` (not a record,
        or an invalid signature), `NotReadyError` (discv5 does not run), `RateLimitedError`.
        """
        request = FindNodeRequest(enr=enr, distances=tuple(distances))
        return await self._call(FindNodeReply, DISCOVERY_FIND_NODE, request.to_body())
