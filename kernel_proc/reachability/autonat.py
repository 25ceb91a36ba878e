"""AutoNAT 1.0.0, client: ask peers to dial us back, and so find out whether strangers can reach us."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

import trio

from kernel_proc.metrics import Registry, Sample
from kernel_proc.p2p.api import Host, PeerIdText
from kernel_proc.protocols.requests import CallError, call
from kernel_proc.reachability.autonat_codec import (
    MAX_MESSAGE,
    PROTOCOL,
    decode_response,
    encode_request,
)
from kernel_proc.reachability.dialled import dialled_peers
from kernel_proc.reachability.verdict import Reachability, ReachabilityVerdict
from logos_process.logs import fields

log = logging.getLogger(__name__)

PERIOD: Final = 30.0
"""Seconds between rounds until there is a verdict (nwaku's interval)."""
SETTLED_PERIOD: Final = 300.0
"""Seconds between rounds afterwards: each is a dial at three peers."""
PEERS: Final = 3
TIMEOUT: Final = 30.0
"""A peer that cannot reach us says so after its dial has timed out, 15 s at go-libp2p."""


class AutonatClient:
    """`addresses` returns the addresses to try; without any, no peer is asked."""

    def __init__(
        self, host: Host, addresses: Callable[[], Sequence[str]], registry: Registry, rng: Random
    ) -> None:
        self._host = host
        self._addresses = addresses
        self._rng = rng
        self._verdict = ReachabilityVerdict()
        self._asked: tuple[str, ...] = ()
        self._errors = registry.counter("autonat_errors")
        registry.add_source(self._samples)

    @property
    def reachability(self) -> Reachability:
        """The verdict so far."""
        return self._verdict.current

    async def run(self) -> None:
        """Ask round after round until cancelled."""
        while True:
            await self._round()
            await trio.sleep(PERIOD if self.reachability is Reachability.UNKNOWN else SETTLED_PERIOD)

    async def _round(self) -> None:
        addresses = tuple(self._addresses())
        if addresses != self._asked:
            self._asked = addresses
            self._verdict.forget()
        if not addresses:
            return
        async with trio.open_nursery() as nursery:
            for peer_id in self._choose():
                nursery.start_soon(self._ask, peer_id, addresses)

    def _choose(self) -> list[PeerIdText]:
        """Choose among the peers that we have dialled: those that dialled us can reach us anyway, and an
        attacker that connects to us must not get a vote."""
        found = dialled_peers(self._host, PROTOCOL)
        return self._rng.sample(found, min(PEERS, len(found)))

    async def _ask(self, peer_id: PeerIdText, addresses: Sequence[str]) -> None:
        try:
            response = await call(
                self._host,
                peer_id,
                (PROTOCOL,),
                encode_request(self._host.peer_id, addresses),
                decode=decode_response,
                max_response=MAX_MESSAGE,
                deadline=TIMEOUT,
            )
        except CallError as error:
            self._errors.add()
            log.debug("AutoNAT request to %s failed: %s", peer_id, error)
            return
        # Our addresses may have changed while the peer dialled: its verdict is then about the old ones.
        if self._asked == addresses and self._verdict.take(response.status):
            log.info("peers report our reachability", extra=fields(reachability=self.reachability))

    def _samples(self) -> list[Sample]:
        # Name and labels of nim-libp2p.
        names = {"Reachable": Reachability.PUBLIC, "NotReachable": Reachability.PRIVATE}
        return [
            ("libp2p_autonat_reachability_confidence", {"reachability": name}, self._verdict.confidence(one))
            for name, one in names.items()
        ]
