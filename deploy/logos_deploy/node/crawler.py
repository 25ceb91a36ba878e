"""Walk a network: ask every node found by discv5 and peer exchange for the nodes that it knows, and dial it.

discv5's own random walks stop when the table is full, and find nodes near the walker first. A crawl asks each
node for its whole table instead, bucket by bucket from the far half of the network (distance 256) inwards,
until buckets are empty: every node in any table is found.
"""

from __future__ import annotations

import asyncio
import contextlib
from base64 import urlsafe_b64encode
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from ipc_schema.config.addresses import is_multiaddr, peer_id_in
from ipc_schema.kernel.discovery import MAX_DISTANCE, EnrRecord
from ipc_schema.kernel.records import PeerRecord
from logos_client.exceptions import BadRequestError, DeadlineError, LogosError, NoPeersError
from logos_client.kernel import KernelClient
from logos_deploy.node.canary import PROTOCOLS, identified
from logos_deploy.node.crawl_census import CrawledNode
from logos_deploy.node.probe_kernel import probe_kernel

_EMPTY_BUCKETS: Final = 3
"""Empty buckets in a row that end the reading of a table: each holds half as much of the network as the one
before, so what is nearer than these is known to others as well."""
_EXCHANGED: Final = 60
"""Most records that a node hands out by peer exchange (nwaku)."""


@dataclass(frozen=True, slots=True)
class CrawlPlan:
    """What to crawl, and its limits. `bootstrap`: records, multiaddrs and signed lists."""

    cluster: int
    bootstrap: tuple[str, ...]
    listen_address: str
    """Where discv5 asks from."""
    name_server: str | None
    limit: int
    """Most nodes."""
    seconds: float
    """For all."""
    timeout: float
    """For each dial and question, in seconds."""
    parallel: int


@contextlib.asynccontextmanager
async def crawling(plan: CrawlPlan) -> AsyncIterator[Crawl]:
    """Start the kernel of a crawl."""
    options = (
        f"--cluster-id={plan.cluster}",
        "--num-shards-in-network=0",
        f"--listen-address={plan.listen_address}",
        "--discv5-discovery=true",
        "--discv5-udp-port=0",
        "--peer-exchange-discovery=false",
        # Many nodes of one host are one operator's fleet here, not an attack.
        "--ip-colocation-limit=0",
    )
    async with probe_kernel(options) as client:
        yield Crawl(client, plan)


