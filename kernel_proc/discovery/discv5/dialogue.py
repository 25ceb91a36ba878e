"""Requests and responses: match them, verify the records in them, and answer requests.

Sits between `Channel`, which exchanges messages between authenticated nodes, and `Engine`, which decides
which nodes to ask. Reports what it learns to a `Listener`.
"""

from __future__ import annotations

import heapq
import random as random_module
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from kernel_proc.discovery.discv5 import messages
from kernel_proc.discovery.discv5.channel import Channel, OutgoingPacket
from kernel_proc.discovery.discv5.endpoint import NodeContact, UdpEndpoint, contact_of, may_relay
from kernel_proc.discovery.discv5.messages import (
    Discv5MessageError,
    FindNode,
    Nodes,
    Ping,
    Pong,
    Request,
    Response,
    TalkRequest,
    TalkResponse,
)
from kernel_proc.discovery.discv5.packets import MAX_PACKET, OVERHEAD
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.discv5.table import log_distance
from kernel_proc.discovery.enr import Enr, EnrError, EnrSignatureError
from kernel_proc.discovery.enr_local import LocalEnr
from kernel_proc.token_buckets import LruDict

_NODES_HEAD: Final = 24
"""Maximum overhead of a NODES message: type, lengths, request id, total."""


class TooManyRequestsError(Exception):
    """The limit of requests in progress was reached, overall or for this node."""


class Listener(Protocol):
    """Receives what the dialogue learns. All times are `Dialogue.now`."""

    def known_record(self, node_id: bytes) -> Enr | None:
        """Return the newest record known of a node."""

    def shareable(self, contact: NodeContact, distances: Sequence[int]) -> Iterable[Enr]:
        """Return records at these distances from us that may be shared with this node."""

    def node_contacted_us(self, contact: NodeContact, record: Enr) -> None:
        """The node of `record` sent a request from this endpoint."""

    def node_answered(self, contact: NodeContact) -> None:
        """The node answered a request."""

    def node_failed(self, contact: NodeContact) -> None:
        """The node did not answer a request, although other nodes did."""

    def node_misbehaved(self, contact: NodeContact) -> None:
        """The node did something that no honest node does."""

    def node_has_record(self, contact: NodeContact, seq: int) -> None:
        """The node reported the sequence number of its record."""

    def node_sees_us(self, contact: NodeContact, endpoint: UdpEndpoint) -> None:
        """The node reported the endpoint at which it sees us."""


@dataclass(slots=True, eq=False)
class _Pending:
    contact: NodeContact
    request: Request
    done: Callable[..., None]
    started: float
    deadline: float
    outgoing: OutgoingPacket | None = None
    parts: int = 0
    records: dict[bytes, Enr] = field(default_factory=dict)


