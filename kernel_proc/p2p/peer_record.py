"""Signed peer records: the addresses of a peer, signed by that peer, so that others can share them.

A record (libp2p RFC 0003) contains a peer id, its addresses and a sequence number that grows with every
change. It is carried in a signed envelope (libp2p RFC 0002) with the public key and a signature over domain,
payload type and payload. Pure: input may come from anyone, and every refusal is a `PeerRecordError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

from google.protobuf.message import DecodeError

from kernel_proc.p2p import addresses, varint
from kernel_proc.p2p._libp2p import (
    ID,
    Envelope,
    PublicKey,
    RecordMessage,
    deserialize_public_key,
)
from kernel_proc.p2p.api import HostPeer
from kernel_proc.p2p.keys import NodeKey

DOMAIN: Final = b"libp2p-peer-record"
PAYLOAD_TYPE: Final = b"\x03\x01"
"""The multicodec libp2p-peer-record, as written by go-libp2p, nim-libp2p and js-libp2p."""
MAX_ENVELOPE: Final = 4096
"""Maximum size of an envelope in bytes. Sixteen of them must fit into a relay RPC, and that of each
connected peer is kept."""
MAX_ADDRESSES: Final = 32
"""Maximum addresses per record; excess ones are neither written nor read."""
_BESIDE_ADDRESSES: Final = 256
"""Upper bound of our envelope's bytes besides the addresses: key, signature, tags and lengths."""
_MAX_SEQ: Final = 2**64 - 1


class PeerRecordError(ValueError):
    """The bytes are not a peer record signed by its peer. `reason` is a single word for a counter."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def seal(key: NodeKey, listen: Iterable[str], seq: int) -> HostPeer:
    """Sign the record of this node, with as many of its multiaddrs (without peer id, best first) as fit."""
    record = RecordMessage(peer_id=ID.from_base58(key.peer_id).to_bytes(), seq=min(seq, _MAX_SEQ))
    written: list[str] = []
    for address in islice(listen, MAX_ADDRESSES):
        raw = addresses.to_bytes(address)
        if record.ByteSize() + len(raw) > MAX_ENVELOPE - _BESIDE_ADDRESSES:
            break
        record.addresses.add(multiaddr=raw)
        written.append(address)
    payload = record.SerializeToString()
    pair = key.libp2p_key_pair()
    envelope = Envelope(
        payload_type=PAYLOAD_TYPE,
        payload=payload,
        signature=pair.private_key.sign(_signed_bytes(payload)),
    )
    envelope.public_key.ParseFromString(pair.public_key.serialize())
    return HostPeer(key.peer_id, record.seq, tuple(written), envelope.SerializeToString())


def open_envelope(raw: bytes) -> HostPeer:
    """Verify an envelope and return the record, whose peer must own the signing key.

    Addresses that we cannot parse (future transports) are dropped; possibly none remain. Raise
    PeerRecordError.
    """
    if len(raw) > MAX_ENVELOPE:
        raise PeerRecordError(f"envelope of {len(raw)} bytes, the maximum is {MAX_ENVELOPE}", "oversized")
    envelope = Envelope()
    record = RecordMessage()
    try:
        envelope.ParseFromString(raw)
        if envelope.payload_type != PAYLOAD_TYPE:
            raise PeerRecordError("the envelope does not contain a peer record", "malformed")
        record.ParseFromString(envelope.payload)
    except DecodeError:
        raise PeerRecordError("not a protobuf message", "malformed") from None
    key = _key(envelope)
    peer_id = ID.from_pubkey(key)
    if record.peer_id != peer_id.to_bytes():
        raise PeerRecordError("not signed by the key of its peer", "forged")
    if not _verified(key, _signed_bytes(envelope.payload), envelope.signature):
        raise PeerRecordError("invalid signature", "forged")
    read = (addresses.from_bytes(info.multiaddr) for info in record.addresses[:MAX_ADDRESSES])
    known = tuple(dict.fromkeys(address for address in read if address))
    return HostPeer(peer_id.to_base58(), record.seq, known, raw)


def _signed_bytes(payload: bytes) -> bytes:
    return b"".join(varint.encode(len(part)) + part for part in (DOMAIN, PAYLOAD_TYPE, payload))


def _key(envelope: Envelope) -> PublicKey:
    if not envelope.HasField("public_key"):
        raise PeerRecordError("the envelope contains no key", "malformed")
    try:
        key = deserialize_public_key(envelope.public_key.SerializeToString())
    except Exception as error:  # four libraries raise their own exceptions for invalid keys
        raise PeerRecordError(f"no usable key: {error}", "malformed") from None
    return key


def _verified(key: PublicKey, data: bytes, signature: bytes) -> bool:
    try:
        return key.verify(data, signature)
    except Exception:  # an unparsable signature; as in _key
        return False
