"""The packets of discv5 v5.1 (discv5-wire): masked header, kinds, sizes.

    packet  = masking-iv(16) ‖ AES-128-CTR(header) ‖ message
    header  = protocol-id(6) ‖ version(2) ‖ flag(1) ‖ nonce(12) ‖ authdata-size(2) ‖ authdata

The protocol id is configurable: Waku's network uses `d5waku` instead of `discv5`
(33/WAKU2-DISCV5).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from kernel_proc.discovery.discv5.crypto import NONCE_BYTES, TAG_BYTES
from kernel_proc.discovery.enr import MAX_RECORD
from kernel_proc.discovery.enr_identity import SIGNATURE_BYTES

WAKU_PROTOCOL_ID: Final = b"d5waku"

MIN_PACKET: Final = 63
MAX_PACKET: Final = 1280
IV_BYTES: Final = 16
NODE_ID_BYTES: Final = 32
ID_NONCE_BYTES: Final = 16
EPHEMERAL_KEY_BYTES: Final = 33

_VERSION: Final = b"\x00\x01"
_ORDINARY, _WHOAREYOU, _HANDSHAKE = range(3)
_STATIC: Final = 23
_PROTOCOL: Final = 6
_WHOAREYOU_AUTHDATA: Final = ID_NONCE_BYTES + 8
_HANDSHAKE_HEAD: Final = NODE_ID_BYTES + 2
_HANDSHAKE_MIN: Final = _HANDSHAKE_HEAD + SIGNATURE_BYTES + EPHEMERAL_KEY_BYTES

OVERHEAD: Final = IV_BYTES + _STATIC + NODE_ID_BYTES + TAG_BYTES
"""Overhead of an ordinary packet over its plaintext."""


class PacketError(ValueError):
    """Not a packet for us: malformed, or of another protocol or node."""


class Ordinary(NamedTuple):
    """A message under session keys (flag 0)."""

    nonce: bytes
    source: bytes
    associated: bytes
    """Associated data of the AEAD: masking-iv ‖ header."""
    ciphertext: bytes


class Whoareyou(NamedTuple):
    """The challenge in response to an undecryptable message (flag 1)."""

    nonce: bytes
    """The nonce of that message."""
    id_nonce: bytes
    record_seq: int
    """Sequence number of our newest record that the sender has; 0: none."""
    challenge_data: bytes


class Handshake(NamedTuple):
    """A message with proof of the sender's identity (flag 2)."""

    nonce: bytes
    source: bytes
    signature: bytes
    ephemeral_key: bytes
    record: bytes
    """The sender's record, empty if omitted."""
    associated: bytes
    ciphertext: bytes


class Header(NamedTuple):
    """An outgoing header in plain and masked form. The message is appended to `masked`."""

    associated: bytes
    """masking-iv ‖ header; the challenge-data in case of WHOAREYOU."""
    masked: bytes


def decode(
    data: bytes, node_id: bytes, protocol_id: bytes = WAKU_PROTOCOL_ID
) -> Ordinary | Whoareyou | Handshake:
    """Decode a datagram addressed to `node_id`. Raise PacketError."""
    if not MIN_PACKET <= len(data) <= MAX_PACKET:
        raise PacketError("packet size")
    # The mask key is the recipient's node id: a datagram for another node unmasks to garbage and fails the
    # protocol id check (discv5-wire, Packet Encoding).
    unmask = Cipher(AES(node_id[:16]), CTR(data[:IV_BYTES])).decryptor().update
    static = unmask(data[IV_BYTES : IV_BYTES + _STATIC])
    if static[:_PROTOCOL] != protocol_id or static[6:8] != _VERSION:
        raise PacketError("protocol id or version")
    flag, nonce = static[8], static[9 : 9 + NONCE_BYTES]
    end = IV_BYTES + _STATIC + int.from_bytes(static[21:23], "big")
    if end > len(data):
        raise PacketError("truncated header")
    authdata = unmask(data[IV_BYTES + _STATIC : end])
    associated = data[:IV_BYTES] + static + authdata
    message = data[end:]
    if flag == _WHOAREYOU:
        if len(authdata) != _WHOAREYOU_AUTHDATA or message:
            raise PacketError("WHOAREYOU of wrong size")
        seq = int.from_bytes(authdata[ID_NONCE_BYTES:], "big")
        # The challenge-data that both sides sign and derive keys from is the whole unmasked header with its
        # IV.
        return Whoareyou(nonce, authdata[:ID_NONCE_BYTES], seq, associated)
    if len(message) < TAG_BYTES:
        raise PacketError("truncated message")
    if flag == _ORDINARY:
        if len(authdata) != NODE_ID_BYTES:
            raise PacketError("authdata of wrong size")
        return Ordinary(nonce, authdata, associated, message)
    if flag != _HANDSHAKE:
        raise PacketError("unknown flag")
    if not _HANDSHAKE_MIN <= len(authdata) <= _HANDSHAKE_MIN + MAX_RECORD:
        raise PacketError("authdata of wrong size")
    # Only the identity scheme "v4" exists: 64-byte signatures, 33-byte compressed keys (EIP-778).
    if (authdata[NODE_ID_BYTES], authdata[NODE_ID_BYTES + 1]) != (SIGNATURE_BYTES, EPHEMERAL_KEY_BYTES):
        raise PacketError("unsupported identity scheme")
    key = _HANDSHAKE_HEAD + SIGNATURE_BYTES
    return Handshake(
        nonce,
        authdata[:NODE_ID_BYTES],
        authdata[_HANDSHAKE_HEAD:key],
        authdata[key:_HANDSHAKE_MIN],
        authdata[_HANDSHAKE_MIN:],
        associated,
        message,
    )


def _header(flag: int, target: bytes, iv: bytes, nonce: bytes, authdata: bytes, protocol_id: bytes) -> Header:
    # discv5-wire, Packet Encoding: AES-CTR masks the header against passive filters only; its key, half of
    # the recipient's node id, is public.
    size = len(authdata).to_bytes(2, "big")
    header = b"".join((protocol_id, _VERSION, bytes((flag,)), nonce, size, authdata))
    masked = Cipher(AES(target[:16]), CTR(iv)).encryptor().update(header)
    return Header(iv + header, iv + masked)


def ordinary_header(
    target: bytes, source: bytes, iv: bytes, nonce: bytes, protocol_id: bytes = WAKU_PROTOCOL_ID
) -> Header:
    """Create the header of a message from node `source` to node `target`."""
    return _header(_ORDINARY, target, iv, nonce, source, protocol_id)


def whoareyou_header(
    target: bytes,
    iv: bytes,
    nonce: bytes,
    id_nonce: bytes,
    record_seq: int,
    protocol_id: bytes = WAKU_PROTOCOL_ID,
) -> Header:
    """Create a WHOAREYOU for the message of `target` with this nonce. It consists of a header only."""
    return _header(_WHOAREYOU, target, iv, nonce, id_nonce + record_seq.to_bytes(8, "big"), protocol_id)


def handshake_header(
    target: bytes,
    source: bytes,
    iv: bytes,
    nonce: bytes,
    signature: bytes,
    ephemeral_key: bytes,
    record: bytes,
    protocol_id: bytes = WAKU_PROTOCOL_ID,
) -> Header:
    """Create the header of a message that answers a WHOAREYOU. `record` may be empty."""
    sizes = bytes((len(signature), len(ephemeral_key)))
    authdata = b"".join((source, sizes, signature, ephemeral_key, record))
    return _header(_HANDSHAKE, target, iv, nonce, authdata, protocol_id)
