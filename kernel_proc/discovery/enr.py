"""Node records (ENR, EIP-778): what a node says about itself, signed by it.

An `Enr` is immutable and always valid: it can only be obtained by decoding bytes or text with a valid
signature, or by signing (`sign_record`). Our own, changing record is `enr_local.LocalEnr`.

Errors: EnrError (a ValueError) is the root; EnrFormatError for malformed records, EnrSizeError for more than
300 bytes, EnrSignatureError for an invalid signature.
"""

from __future__ import annotations

import ipaddress
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Final

from kernel_proc.discovery import rlp
from kernel_proc.discovery.enr_identity import (
    SIGNATURE_BYTES,
    Identity,
    keccak256,
    node_id_of,
    peer_id_of,
    verify,
)
from kernel_proc.discovery.enr_values import (
    MAX_SHARDS,
    Capability,
    RelayShards,
    read_capabilities,
    read_multiaddrs,
    read_rs,
    read_rsv,
)

MAX_RECORD: Final = 300
"""Maximum size of an encoded record in bytes (EIP-778)."""
MAX_SEQ: Final = 2**64 - 1

_SCHEME: Final = b"v4"
_PREFIX: Final = "enr:"
_MAX_TEXT: Final = len(_PREFIX) + (MAX_RECORD * 8 + 5) // 6
_KEY_BYTES: Final = 33


class EnrError(ValueError):
    """Not an acceptable node record."""


class EnrFormatError(EnrError):
    """The bytes or text are not a node record of the "v4" scheme."""


class EnrSizeError(EnrError):
    """The record is, or would be, larger than 300 bytes."""


class EnrSignatureError(EnrError):
    """The signature was not made by the key in the record."""


