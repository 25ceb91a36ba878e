"""A kernel's state in its network, and what may be wrong with it: "my node finds no peers".

`look` queries a kernel, `diagnose` judges its answers and is pure, `check_sources` judges a configuration
before there is a kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ipc_schema.config.addresses import peer_id_in
from ipc_schema.config.kernel import KernelConfig
from ipc_schema.kernel.discovery import DiscoveryStatus, KnownPeersReply, KnownRecord
from ipc_schema.kernel.records import PeerRecord, ShardHealth
from logos_client.exceptions import LogosError
from logos_client.kernel import KernelClient
from logos_deploy.node.checkup import Finding, Level
from logos_deploy.text import count, duration, one_line

_KNOWN: Final = 500
"""The most that one reply may have."""
_CONFIGURED: Final = (
    "staticnode",
    "entry-node",
    "storenode",
    "filternode",
    "lightpushnode",
    "peer-exchange-node",
)
_OF_ANOTHER_NETWORK: Final = "metadata: "
"""Prefix of a kernel's reason for disconnecting a peer because of its metadata."""
_STRANGERS: Final = "metadata_other_cluster"
_WHERE_TO_BEGIN: Final = "entry-node=<multiaddr, enr:… or enrtree://…>, or a preset"
_MOST: Final = 5
"""Most configured peers that are reported one by one."""
_SAME_NETWORK: Final = "has it the preset, or cluster-id and shards, of the others? (logos config --running)"


@dataclass(frozen=True, slots=True)
class ConfiguredPeer:
    """A peer that an option names by its multiaddr."""

    option: str
    address: str
    connected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkView:
    """A kernel's answers. `known` has at most its best 500 peers."""

    cluster: int
    status: DiscoveryStatus
    connected: Sequence[PeerRecord]
    known: KnownPeersReply
    shards: Sequence[ShardHealth]
    configured: Sequence[ConfiguredPeer]
    strangers: int = 0
    """Peers found to be on another network since the kernel started."""
    reachability: object = None
    """As in `node.info`; None from a kernel that does not know it."""


async def look(client: KernelClient) -> NetworkView:
    """Query a kernel. Raises `LogosError`."""
    connected = await client.peers()
    options = {option.name: option.value for option in await client.config()}
    reachability: object = None
    with suppress(LogosError):  # an older kernel
        reachability = (await client.info(("Reachability",)))["Reachability"]
    return NetworkView(
        cluster=client.network.cluster,
        status=await client.discovery(),
        connected=connected,
        known=await client.known_peers(_KNOWN),
        shards=(await client.health()).shards,
        configured=tuple(_configured(options, {peer.peer_id for peer in connected})),
        strangers=int(sum(value for name, _, value in await client.metrics() if name.endswith(_STRANGERS))),
        reachability=reachability,
    )


def reachable_text(reachability: object) -> str:
    """Return how a node is reached from outside, in one line; empty if its kernel does not say."""
    if not isinstance(reachability, dict):
        return ""
    found = {"public": "yes, say peers that dialled it", "private": "no, say peers that tried to dial it"}
    parts = [found.get(str(reachability.get("autonat")), "not known yet")]
    if relays := reachability.get("relays"):
        parts.append(f"through {count(len(relays), 'relay')}")
    mapping = reachability.get("mapping")
    if isinstance(mapping, dict) and mapping.get("ip"):
        ports = ", ".join(f"{one[0]} {one[1]} at {one[2]}" for one in mapping.get("ports", ()))
        parts.append(one_line(f"ports mapped by {mapping.get('by')} on {mapping['ip']}: {ports}"))
    return "; ".join(parts)


def _configured(options: Mapping[str, object], connected: set[str]) -> Iterator[ConfiguredPeer]:
    for option in _CONFIGURED:
        value = options.get(option)
        for address in value if isinstance(value, list | tuple) else [value]:
            if isinstance(address, str) and (peer_id := peer_id_in(address)) is not None:
                yield ConfiguredPeer(option, address, peer_id in connected)


def reason(peer: KnownRecord) -> str:
    """Return why a peer is not connected, as far as the kernel knows."""
    return one_line(peer.why.removeprefix(_OF_ANOTHER_NETWORK))


def wanted_peers(status: DiscoveryStatus) -> str:
    """Return `relay peers on shards 0 and 3; peers that serve store`; empty if nothing is wanted."""
    if not status.short:
        return ""
    wanted = []
    if shards := status.short_shards:
        wanted.append(f"relay peers on {_numbered('shard', shards)}")
    if status.short_services:
        wanted.append(f"peers that serve {', '.join(status.short_services)}")
    return "; ".join(wanted) or "relay peers"


def _numbered(noun: str, numbers: Sequence[int]) -> str:
    shown = [*map(str, numbers[:8]), *(["…"] if len(numbers) > 8 else [])]
    return f"{noun}{'' if len(numbers) == 1 else 's'} {', '.join(shown)}"


def check_sources(kernel: KernelConfig) -> Finding:
    """Check that a node with this configuration has peers to start from."""
    discovery = kernel.discovery
    boot_nodes = {*discovery.discv5_boot_nodes, *discovery.entry_records}
    named = {*kernel.static_nodes, *kernel.entry_nodes, *kernel.services.nodes}
    ways = [
        count(len(found), noun)
        for found, noun in (
            (discovery.dns_trees, "list in the DNS"),
            (boot_nodes, "node record"),
            (named, "configured peer"),
        )
        if found
    ]
    if ways:
        text = f"begins with {', '.join(ways)}" + ("; discv5" if discovery.discv5 else "")
        return Finding(Level.OK, "peers", text.replace("list in the DNSs", "lists in the DNS"))
    if discovery.discv5:
        return Finding(Level.WARN, "peers", "discv5 is on but has no bootstrap node", _WHERE_TO_BEGIN)
    text = "no source of peers is configured: others must connect to this node"
    if kernel.network.preset:
        return Finding(Level.WARN, "peers", text, _WHERE_TO_BEGIN)
    return Finding(Level.OK, "peers", text)


