"""What a run shows, in one flat record: a row of the CSV files."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from tests.simulation.relay.network import Network


@dataclass(frozen=True, slots=True)
class Report:
    """Times in seconds, rates in KB (1,000 bytes)/s for each honest node while messages are published."""

    nodes: int
    shards: int
    size: int
    rate: float
    d: int
    seed: int
    messages: int
    delivered: float
    """Share of what was due that arrived."""
    mean: float
    p50: float
    p95: float
    p99: float
    most: float
    hops_mean: float
    hops_most: int
    in_kbps: float
    out_kbps: float
    control_share: float
    """Share of control in what is sent."""
    duplicates: float
    """Copies beyond the first for each first one."""
    mesh_mean: float
    score_p5: float
    """Fifth percentile of the scores that honest nodes give their peers."""
    score_p50: float
    dishonest_linked: float
    """Dishonest nodes that an honest one is connected to, on average."""
    victim: float
    """Share of what node 0 was due, or published, that arrived."""
    recovered: float | None
    """Seconds after an outage until every node had a full mesh again."""
    healthy: float
    """Share of nodes with a full mesh at the end."""
    events: int

    def row(self) -> dict[str, Any]:
        """The record with figures rounded for people."""
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def report(network: Network) -> Report:
    """Sum up a run."""
    settings = network.settings
    honest = [node for node in network.nodes if node.honest]
    latencies = sorted(value for sent in network.sent.values() for value in sent.latencies.values())
    hops = [value for sent in network.sent.values() for value in sent.hops.values()]
    due = sum(len(sent.due) for sent in network.sent.values())
    now = network.events.now
    scores = sorted(
        parts.total
        for node in honest
        if node.up
        for peer in node.linked
        if (parts := node.router.score_parts(peer, now)) is not None
    )
    sent = sum(node.uplink.sent_bytes for node in honest)
    received = sum(node.received_bytes for node in honest)
    return Report(
        nodes=settings.nodes,
        shards=settings.shards,
        size=settings.size,
        rate=settings.rate,
        d=settings.params.gossip.d,
        seed=settings.seed,
        messages=len(network.sent),
        delivered=len(latencies) / due if due else 0.0,
        mean=statistics.fmean(latencies) if latencies else 0.0,
        p50=_at(latencies, 0.50),
        p95=_at(latencies, 0.95),
        p99=_at(latencies, 0.99),
        most=latencies[-1] if latencies else 0.0,
        hops_mean=statistics.fmean(hops) if hops else 0.0,
        hops_most=max(hops, default=0),
        in_kbps=received / len(honest) / settings.seconds / 1000,
        out_kbps=sent / len(honest) / settings.seconds / 1000,
        control_share=sum(node.uplink.control_bytes for node in honest) / sent if sent else 0.0,
        duplicates=sum(node.duplicates for node in honest) / len(latencies) if latencies else 0.0,
        mesh_mean=statistics.fmean(
            len(node.router.mesh_peers(topic)) for node in honest for topic in node.router.subscriptions()
        ),
        score_p5=_at(scores, 0.05),
        score_p50=_at(scores, 0.50),
        dishonest_linked=sum(not network.node(peer).honest for node in honest for peer in node.linked)
        / len(honest),
        victim=_victim(network),
        recovered=network.recovered,
        healthy=network.healthy(),
        events=network.events.count,
    )


def _victim(network: Network) -> float:
    due = arrived = 0
    for sent in network.sent.values():
        if sent.publisher == 0:
            due += len(sent.due)
            arrived += len(sent.latencies)
        elif 0 in sent.due:
            due += 1
            arrived += 0 in sent.latencies
    return arrived / due if due else 0.0


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
