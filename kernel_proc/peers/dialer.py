"""Keep connections to the configured peers, with one task per address."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from random import Random

import trio

from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import BadAddress, EndCause, Host, HostEvents, P2pError, PeerIdText
from kernel_proc.peers.backoff import DialBackoff
from logos_process.logs import fields

log = logging.getLogger(__name__)


class StaticDialer(HostEvents):
    """Dial each address, wait until its peer disconnects, and dial again. Add it to the host's listeners.

    `connected(peer id, address)` is called for each connection that was made or found.
    """

    def __init__(
        self,
        host: Host,
        addresses: Sequence[str],
        registry: Registry,
        rng: Random,
        connected: Callable[[PeerIdText, str], None] = lambda _peer, _address: None,
    ) -> None:
        self._host = host
        self.addresses = tuple(dict.fromkeys(addresses))
        self._rng = rng
        self._connected = connected
        self._gone: dict[PeerIdText, trio.Event] = {}
        self.troubles: dict[str, str] = {}
        """Why each unconnected address failed most recently."""
        self._succeeded = registry.counter("peers_dials", outcome="successful")
        self._failed = registry.counter("peers_dials", outcome="failed")
        self._initiated = registry.counter("node_conns_initiated", source="static")
        self._unusable = registry.counter("peers_errors", type="bad_address")

    async def run(self) -> None:
        """Dial until cancelled. Without a usable address, wait: the node keeps running."""
        async with trio.open_nursery() as nursery:
            for address in self.addresses:
                nursery.start_soon(self._keep, address, name=f"dial {address}")
            await trio.sleep_forever()

    def _note(self, address: str, reason: str) -> None:
        self.troubles.pop(address, None)
        self.troubles[address] = reason

    async def _keep(self, address: str) -> None:
        backoff = DialBackoff(self._rng)
        while True:
            try:
                peer_id = await self._host.connect(address)
            except BadAddress as error:
                self._note(address, str(error))
                self._unusable.add()
                log.warning("unusable peer address", extra=fields(address=address, reason=str(error)))
                return
            except P2pError as error:
                self._failed.add()
                self._note(address, str(error))
                delay = backoff.failed()
                # Log only the first failure of a row prominently.
                level = logging.WARNING if backoff.failures == 1 else logging.DEBUG
                log.log(
                    level,
                    "peer unreachable",
                    extra=fields(address=address, reason=str(error), again_in=round(delay, 1)),
                )
                await trio.sleep(delay)
                continue
            if peer_id == self._host.peer_id:
                log.warning("unusable peer address", extra=fields(address=address, reason="our own"))
                return
            self._succeeded.add()
            self._initiated.add()
            self.troubles.pop(address, None)
            self._connected(peer_id, address)
            since = trio.current_time()
            gone = self._gone.setdefault(peer_id, trio.Event())
            if self._host.is_connected(peer_id):
                await gone.wait()
            await trio.sleep(backoff.lost(trio.current_time() - since))

    # --- host events ---

    def peer_disconnected(self, peer_id: PeerIdText, reason: str, cause: EndCause = EndCause.OTHER) -> None:  # noqa: ARG002 - HostEvents
        """Wake the task that waits for this peer's disconnect."""
        log.debug("peer disconnected", extra=fields(peer=peer_id, reason=reason))
        gone = self._gone.pop(peer_id, None)
        if gone is not None:
            gone.set()