class Enr:
    """A node record. Two are equal if their bytes are."""

    raw: bytes
    """The encoded record."""
    seq: int
    """Sequence number, incremented by the node on each change."""
    pairs: Mapping[bytes, bytes]
    """Keys and values. Values that are lists, which no known key has, are in `raw` only."""
    public_key: bytes
    """secp256k1, compressed, 33 bytes."""
    node_id: bytes
    """The node id, 32 bytes."""

    def __init__(self, raw: bytes, seq: int, pairs: Mapping[bytes, bytes], node_id: bytes) -> None:
        """For internal use. Create records with `from_bytes`, `from_text` or `sign_record`."""
        self.raw = raw
        self.seq = seq
        self.pairs = MappingProxyType(pairs)
        self.public_key = pairs[b"secp256k1"]
        self.node_id = node_id

    @classmethod
    def from_bytes(cls, raw: bytes) -> Enr:
        """Decode and verify a record. Raise EnrError."""
        if len(raw) > MAX_RECORD:
            raise EnrSizeError(f"record of {len(raw)} bytes, the maximum is {MAX_RECORD}")
        try:
            elements = rlp.read_list(raw, MAX_RECORD)
            if len(elements) < 2 or len(elements) % 2:
                raise EnrFormatError("not a list of signature, sequence number and key/value pairs")
            seq = rlp.to_int(elements[1], 8)
        except rlp.RlpError as error:
            raise EnrFormatError(str(error)) from None
        pairs = _pairs(elements[2:])
        if pairs.get(b"id") != _SCHEME:
            raise EnrFormatError(f"identity scheme {pairs.get(b'id')!r} is not v4")
        public_key = pairs.get(b"secp256k1", b"")
        try:
            node_id = node_id_of(public_key if len(public_key) == _KEY_BYTES else b"")
        except ValueError:
            raise EnrFormatError("no valid secp256k1 key") from None
        # Verify the bytes as received, not our re-encoding of them.
        content = rlp.encode_list(element.raw for element in elements[1:])
        signature = elements[0]
        if signature.is_list or not verify(public_key, signature.content, keccak256(content)):
            raise EnrSignatureError("invalid signature")
        return cls(raw, seq, pairs, node_id)

    @classmethod
    def from_text(cls, text: str) -> Enr:
        """Decode `enr:…` and verify it. Whitespace and padding are rejected: the text form is unique.
        Raise EnrError."""
        if not text.startswith(_PREFIX):
            raise EnrFormatError("a node record in text form starts with enr:")
        if len(text) > _MAX_TEXT:
            raise EnrSizeError(f"text of {len(text)} characters, the maximum is {_MAX_TEXT}")
        body = text[len(_PREFIX) :]
        if not body.isascii() or not body.replace("-", "").replace("_", "").isalnum():
            raise EnrFormatError("not base64url without padding")
        try:
            raw = urlsafe_b64decode(body + "=" * (-len(body) % 4))
        except ValueError:
            raise EnrFormatError("not base64url without padding") from None
        return cls.from_bytes(raw)

    @cached_property
    def text(self) -> str:
        """The text form: `enr:` and base64url without padding."""
        return record_text(self.raw)

    @cached_property
    def peer_id(self) -> str:
        """The libp2p peer id in text form."""
        return peer_id_of(self.public_key)

    # -- endpoints --------------------------------------------

    @cached_property
    def ip4(self) -> str | None:
        """The IPv4 address."""
        value = self.pairs.get(b"ip", b"")
        return str(ipaddress.IPv4Address(value)) if len(value) == 4 else None

    @cached_property
    def ip6(self) -> str | None:
        """The IPv6 address."""
        value = self.pairs.get(b"ip6", b"")
        return str(ipaddress.IPv6Address(value)) if len(value) == 16 else None

    @property
    def tcp4(self) -> int | None:
        """The TCP port at `ip4`."""
        return self._port(b"tcp")

    @property
    def tcp6(self) -> int | None:
        """The TCP port at `ip6`; that of `ip4` unless given separately."""
        return self._port(b"tcp6") or self._port(b"tcp")

    @property
    def udp4(self) -> int | None:
        """The UDP port at `ip4`: where discv5 is spoken."""
        return self._port(b"udp")

    @property
    def udp6(self) -> int | None:
        """The UDP port at `ip6`; that of `ip4` unless given separately."""
        return self._port(b"udp6") or self._port(b"udp")

    def _port(self, key: bytes) -> int | None:
        value = self.pairs.get(key, b"")
        return int.from_bytes(value, "big") or None if len(value) <= 2 else None

    # -- what Waku adds ---------------------------------------

    @cached_property
    def capabilities(self) -> Capability | None:
        """The protocols that the node serves; None: no `waku2` entry, so it is not a Waku node."""
        return read_capabilities(self.pairs.get(b"waku2", b""))

    @cached_property
    def shards(self) -> RelayShards | None:
        """The shards that the node is on; None: the record does not say. `rs` takes precedence over `rsv`."""
        return self.shards_among(MAX_SHARDS)

    def shards_among(self, shard_count: int) -> RelayShards | None:
        """Return `shards`, given that the cluster has `shard_count`, which makes `rsv` less ambiguous
        (`enr_values.read_rsv`)."""
        listed = read_rs(self.pairs.get(b"rs", b""))
        return listed or read_rsv(self.pairs.get(b"rsv", b""), shard_count)

    @cached_property
    def addresses(self) -> tuple[str, ...]:
        """All addresses of the libp2p node as multiaddrs with its peer id, those of `multiaddrs` first: they
        are names and encrypted transports where these are offered."""
        own = f"/p2p/{self.peer_id}"
        plain = []
        if self.ip4 and self.tcp4:
            plain.append(f"/ip4/{self.ip4}/tcp/{self.tcp4}{own}")
        if self.ip6 and self.tcp6:
            plain.append(f"/ip6/{self.ip6}/tcp/{self.tcp6}{own}")
        listed = read_multiaddrs(self.pairs.get(b"multiaddrs", b""), self.peer_id)
        return tuple(dict.fromkeys((*listed, *plain)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Enr) and other.raw == self.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"Enr(node_id={self.node_id.hex()[:16]}…, seq={self.seq})"


def _pairs(elements: list[rlp.Item]) -> dict[bytes, bytes]:
    """Return key/value elements as a mapping. Raise EnrFormatError unless the keys ascend."""
    pairs: dict[bytes, bytes] = {}
    before: bytes | None = None
    for key, value in zip(elements[::2], elements[1::2], strict=True):
        # EIP-778: keys are sorted and unique, so that a record has one encoding.
        if key.is_list or (before is not None and key.content <= before):
            raise EnrFormatError("keys are not unique and sorted")
        before = key.content
        if not value.is_list:
            pairs[key.content] = value.content
    return pairs


def _content(identity_key: bytes, seq: int, pairs: Mapping[bytes, bytes]) -> list[bytes]:
    whole = {**pairs, b"id": _SCHEME, b"secp256k1": identity_key}
    return [rlp.encode(seq), *(rlp.encode(part) for pair in sorted(whole.items()) for part in pair)]


def record_text(raw: bytes) -> str:
    """Return the text form of an encoded record, `enr:` and base64url without padding, unchecked."""
    return _PREFIX + urlsafe_b64encode(raw).rstrip(b"=").decode()


def record_size(seq: int, pairs: Mapping[bytes, bytes]) -> int:
    """Return the size in bytes of the record that `sign_record` would create."""
    elements = _content(bytes(_KEY_BYTES), seq, pairs)
    return len(rlp.encode_list([rlp.encode(bytes(SIGNATURE_BYTES)), *elements]))


def sign_record(identity: Identity, seq: int, pairs: Mapping[bytes, bytes]) -> Enr:
    """Sign a record of these pairs; `id` and `secp256k1` are added. Raise EnrSizeError or EnrFormatError."""
    if not 0 <= seq <= MAX_SEQ:
        raise EnrFormatError(f"the sequence number {seq} is not in 0..2^64-1")
    elements = _content(identity.public_key, seq, pairs)
    # EIP-778, "v4": the signature covers the list [seq, key, value, …], without itself.
    signature = identity.sign(keccak256(rlp.encode_list(elements)))
    raw = rlp.encode_list([rlp.encode(signature), *elements])
    if len(raw) > MAX_RECORD:
        raise EnrSizeError(f"the record would have {len(raw)} bytes, more than {MAX_RECORD}")
    whole = {**pairs, b"id": _SCHEME, b"secp256k1": identity.public_key}
    return Enr(raw, seq, dict(sorted(whole.items())), identity.node_id)
