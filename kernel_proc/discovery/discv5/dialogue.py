"""Requests and responses: who was asked what, what came back, and what we answer.

Between `Channel`, which carries messages between nodes that know who they are, and `Engine`, which decides
whom to ask. What is learned on the way is told to `Listener`.
"""

from __future__ import annotations

import heapq
import random as random_module
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from kernel_proc.discovery.discv5 import messages
from kernel_proc.discovery.discv5.channel import Channel, OutgoingPacket
from kernel_proc.discovery.discv5.endpoint import NodeContact, UdpEndpoint, contact_of, may_relay
from kernel_proc.discovery.discv5.limits import LruDict
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

__all__ = ["MAX_TALK", "Dialogue", "Listener", "TalkHandler", "TooManyRequestsError"]

TalkHandler = Callable[[NodeContact, bytes], bytes]
"""Answers a TALKREQ of one protocol."""

MAX_TALK: Final = 1024
"""Bytes of a TALKREQ's or TALKRESP's payload (and of a protocol's name with it) that surely fit."""

_NODES_HEAD: Final = 24
"""Bytes of a NODES message beside its records, at most: type, lengths, request id, total."""


class TooManyRequestsError(Exception):
    """So many requests are under way, altogether or to this node, that no further one is sent."""


class Listener(Protocol):
    """What is learned from talking. All times are `Dialogue.now`."""

    def known_record(self, node_id: bytes) -> Enr | None:
        """The newest record known of a node."""
        ...

    def tellable(self, contact: NodeContact, distances: Sequence[int]) -> Iterable[Enr]:
        """Records of other nodes at these distances from us that this node may be told."""
        ...

    def node_came(self, contact: NodeContact, record: Enr) -> None:
        """The node of `record` has sent us a request from this endpoint."""
        ...

    def node_answered(self, contact: NodeContact) -> None:
        """It has answered a request."""
        ...

    def node_silent(self, contact: NodeContact) -> None:
        """It has left a request without answer, while others could be heard."""
        ...

    def node_misbehaved(self, contact: NodeContact) -> None:
        """It did what no honest node does."""
        ...

    def node_has_record(self, contact: NodeContact, seq: int) -> None:
        """It says how new its record is."""
        ...

    def node_sees_us(self, contact: NodeContact, endpoint: UdpEndpoint) -> None:
        """It says at which endpoint it sees us."""
        ...


class _Pending:
    __slots__ = ("contact", "deadline", "done", "outgoing", "parts", "records", "request", "started")

    def __init__(
        self,
        contact: NodeContact,
        request: Request,
        done: Callable[..., None],
        started: float,
        deadline: float,
    ) -> None:
        self.contact = contact
        self.request = request
        self.done = done
        self.started = started
        self.deadline = deadline
        self.outgoing: OutgoingPacket | None = None
        self.parts = 0
        self.records: dict[bytes, Enr] = {}