def diagnose(view: NetworkView) -> Iterator[Finding]:
    """Return the findings, and the state where there are none. Never `FAIL`: the node runs."""
    yield _standing(view)
    if not view.connected:
        yield from _why_no_candidates(view)
    yield from _configured_ones(view)
    for one in view.status.lists:
        if one.error:
            place = one_line(one.url.partition("@")[2])
            text = f"the list {place} cannot be read: {one_line(one.error)}"
            yield Finding(Level.WARN, "discovery", text, "does the host resolve names? dns-addrs-name-server")
    if isinstance(view.reachability, dict) and view.reachability.get("autonat") == "private":
        text = "other nodes tried to dial this one and could not: it has only the peers that it dials itself"
        mapping = view.reachability.get("mapping")
        if isinstance(mapping, dict) and mapping.get("error"):
            text += f"; no router maps its ports: {one_line(str(mapping['error']))}"
        yield Finding(
            Level.WARN,
            "reachability",
            text,
            "open the port on the router (nat=extip:<IP>), or relay-client=true",
        )
    if view.connected and not view.status.addresses:
        text = "no address is announced: no other node can dial this one"
        yield Finding(Level.WARN, "discovery", text, "nat=extip:<IP address>, or ext-multiaddr")


def _standing(view: NetworkView) -> Finding:
    status = view.status
    text = f"{count(len(view.connected), 'peer')} connected, {status.known} known"
    if wanted := wanted_peers(status):
        text += f"; wanted: {wanted}"
    if view.connected:
        return Finding(Level.OK, "peers", text)
    alone = not (_can_ask_for_peers(view) or status.discv5.running)
    return Finding(Level.OK if alone else Level.WARN, "peers", text)


def _can_ask_for_peers(view: NetworkView) -> bool:
    status = view.status
    return bool(
        status.known or status.lists or view.configured or status.discv5.nodes or status.discv5.boot_nodes
    )


def _why_no_candidates(view: NetworkView) -> Iterator[Finding]:
    """The node has no peers: report each possible cause."""
    status, discv5, known = view.status, view.status.discv5, view.known.peers
    if not _can_ask_for_peers(view):
        if discv5.running:
            yield Finding(
                Level.WARN, "discovery", "discv5 is running but has no bootstrap node", _WHERE_TO_BEGIN
            )
        else:
            text = "no source of peers is configured: others must connect to this node"
            yield Finding(Level.OK, "discovery", text, f"to find peers itself: {_WHERE_TO_BEGIN}")
        return
    if discv5.running and (discv5.boot_nodes or discv5.nodes) and not discv5.verified:
        text = f"discv5: none of {count(max(discv5.boot_nodes, discv5.nodes), 'node')} has answered"
        yield Finding(
            Level.WARN,
            "discovery",
            text,
            f"is UDP let through (port {discv5.port})? are the records still valid?",
        )
    if discv5.verified and not any(peer.origin == "discv5" for peer in known):
        text = f"discv5: {count(discv5.verified, 'node')} answered, none of this node's network"
        yield Finding(Level.WARN, "discovery", f"{text} ({_network(view)})", _SAME_NETWORK)
    cut_off = [peer for peer in known if peer.why.startswith(_OF_ANOTHER_NETWORK)]
    if view.strangers:
        text = f"peers of another network were found, {count(view.strangers, 'time')}"
        text += f"; one of them: {reason(cut_off[0])}" if cut_off else f" (this one is of {_network(view)})"
        yield Finding(Level.WARN, "discovery", text, _SAME_NETWORK)
    waiting = [peer for peer in known if peer not in cut_off]
    if waiting and not status.due:
        yield _all_wait(waiting)


def _all_wait(waiting: Sequence[KnownRecord]) -> Finding:
    first = duration(min(peer.retry_ms for peer in waiting) / 1000)
    if len(waiting) == 1:
        text = f"the only known peer is dialled again in {first}"
    else:
        text = f"all {len(waiting)} known peers failed, the first is dialled again in {first}"
    whys = Counter(reason(peer) for peer in waiting if peer.why)
    if whys:
        text += f"; mostly: {whys.most_common(1)[0][0]}"
    return Finding(Level.WARN, "discovery", text, "none is dropped; logos peers --all shows them")


def _network(view: NetworkView) -> str:
    shards = [shard.shard for shard in view.shards]
    return f"cluster {view.cluster}, {_numbered('shard', shards) if shards else 'no shard'}"


def _configured_ones(view: NetworkView) -> Iterator[Finding]:
    known = {peer.peer_id: peer for peer in view.known.peers}
    absent = [one for one in view.configured if not one.connected]
    for one in absent[:_MOST]:
        text = f"{one.option} {one_line(one.address)} is not connected"
        peer = known.get(peer_id_in(one.address) or "")
        if peer is not None and peer.why:
            yield Finding(Level.WARN, "discovery", f"{text}: {reason(peer)}")
        else:
            yield Finding(Level.WARN, "discovery", text, "does it run there? the log says what failed first")
    if len(absent) > _MOST:
        text = f"and {len(absent) - _MOST} more configured peers are not connected"
        yield Finding(Level.WARN, "discovery", text)
