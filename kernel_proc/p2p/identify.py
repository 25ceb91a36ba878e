"""Identify 1.0.0 and identify push 1.0.0. Spec: libp2p/specs/identify."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from google.protobuf.message import DecodeError

from kernel_proc.p2p import addresses, varint
from kernel_proc.p2p._errors import ProtocolViolation
from kernel_proc.p2p._libp2p import Identify
from kernel_proc.p2p.api import HostPeer, PeerIdentity, PeerIdText
from kernel_proc.p2p.multistream import Duplex, read_prefixed
from kernel_proc.p2p.output import Count
from kernel_proc.p2p.peer_record import PeerRecordError, open_envelope

log = logging.getLogger(__name__)

PROTOCOL = "/ipfs/id/1.0.0"
PUSH_PROTOCOL = "/ipfs/id/push/1.0.0"
PROTOCOL_VERSION = "ipfs/0.1.0"
MAX_MESSAGE = 64 * 1024
MAX_PROTOCOLS = 512
MAX_ADDRESSES = 64
MAX_TEXT = 256


def encode(
    *,
    public_key: bytes,
    agent: str,
    protocols: Iterable[str],
    listen_addresses: Iterable[str],
    observed_address: str | None,
    record: HostPeer | None = None,
) -> bytes:
    """Encode a length-prefixed Identify message. `public_key` is the libp2p protobuf form, `record` our
    own."""
    message = Identify(
        protocol_version=PROTOCOL_VERSION,
        agent_version=agent,
        public_key=public_key,
        listen_addrs=[addresses.to_bytes(address) for address in listen_addresses],
        protocols=protocols,
    )
    if observed_address is not None:
        message.observed_addr = addresses.to_bytes(observed_address)
    if record is not None:
        message.signedPeerRecord = record.envelope
    body = message.SerializeToString()
    return varint.encode(len(body)) + body


def decode(peer_id: PeerIdText, body: bytes, count: Count = lambda _name: None) -> PeerIdentity:
    """Decode an Identify message, truncated to sane sizes. Raise ProtocolViolation.

    The peer id is the one authenticated by the handshake, whatever key the message contains. An invalid
    signed record, or one of another peer, is counted and dropped; the rest of the message is still used.
    """
    message = Identify()
    try:
        message.ParseFromString(body)
    except DecodeError:
        raise ProtocolViolation("identify: not a protobuf message") from None
    known = (addresses.from_bytes(raw) for raw in message.listen_addrs[:MAX_ADDRESSES])
    return PeerIdentity(
        peer_id=peer_id,
        agent=_text(message.agent_version)[:MAX_TEXT],
        protocols=tuple(
            dict.fromkeys(_text(p) for p in message.protocols[:MAX_PROTOCOLS] if len(p) <= MAX_TEXT)
        ),
        listen_addresses=tuple(address for address in known if address is not None),
        observed_address=addresses.from_bytes(message.observed_addr) if message.observed_addr else None,
        record=_record(peer_id, message.signedPeerRecord, count) if message.signedPeerRecord else None,
    )


def _record(peer_id: PeerIdText, envelope: bytes, count: Count) -> HostPeer | None:
    try:
        record = open_envelope(envelope)
    except PeerRecordError as error:
        log.debug("invalid peer record in identify of %s: %s", peer_id, error)
    else:
        if record.peer_id == peer_id:
            return record
    count("peer_records_refused")
    return None


def _text(value: str | bytes) -> str:
    """Decode text: the protobuf runtime returns bytes, contrary to its type, for invalid UTF-8."""
    return value if isinstance(value, str) else value.decode(errors="replace")


async def read(stream: Duplex, peer_id: PeerIdText, count: Count = lambda _name: None) -> PeerIdentity:
    """Read one message. Raise ProtocolViolation, ConnectionEnded or api.StreamClosed."""
    return decode(peer_id, await read_prefixed(stream, MAX_MESSAGE, "identify"), count)