class Dialogue:
    """The requests of one node, in both directions.

    `now` is the time of the call in progress; the owner sets it before each call.
    """

    def __init__(
        self,
        local: LocalEnr,
        listener: Listener,
        params: Params,
        random: random_module.Random,
        versions: frozenset[int],
        now: float,
    ) -> None:
        self.now = now
        self._local = local
        self._listener = listener
        self._params = params
        self._random = random
        self._versions = versions
        self._channel = Channel(local.identity, lambda: local.record, self, params, random)
        self.outbox = self._channel.outbox
        """Datagrams to be sent."""
        self._pending: dict[bytes, _Pending] = {}
        self._deadlines: list[tuple[float, bytes]] = []
        self._per_node: dict[bytes, int] = {}
        self._records: LruDict[bytes, Enr] = LruDict(params.known_records)
        self._heard = float("-inf")
        self._counters = {
            "requests_sent": 0,
            "requests_received": 0,
            "requests_refused": 0,
            "responses_received": 0,
            "responses_unexpected": 0,
            "messages_malformed": 0,
            "timeouts": 0,
            "records_invalid": 0,
            "records_unfitting": 0,
        }

    def counters(self) -> dict[str, int]:
        """Return monotonic counters by name."""
        return {**self._channel.counters, **self._counters}

    @property
    def pending(self) -> int:
        """Number of requests in progress."""
        return len(self._pending)

    @property
    def sessions(self) -> int:
        """Number of sessions."""
        return self._channel.sessions

    # -- our requests -----------------------------------------

    def ping(self, record: Enr, done: Callable[[Pong | None], None]) -> None:
        """Send PING. Raise TooManyRequestsError, or ValueError for an unreachable node."""
        self._ask(record, Ping(self._request_id(), self._local.record.seq), done)

    def find_node(
        self, record: Enr, distances: Sequence[int], done: Callable[[list[Enr] | None], None]
    ) -> None:
        """Send FINDNODE. Raise as `ping`."""
        self._ask(record, FindNode(self._request_id(), tuple(distances)), done)

    def _request_id(self) -> bytes:
        """Return eight random bytes, the first non-zero: some nodes parse the id as a number and echo it
        as one."""
        return self._random.randrange(1 << 56, 1 << 64).to_bytes(8, "big")

    def _ask(self, record: Enr, request: Request, done: Callable[..., None]) -> None:
        contact = contact_of(record, self._versions)
        if contact is None or contact.node_id == self._local.node_id:
            raise ValueError(f"{record!r} is not reachable")
        mine = self._per_node.get(contact.node_id, 0)
        if len(self._pending) >= self._params.max_requests or mine >= self._params.max_requests_per_node:
            self._counters["requests_refused"] += 1
            raise TooManyRequestsError
        pending = _Pending(contact, request, done, self.now, self.now + self._params.request_timeout)
        self._pending[request.request_id] = pending
        self._per_node[contact.node_id] = mine + 1
        heapq.heappush(self._deadlines, (pending.deadline, request.request_id))
        self._counters["requests_sent"] += 1
        pending.outgoing = self._channel.request(contact, record, messages.encode(request))

    def _close(self, pending: _Pending, *, answered: bool) -> None:
        del self._pending[pending.request.request_id]
        left = self._per_node.pop(pending.contact.node_id) - 1
        if left:
            self._per_node[pending.contact.node_id] = left
        assert pending.outgoing is not None
        self._channel.finish(pending.outgoing, answered=answered)

    # -- time -------------------------------------------------

    def deadline(self) -> float | None:
        """Return when `expire` has work to do."""
        return self._deadlines[0][0] if self._deadlines else None

    def expire(self) -> None:
        """End the requests that have timed out."""
        while self._deadlines and self._deadlines[0][0] <= self.now:
            _, request_id = heapq.heappop(self._deadlines)
            pending = self._pending.get(request_id)
            if pending is None:
                continue  # answered
            if pending.parts:  # a partial NODES response is better than none
                self._finish(pending, list(pending.records.values()))
                continue
            self._counters["timeouts"] += 1
            self._close(pending, answered=False)
            # If no node responds at all, our own network is down: do not blame the nodes.
            if self._heard >= pending.started:
                self._listener.node_failed(pending.contact)
            pending.done(None)

    # -- incoming messages ------------------------------------

    def receive(self, datagram: bytes, source: UdpEndpoint) -> None:
        """Process a datagram. Never raise because of its content."""
        self._channel.receive(datagram, source, self.now)

    def known_record(self, node_id: bytes) -> Enr | None:
        """Part of the channel's `Upward` interface."""
        return self._listener.known_record(node_id)

    def message(self, contact: NodeContact, record: Enr, plaintext: bytes, now: float) -> None:
        """Part of the channel's `Upward` interface."""
        try:
            message = messages.decode(plaintext)
        except Discv5MessageError:
            self._counters["messages_malformed"] += 1
            return
        self._heard = now
        match message:
            case Ping() | FindNode() | TalkRequest():
                self._counters["requests_received"] += 1
                self._listener.node_contacted_us(contact, record)
                self._answer(contact, message)
            case Pong() | Nodes() | TalkResponse():
                self._answered(contact, message)

    # -- our responses ----------------------------------------

    def _answer(self, contact: NodeContact, request: Request) -> None:
        match request:
            case Ping(request_id, seq):
                self._respond(contact, Pong(request_id, self._local.record.seq, contact.endpoint))
                self._listener.node_has_record(contact, seq)
            case FindNode(request_id, distances):
                for part in self._nodes(contact, request_id, distances):
                    self._respond(contact, part)
            case TalkRequest(request_id):
                # We speak no protocol over TALKREQ: the response is empty then (discv5-wire, TALKREQ).
                self._respond(contact, TalkResponse(request_id, b""))

    def _respond(self, contact: NodeContact, response: Response) -> None:
        self._channel.respond(contact, messages.encode(response))

    def _nodes(self, contact: NodeContact, request_id: bytes, distances: Sequence[int]) -> list[Nodes]:
        """Return the NODES messages for a FINDNODE, as few as possible."""
        records = [self._local.record] if 0 in distances else []
        records += self._listener.shareable(contact, distances)
        parts: list[list[bytes]] = [[]]
        room = left = MAX_PACKET - OVERHEAD - _NODES_HEAD
        for record in records[: self._params.nodes_limit]:
            if len(record.raw) > left:
                parts.append([])
                left = room
            parts[-1].append(record.raw)
            left -= len(record.raw)
        return [Nodes(request_id, len(parts), tuple(part)) for part in parts]

    # -- their responses --------------------------------------

    def _answered(self, contact: NodeContact, response: Response) -> None:
        pending = self._pending.get(response.request_id)
        # The id alone is not enough: a third node could have observed or guessed it.
        if pending is None or pending.contact != contact:
            self._counters["responses_unexpected"] += 1
            return
        match response, pending.request:
            case Pong(), Ping():
                self._finish(pending, response)
                self._listener.node_sees_us(contact, response.observed)
                self._listener.node_has_record(contact, response.record_seq)
            case Nodes(), FindNode():
                self._collect(pending, pending.request, response)
            case _:
                self._counters["responses_unexpected"] += 1

    def _finish(self, pending: _Pending, result: object) -> None:
        self._counters["responses_received"] += 1
        self._close(pending, answered=True)
        self._listener.node_answered(pending.contact)
        pending.done(result)

    def _collect(self, pending: _Pending, request: FindNode, part: Nodes) -> None:
        pending.parts += 1
        try:
            for raw in part.records:
                self._take_record(pending, request, raw)
        except EnrSignatureError:
            # An honest node verifies records before it shares them; this one fabricates them.
            self._close(pending, answered=True)
            self._listener.node_misbehaved(pending.contact)
            pending.done(None)
            return
        if pending.parts >= min(part.total, self._params.nodes_parts):
            self._finish(pending, list(pending.records.values()))

    def _take_record(self, pending: _Pending, request: FindNode, raw: bytes) -> None:
        """Keep a record if it has a requested distance, the node may refer us to it, and we can reach it.
        Raise EnrSignatureError.

        Without the distance check a node could fill a lookup with records of its choice (discv5-wire, NODES).
        """
        try:
            record = self._verified(raw)
        except EnrError as error:
            self._counters["records_invalid"] += 1
            if isinstance(error, EnrSignatureError):
                raise
            return
        source, contact = pending.contact, contact_of(record, self._versions)
        fits = (
            contact is not None
            and record.node_id != self._local.node_id
            and log_distance(record.node_id, source.node_id) in request.distances
            and may_relay(contact.endpoint.host, source.endpoint.host)
            and len(pending.records) < 2 * self._params.nodes_limit
        )
        if not fits:
            self._counters["records_unfitting"] += 1
            return
        before = pending.records.get(record.node_id)
        if before is None or before.seq < record.seq:
            pending.records[record.node_id] = record

    def _verified(self, raw: bytes) -> Enr:
        record = self._records.get(raw)
        if record is None:
            record = Enr.from_bytes(raw)
            self._records.put(raw, record)
        return record
