"""The runs behind docs/scale.md, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from kernel_proc.relay.params import GossipParams, RelayParams
from tests.simulation.relay.adversaries import Censor, Eclipser, IwantFlooder, Mute, Spammer
from tests.simulation.relay.links import LinkModel
from tests.simulation.relay.network import NodeClass, Settings

FLAT: Final = LinkModel(least=0.1, most=0.1)
"""The same 100 ms between any two nodes."""
HOSTILE: Final[dict[str, NodeClass]] = {
    "mute": Mute,
    "spam": Spammer,
    "iwant": IwantFlooder,
    "censor": Censor,
    "eclipse": Eclipser,
}


def _with_d(d: int) -> RelayParams:
    gossip = GossipParams(d=d, d_low=max(1, d - 2), d_high=d + 2, d_score=min(6, d), d_out=min(3, d // 2))
    return RelayParams(gossip=gossip)


def _published(base: Settings) -> Iterator[tuple[str, Settings]]:
    yield "100 ms links", replace(base, nodes=1000, links=FLAT)
    yield "links by distance", replace(base, nodes=1000)


def _large(base: Settings) -> Iterator[tuple[str, Settings]]:
    yield "10,000 nodes, 8 shards", replace(base, nodes=10_000, shards=8, rate=8.0, seconds=base.seconds / 2)


def _sweep(base: Settings) -> Iterator[tuple[str, Settings]]:
    for d in (4, 6, 8, 12):
        yield f"D {d}", replace(base, nodes=500, params=_with_d(d))
    for size in (256, 1024, 16 * 1024, 64 * 1024, 140 * 1024):
        yield f"{size} B", replace(base, nodes=500, size=size)
    for rate in (1.0, 4.0, 16.0, 64.0):
        yield f"{rate:g} msg/s", replace(base, nodes=500, rate=rate, seconds=base.seconds / max(1, rate / 4))


def _churn(base: Settings) -> Iterator[tuple[str, Settings]]:
    for session in (600.0, 120.0, 30.0):
        yield f"sessions of {session:g} s", replace(base, nodes=500, session=session)


def _outage(base: Settings) -> Iterator[tuple[str, Settings]]:
    for share in (0.1, 0.5, 0.8):
        yield f"{share:.0%} gone at once", replace(base, nodes=500, outage=share)


def _hostile(base: Settings) -> Iterator[tuple[str, Settings]]:
    for name, kind in HOSTILE.items():
        publisher = 0 if kind is Censor else None
        yield f"{name}, 100 of 400", replace(base, nodes=300, others=((kind, 100),), publisher=publisher)


SCENARIOS: Final[dict[str, Callable[[Settings], Iterator[tuple[str, Settings]]]]] = {
    "published": _published,
    "large": _large,
    "sweep": _sweep,
    "churn": _churn,
    "outage": _outage,
    "hostile": _hostile,
}