@dataclass(slots=True)
class Crawl:
    """A crawl under way: `nodes` may be read at any time."""

    client: KernelClient
    plan: CrawlPlan
    nodes: dict[str, CrawledNode] = field(default_factory=dict)
    complete: bool = False
    """Every node found was asked."""
    cut_off: str = ""
    """The limit that ended it otherwise."""
    problems: list[str] = field(default_factory=list)
    """Bootstrap lists that could not be read."""
    _waiting: deque[CrawledNode] = field(default_factory=deque)
    _seen: set[str] = field(default_factory=set)
    """Records that were decoded already."""

    @property
    def waiting(self) -> int:
        """The number of nodes that were found and not asked yet."""
        return len(self._waiting)

    @property
    def answered(self) -> int:
        """The number of nodes that answered at all."""
        return sum(bool(node.discv5 or node.dialled) for node in self.nodes.values())

    async def run(self, progress: Callable[[Crawl], None]) -> None:
        """Walk until every node was asked, or a limit is reached. `progress` is called after each node."""
        try:
            async with asyncio.timeout(self.plan.seconds):
                await self._bootstrap()
                await self._walk(progress)
        except TimeoutError:
            self.cut_off = f"--max-seconds={self.plan.seconds:g}"
        self.complete = not self.cut_off

    async def _bootstrap(self) -> None:
        for entry in self.plan.bootstrap:
            if entry.startswith("enr:"):
                await self._decode([entry])
            elif is_multiaddr(entry):
                self._found(str(peer_id_in(entry)), addresses=(entry,))
            else:
                await self._read_list(entry)

    async def _read_list(self, url: str) -> None:
        try:
            listed = await self.client.discovery_list(
                url, name_server=self.plan.name_server, use=False, timeout=self.plan.timeout
            )
        except (NoPeersError, DeadlineError) as error:
            self.problems.append(f"{url}: {error.message}")
        else:
            await self._decode(listed.enrs)

    async def _walk(self, progress: Callable[[Crawl], None]) -> None:
        running: set[asyncio.Task[None]] = set()
        try:
            while self._waiting or running:
                while self._waiting and len(running) < self.plan.parallel:
                    running.add(asyncio.create_task(self._visit(self._waiting.popleft())))
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                progress(self)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    # --- what is found ---

    def _found(
        self, peer_id: str, *, record: EnrRecord | None = None, addresses: tuple[str, ...] = ()
    ) -> None:
        node = self.nodes.get(peer_id)
        if is_new := node is None:
            if len(self.nodes) >= self.plan.limit:
                self.cut_off = f"--limit={self.plan.limit}"
                return
            node = self.nodes[peer_id] = CrawledNode(peer_id, addresses=addresses)
        is_newer = record is not None and node.learn(record)
        # A node known by address, or by a stale record, is asked again once its record is known.
        if is_new or (is_newer and not node.discv5):
            self._waiting.append(node)

    def _records(self, records: Iterable[EnrRecord]) -> None:
        for record in records:
            self._found(record.peer_id, record=record)
            if record.peer_id in self.nodes:
                self._seen.add(record.enr)

    async def _decode(self, enrs: Iterable[str]) -> None:
        for enr in enrs:
            if enr not in self._seen:
                self._records([(await self.client.find_node(enr)).node])

    # --- one node ---

    async def _visit(self, node: CrawledNode) -> None:
        if node.record is not None and not node.discv5:
            await self._read_table(node, node.record.enr)
        # The kernel leaves nodes of other networks, and they us: their record is all that can be had.
        if node.addresses and not node.dialled and node.cluster in (None, self.plan.cluster):
            await self._dial(node)

    async def _read_table(self, node: CrawledNode, enr: str) -> None:
        """Ask for the node's own record, in case it has changed, and then for each bucket of its table."""
        empty = 0
        for distance in (0, *range(MAX_DISTANCE, 0, -1)):
            try:
                reply = await self.client.find_node(enr, (distance,))
            except LogosError as error:
                node.why = error.message
                return
            if not reply.answered:
                if distance == 0:
                    node.discv5, node.why = False, reply.why
                return
            node.discv5 = True
            self._records(reply.nodes)
            empty = 0 if reply.nodes else empty + 1
            if empty == _EMPTY_BUCKETS:
                return

    async def _dial(self, node: CrawledNode) -> None:
        error: str | None = "no answer"
        node.dialled = False
        for address in node.addresses:
            try:
                (result,) = await self.client.connect_peers(address, timeout=self.plan.timeout)
            except LogosError as failure:
                error = failure.message
            else:
                error = result.error
            if error is None:
                break
        if error is not None:
            node.why = error
            return
        node.dialled = True
        try:
            peer, node.why = await identified(self.client, node.peer_id)
            if peer is not None:
                await self._describe(node, peer)
        except LogosError as failure:
            node.why = failure.message
        await self.client.disconnect_peer(node.peer_id)

    async def _describe(self, node: CrawledNode, peer: PeerRecord) -> None:
        node.agent, node.protocols = peer.agent, peer.protocols
        if peer.cluster is not None:
            node.cluster, node.shards = peer.cluster, peer.shards
        if any(one.startswith(begin) for one in peer.protocols for begin in PROTOCOLS["peer-exchange"]):
            found = await self.client.peer_exchange(_EXCHANGED, peer=node.peer_id, timeout=self.plan.timeout)
            for raw in found.enrs:
                # Not a record, or forged: it names no node.
                with contextlib.suppress(BadRequestError):
                    await self._decode(["enr:" + urlsafe_b64encode(raw).rstrip(b"=").decode()])
