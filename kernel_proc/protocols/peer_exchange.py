"""Peer exchange (34/WAKU2-PEER-EXCHANGE): serve and request ENRs of peers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from enum import IntEnum
from random import Random, SystemRandom
from typing import Final, NamedTuple

import trio

from ipc_schema.config.ratelimits import RateLimit
from ipc_schema.protobuf import ProtobufError, ProtobufFields, put_bytes, put_text, put_varint
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Host, PeerIdText
from kernel_proc.protocols.peer_select import ServicePeerChoice
from kernel_proc.protocols.ratelimit import ServiceLimiter
from kernel_proc.protocols.requests import RequestRefused, RequestService, ServiceLimits, call

PROTOCOL: Final = "/vac/waku/peer-exchange/2.0.0-alpha1"
SERVICE: Final = "px"
"""Service name in metrics and in the peer ranking; also `px` in `rate-limit`."""
MAX_RECORDS: Final = 60
"""Maximum per response (nwaku)."""
MAX_RECORD_BYTES: Final = 300
"""Maximum size of one record (EIP-778)."""
MAX_REQUEST: Final = 1024
MAX_RESPONSE: Final = 64 * 1024
PATIENCE: Final = 5.0
"""Seconds per peer."""


class PxStatus(IntEnum):
    """Status codes of nwaku that are sent on the wire."""

    OK = 200
    BAD_REQUEST = 400
    TOO_MANY_REQUESTS = 429
    SERVICE_UNAVAILABLE = 503


class PxResponse(NamedTuple):
    """A response. `status` is None if the peer omitted it."""

    records: tuple[bytes, ...] = ()
    status: int | None = None
    description: str | None = None

    @property
    def code(self) -> int:
        """The status. If it was omitted: 200 with records, 503 without (nwaku)."""
        if self.status is not None:
            return self.status
        return PxStatus.OK if self.records else PxStatus.SERVICE_UNAVAILABLE


# --- codec ---


def encode_request(count: int) -> bytes:
    """Encode a request for `count` records."""
    query, out = bytearray(), bytearray()
    put_varint(query, 1, count)
    put_bytes(out, 1, query)
    return bytes(out)


def decode_request(body: bytes) -> int:
    """Decode a request. Return the number of records requested, 0 if unspecified. Raise ProtobufError."""
    return ProtobufFields(ProtobufFields(body).required_blob(1, "request")).number(1) or 0


def encode_response(response: PxResponse) -> bytes:
    inner, out = bytearray(), bytearray()
    for record in response.records:
        info = bytearray()
        put_bytes(info, 1, record)
        put_bytes(inner, 1, info)
    put_varint(inner, 10, response.status)
    put_text(inner, 11, response.description)
    # nwaku's decoder requires a query in every RPC, including responses.
    put_bytes(out, 1, b"\x08\x00")
    put_bytes(out, 2, inner)
    return bytes(out)


def decode_response(body: bytes) -> PxResponse:
    """Decode a response. Raise ProtobufError, also if it contains none."""
    found = ProtobufFields(ProtobufFields(body).required_blob(2, "response"))
    records = tuple(ProtobufFields(info).blob(1) or b"" for info in found.blobs(1))
    status = found.number(10)
    return PxResponse(
        tuple(filter(None, records)), None if status is None else status & 0xFFFF_FFFF, found.text(11)
    )


# --- service ---

_REJECTED: Final = encode_response(PxResponse(status=PxStatus.TOO_MANY_REQUESTS))


class PeerExchangeService:
    """Serve a random sample of `source` (the ENRs that may be shared: of dialable peers found by discovery)
    and, if there is room, our `own` record (None if it would be useless to others).

    A node that only knows our multiaddr can join discv5 with it. Mount `requests`.
    """

    def __init__(
        self,
        host: Host,
        source: Callable[[], Sequence[bytes]],
        registry: Registry,
        *,
        own: Callable[[], bytes | None] = lambda: None,
        rate_limit: RateLimit | None = None,
        rng: Random | None = None,
    ) -> None:
        self._source = source
        self._own = own
        self._rng = rng or SystemRandom()
        self.requests = RequestService(
            host,
            PROTOCOL,
            self._handle,
            service=SERVICE,
            rejected=_REJECTED,
            limits=ServiceLimits(MAX_REQUEST),
            limiter=ServiceLimiter(rate_limit),
        )
        self._sent = registry.counter("px_peers_sent")
        self._undecodable = registry.counter("px_errors", type="decode_rpc_failure")

    async def _handle(self, _peer_id: PeerIdText, body: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        try:
            wanted = decode_request(body)
        except ProtobufError as error:
            self._undecodable.add()
            return encode_response(PxResponse(status=PxStatus.BAD_REQUEST, description=error.nwaku))
        records = [record for record in self._source() if 0 < len(record) <= MAX_RECORD_BYTES]
        room = min(wanted, MAX_RECORDS)
        # A fresh random sample per request: a fixed one would steer all newcomers to the same peers.
        chosen = self._rng.sample(records, min(room, len(records)))
        own = self._own() if len(chosen) < room else None
        if own is not None and own not in chosen:
            chosen.append(own)
        self._sent.add(len(chosen))
        return encode_response(PxResponse(tuple(chosen), PxStatus.OK))


# --- client ---


class Exchanged(NamedTuple):
    """The records that a peer returned."""

    peer_id: PeerIdText
    records: tuple[bytes, ...]


class PeerExchangeClient:
    """Request records from other peers and pass them to `received`."""

    def __init__(
        self,
        host: Host,
        peers: ServicePeerChoice,
        registry: Registry,
        *,
        received: Callable[[PeerIdText, Sequence[bytes]], None] = lambda _peer, _records: None,
    ) -> None:
        self._host = host
        self._peers = peers
        self._received = received
        self._registry = registry
        self._counted = {name: registry.counter(f"px_peers_received_{name}") for name in ("total", "refused")}

    async def request(
        self, count: int, *, peer: str | None = None, exclude: Collection[str] = (), deadline: float
    ) -> Exchanged:
        """Request up to `count` (1 to 60) records from the named peer, or from the best ones outside
        `exclude`.

        `deadline` is on the trio clock. Raise AllFailed.
        """

        async def attempt(peer_id: PeerIdText, seconds: float) -> tuple[bytes, ...]:
            return await self._ask(peer_id, count, seconds)

        peer_id, records = await self._peers.ask(
            SERVICE,
            (PROTOCOL,),
            attempt,
            named=peer,
            deadline=deadline,
            patience=PATIENCE,
            exclude=exclude,
        )
        self._counted["total"].add(len(records))
        self._received(peer_id, records)
        return Exchanged(peer_id, records)

    async def _ask(self, peer_id: PeerIdText, count: int, seconds: float) -> tuple[bytes, ...]:
        response = await call(
            self._host,
            peer_id,
            (PROTOCOL,),
            encode_request(count),
            decode=decode_response,
            max_response=MAX_RESPONSE,
            deadline=seconds,
        )
        code = response.code
        if code != PxStatus.OK:
            self._registry.counter("px_client_errors", type=str(code)).add()
            raise RequestRefused(code, response.description or "")
        # EIP-778: a larger record cannot be valid; 34/WAKU2-PEER-EXCHANGE: at most as many as requested.
        usable = dict.fromkeys(one for one in response.records if len(one) <= MAX_RECORD_BYTES)
        records = tuple(usable)[:count]
        self._counted["refused"].add(len(response.records) - len(records))
        return records
