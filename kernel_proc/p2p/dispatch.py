"""Dispatch inbound streams to the mounted protocols."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import trio

from kernel_proc.p2p._errors import ConnectionEnded, NegotiationFailed
from kernel_proc.p2p.api import PeerIdText, StreamClosed, StreamHandler
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.multistream import answer_select
from kernel_proc.p2p.output import Count
from kernel_proc.p2p.stream import MuxedStream

log = logging.getLogger(__name__)


class _Served:
    """A stream being served."""

    __slots__ = ("scope", "start", "stream")

    def __init__(self, stream: MuxedStream) -> None:
        self.stream = stream
        self.start = stream.taken
        self.scope = trio.CancelScope()

    def is_silent(self) -> bool:
        """Whether the peer has sent nothing since the negotiation."""
        return self.stream.received == self.start


@dataclass(slots=True, eq=False)
class _Mounted:
    """A mounted protocol and its streams by peer, oldest first."""

    handler: StreamHandler
    max_per_peer: int
    active: dict[PeerIdText, list[_Served]] = field(default_factory=dict)

    def make_room(self, peer_id: PeerIdText) -> bool:
        """Return whether another stream of the peer may be served, cancelling an older silent one if
        necessary.

        js-waku pre-opens streams, forgets the older ones and uses only the newest.
        """
        served = self.active.get(peer_id, [])
        if len(served) < self.max_per_peer:
            return True
        for index, older in enumerate(served):
            if older.is_silent():
                del served[index]
                older.scope.cancel()
                return True
        return False


class Dispatcher:
    """Negotiate inbound streams and pass them to their handlers, within the limits per peer."""

    def __init__(self, limits: HostLimits, count: Count) -> None:
        self._limits = limits
        self._count = count
        self._mounted: dict[str, _Mounted] = {}

    def mount(self, protocol: str, handler: StreamHandler, max_per_peer: int) -> None:
        """Serve `protocol`. Replaces an earlier handler, whose streams continue."""
        self._mounted[protocol] = _Mounted(handler, max_per_peer)

    def unmount(self, protocol: str) -> None:
        """Stop accepting streams of `protocol`."""
        self._mounted.pop(protocol, None)

    def __contains__(self, protocol: object) -> bool:
        return protocol in self._mounted

    def __iter__(self) -> Iterator[str]:
        return iter(self._mounted)

    async def serve(self, stream: MuxedStream) -> None:
        """Serve one stream from negotiation to end. Raise nothing."""
        mounted = await self._negotiate(stream)
        if mounted is None:
            self._count("negotiations_failed")
            await stream.reset()
            return
        peer_id = stream.peer_id
        if not mounted.make_room(peer_id):
            self._count("streams_refused")
            await stream.reset()
            return
        served = _Served(stream)
        mounted.active.setdefault(peer_id, []).append(served)
        try:
            with served.scope:
                await mounted.handler(stream)
            if served.scope.cancelled_caught:
                self._count("streams_replaced")
                await stream.reset()
        except StreamClosed as error:
            log.debug("stream of %s (%s): %s", peer_id, stream.protocol, error)
            await stream.reset()
        except Exception:
            # The boundary for whatever a handler raises: it costs the stream, never the connection.
            self._count("handler_errors")
            log.exception("handler of %s raised on a stream of %s", stream.protocol, peer_id)
            await stream.reset()
        else:
            stream.finish()
        finally:
            group = mounted.active.get(peer_id, [])
            if served in group:
                group.remove(served)
            if not group:
                mounted.active.pop(peer_id, None)

    async def _negotiate(self, stream: MuxedStream) -> _Mounted | None:
        problem: object = "timed out"
        try:
            with trio.move_on_after(self._limits.negotiation_timeout):
                stream.protocol = await answer_select(stream, self)
                return self._mounted.get(stream.protocol)
        except (StreamClosed, ConnectionEnded, NegotiationFailed) as error:
            problem = error
        log.debug("negotiation with %s: %s", stream.peer_id, problem)
        return None