class Dialogue:
    """The requests of one node, both ways.

    `now` is the time of the call that is being worked on; the owner sets it before each.
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
        self._pending: dict[bytes, _Pending] = {}
        self._deadlines: list[tuple[float, bytes]] = []
        self._per_node: dict[bytes, int] = {}
        self._records: LruDict[bytes, Enr] = LruDict(params.known_records)
        self._talk: dict[bytes, TalkHandler] = {}
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

    @property
    def outbox(self) -> list[tuple[UdpEndpoint, bytes]]:
        """Datagrams to be sent."""
        return self._channel.outbox

    def counters(self) -> dict[str, int]:
        """What only grows, by name."""
        return {**self._channel.counters, **self._counters}

    @property
    def pending(self) -> int:
        """Requests under way."""
        return len(self._pending)

    @property
    def sessions(self) -> int:
        """Sessions held."""
        return self._channel.sessions

    def set_talk_handler(self, protocol: bytes, handler: TalkHandler | None) -> None:
        """Answer TALKREQs of a protocol, or no longer."""
        if handler is None:
            self._talk.pop(protocol, None)
        else:
            self._talk[protocol] = handler

    # -- our requests -----------------------------------------

    def ping(self, record: Enr, done: Callable[[Pong | None], None]) -> None:
        """PING. Raises TooManyRequestsError, ValueError (a node that we cannot reach)."""
        self._ask(record, Ping(self._request_id(), self._local.record.seq), done)

    def find_node(
        self, record: Enr, distances: Sequence[int], done: Callable[[list[Enr] | None], None]
    ) -> None:
        """FINDNODE. Raises as `ping`."""
        self._ask(record, FindNode(self._request_id(), tuple(distances)), done)

    def talk(
        self, record: Enr, protocol: bytes, payload: bytes, done: Callable[[bytes | None], None]
    ) -> None:
        """TALKREQ. Raises as `ping`, ValueError also for more than MAX_TALK bytes."""
        if len(protocol) + len(payload) > MAX_TALK:
            raise ValueError(f"{len(protocol) + len(payload)} bytes do not go into a TALKREQ")
        self._ask(record, TalkRequest(self._request_id(), protocol, payload), done)

    def _request_id(self) -> bytes:
        """Eight random bytes. The first is not zero: some take the id for a number and mirror it as one."""
        return self._random.randrange(1 << 56, 1 << 64).to_bytes(8, "big")

    def _ask(self, record: Enr, request: Request, done: Callable[..., None]) -> None:
        contact = contact_of(record, self._versions)
        if contact is None or contact.node_id == self._local.node_id:
            raise ValueError(f"{record!r} is not a node that we can reach")
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
        """When `expire` has something to do."""
        return self._deadlines[0][0] if self._deadlines else None

    def expire(self) -> None:
        """End the requests whose time is over."""
        while self._deadlines and self._deadlines[0][0] <= self.now:
            _, request_id = heapq.heappop(self._deadlines)
            pending = self._pending.get(request_id)
            if pending is None:
                continue  # answered
            if pending.parts:  # some of it has come: better than nothing
                self._finish(pending, list(pending.records.values()))
                continue
            self._counters["timeouts"] += 1
            self._close(pending, answered=False)
            # When nobody at all is heard it is our network that is down, and no node's fault.
            if self._heard >= pending.started:
                self._listener.node_silent(pending.contact)
            pending.done(None)

    # -- what comes -------------------------------------------

    def receive(self, datagram: bytes, source: UdpEndpoint) -> None:
        """Take a datagram. Never raises for what is in it."""
        self._channel.receive(datagram, source, self.now)

    def known_record(self, node_id: bytes) -> Enr | None:
        """For the channel."""
        return self._listener.known_record(node_id)

    def message(self, contact: NodeContact, record: Enr, plaintext: bytes, now: float) -> None:
        """From the channel."""
        try:
            message = messages.decode(plaintext)
        except Discv5MessageError:
            self._counters["messages_malformed"] += 1
            return
        self._heard = now
        match message:
            case Ping() | FindNode() | TalkRequest():
                self._counters["requests_received"] += 1
                self._listener.node_came(contact, record)
                self._answer(contact, message)
            case Pong() | Nodes() | TalkResponse():
                self._answered(contact, message)

    # -- our answers ------------------------------------------

    def _answer(self, contact: NodeContact, request: Request) -> None:
        match request:
            case Ping(request_id, seq):
                self._respond(contact, Pong(request_id, self._local.record.seq, contact.endpoint))
                self._listener.node_has_record(contact, seq)
            case FindNode(request_id, distances):
                for part in self._nodes(contact, request_id, distances):
                    self._respond(contact, part)
            case TalkRequest(request_id, protocol, payload):
                handler = self._talk.get(protocol)
                answer = b"" if handler is None else handler(contact, payload)
                self._respond(contact, TalkResponse(request_id, answer if len(answer) <= MAX_TALK else b""))

    def _respond(self, contact: NodeContact, response: Response) -> None:
        self._channel.respond(contact, messages.encode(response))

    def _nodes(self, contact: NodeContact, request_id: bytes, distances: Sequence[int]) -> list[Nodes]:
        """The parts of the answer to a FINDNODE, as few as hold it."""
        records = [self._local.record] if 0 in distances else []
        records += self._listener.tellable(contact, distances)
        parts: list[list[bytes]] = [[]]
        room = left = MAX_PACKET - OVERHEAD - _NODES_HEAD
        for record in records[: self._params.nodes_limit]:
            if len(record.raw) > left:
                parts.append([])
                left = room
            parts[-1].append(record.raw)
            left -= len(record.raw)
        return [Nodes(request_id, len(parts), tuple(part)) for part in parts]

    # -- their answers ----------------------------------------

    def _answered(self, contact: NodeContact, response: Response) -> None:
        pending = self._pending.get(response.request_id)
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
            case TalkResponse(), TalkRequest():
                self._finish(pending, response.payload)
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
            # An honest node verifies what it tells: this one makes records up.
            self._close(pending, answered=True)
            self._listener.node_misbehaved(pending.contact)
            pending.done(None)
            return
        if pending.parts >= min(part.total, self._params.nodes_parts):
            self._finish(pending, list(pending.records.values()))

    def _take_record(self, pending: _Pending, request: FindNode, raw: bytes) -> None:
        """Keep a record of a distance asked for, of a node that this one may name and we can reach.
        Raises EnrSignatureError."""
        try:
            record = self._verified(raw)
        except EnrError as error:
            self._counters["records_invalid"] += 1
            if isinstance(error, EnrSignatureError):
                raise
            return
        teller, contact = pending.contact, contact_of(record, self._versions)
        fits = (
            contact is not None
            and record.node_id != self._local.node_id
            and log_distance(record.node_id, teller.node_id) in request.distances
            and may_relay(contact.endpoint.host, teller.endpoint.host)
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
