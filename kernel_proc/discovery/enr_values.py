"""Waku-specific values of node records (31/WAKU2-ENR, 51/WAKU2-RELAY-SHARDING): `waku2`, `rs`, `rsv`,
`multiaddrs`.

Readers return None (or omit an address) for what they cannot parse: one malformed field must not cost us the
rest of a peer's record.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntFlag
from typing import Final, NamedTuple

from multiaddr import Multiaddr

from ipc_schema.config.addresses import parse_multiaddr

MAX_SHARDS: Final = 1024
"""Shards per cluster, and bits of `rsv`."""
LIST_LIMIT: Final = 64
"""From this many shards on they are encoded as `rsv`."""

_HEAD: Final = 2
_VECTOR_BYTES: Final = MAX_SHARDS // 8
_CIRCUIT: Final = "/p2p-circuit"


class Capability(IntFlag):
    """The bits of `waku2`: the protocols that the node serves."""

    RELAY = 1
    STORE = 2
    FILTER = 4
    LIGHTPUSH = 8
    SYNC = 16
    """Store sync."""
    MIX = 32
    """nwaku only, not specified."""


class RelayShards(NamedTuple):
    """The shards of one cluster that a node is on.

    `possible` includes, for `rsv` with its ambiguous bit order, the shards in every other order. Use
    `may_share` to select peers: a wrong guess costs one connection, after which 66/WAKU2-METADATA reveals the
    truth, while a peer that is never tried is lost.
    """

    cluster: int
    shards: frozenset[int]
    possible: frozenset[int]

    @classmethod
    def of(cls, cluster: int, shards: Iterable[int]) -> RelayShards:
        """Create from unambiguous shards. Raise ValueError for a cluster above 65535 or a shard above
        1023."""
        known = frozenset(shards)
        if not 0 <= cluster <= 0xFFFF:
            raise ValueError(f"cluster {cluster} is not in 0..65535")
        if any(not 0 <= shard < MAX_SHARDS for shard in known):
            raise ValueError(f"a record can only hold shards 0..{MAX_SHARDS - 1}")
        return cls(cluster, known, known)

    def may_share(self, cluster: int, shards: Iterable[int]) -> bool:
        """Return whether the node is in this cluster and may be on one of these shards."""
        return self.cluster == cluster and not self.possible.isdisjoint(shards)


def read_capabilities(value: bytes) -> Capability | None:
    """Decode `waku2` (one byte); None for any other length. Unknown bits are kept."""
    return Capability(value[0]) if len(value) == 1 else None


# --- shards -----------------------------------------------------------------------------------------------


def encode_shards(shards: RelayShards) -> tuple[bytes, bytes]:
    """Return key and value: `rs` for fewer than 64 shards, otherwise `rsv` in the bit order of nwaku and
    go-waku."""
    head = shards.cluster.to_bytes(_HEAD, "big")
    # 51/WAKU2-RELAY-SHARDING: a list takes two bytes a shard, a bit vector 128 in all.
    if len(shards.shards) < LIST_LIMIT:
        listed = b"".join(shard.to_bytes(2, "big") for shard in sorted(shards.shards))
        return b"rs", head + bytes((len(shards.shards),)) + listed
    vector = bytearray(_VECTOR_BYTES)
    for shard in shards.shards:
        vector[shard >> 3] |= 1 << (shard & 7)
    return b"rsv", head + bytes(vector)


def read_rs(value: bytes) -> RelayShards | None:
    """Decode `rs`: cluster (2 bytes), count (1), shards (2 each)."""
    if len(value) < _HEAD + 1 or len(value) != _HEAD + 1 + 2 * value[_HEAD]:
        return None
    shards = {int.from_bytes(value[at : at + 2], "big") for at in range(_HEAD + 1, len(value), 2)}
    if any(shard >= MAX_SHARDS for shard in shards):
        return None
    return RelayShards.of(int.from_bytes(value[:_HEAD], "big"), shards)


def read_rsv(value: bytes, shard_count: int = MAX_SHARDS) -> RelayShards | None:
    """Decode `rsv`: cluster (2 bytes), then 1024 bits, one per shard.

    Three bit orders are in use, and the record does not say which: that of nwaku and go-waku (byte n/8, bit
    n%8 from the lowest), that of js-waku (same bytes, bits from the highest) and that of
    51/WAKU2-RELAY-SHARDING (one big-endian number, so that shard 0 is the lowest bit of the last byte). An
    order that yields a shard at or above `shard_count`, if the number of shards of the cluster is known, is
    ruled out. `shards` uses the first remaining order in the sequence above, because nearly all records are
    written that way; `possible` is the union of the remaining ones. In clusters of at most 512 shards the
    order of the specification can always be recognised; nwaku's and js-waku's differ only within groups of
    eight shards, and cannot be distinguished there.
    """
    if len(value) != _HEAD + _VECTOR_BYTES:
        return None
    vector = value[_HEAD:]
    big = int.from_bytes(vector, "big")
    little = int.from_bytes(vector, "little")
    mirrored = int.from_bytes(vector.translate(_MIRROR), "little")
    readings = [_bits(number) for number in (little, mirrored, big)]
    fitting = [shards for shards in readings if max(shards, default=0) < shard_count] or readings
    return RelayShards(int.from_bytes(value[:_HEAD], "big"), fitting[0], frozenset().union(*fitting))


_MIRROR: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _bits(number: int) -> frozenset[int]:
    return frozenset(at for at in range(number.bit_length()) if number >> at & 1)


# --- addresses --------------------------------------------------------------------------------------------


def encode_multiaddrs(addresses: Iterable[str], limit: int, peer_id: str) -> bytes:
    """Encode `multiaddrs`: each as length (2 bytes) and binary form, as many from the first on as fit into
    `limit` bytes. Raise ValueError for an invalid multiaddr.

    31/WAKU2-ENR: an address contains a peer id only if it is that of a circuit relay, and `/p2p-circuit` is
    then omitted. The node's own peer id follows from its key.
    """
    out, full = bytearray(), False
    for address in addresses:
        relay, circuit, _ = address.partition(_CIRCUIT)
        text = relay if circuit else address.removesuffix(f"/p2p/{peer_id}")
        try:
            binary = _to_bytes(text)
        except Exception as error:  # the library raises a dozen unrelated types for invalid text
            raise ValueError(f"{address!r} is not a multiaddr: {error}") from None
        full = full or len(out) + 2 + len(binary) > limit
        if full:
            continue  # keep validating: an error must not depend on the room
        out += len(binary).to_bytes(2, "big") + binary
    return bytes(out)


def _to_bytes(text: str) -> bytes:
    try:
        return parse_multiaddr(text).to_bytes()
    except ValueError:  # another transport
        return bytes(Multiaddr(text).to_bytes())


def read_multiaddrs(value: bytes, peer_id: str) -> tuple[str, ...]:
    """Decode `multiaddrs`; each address is completed with `/p2p/…`.

    As in nwaku, a zero or excessive length voids the whole field, while an unparsable address is skipped.
    """
    found: list[str] = []
    at = 0
    while at < len(value):
        start = at + 2
        end = start + int.from_bytes(value[at:start], "big")
        if end == start or end > len(value):
            return ()
        try:
            address = Multiaddr(value[start:end])
            text, names = str(address), [protocol.name for protocol in address.protocols()]
        except Exception:  # as above, for bytes chosen by a peer
            text, names = "", []
        if names:
            found.append(_complete(text, names, peer_id))
        at = end
    return tuple(dict.fromkeys(found))


def _complete(text: str, names: list[str], peer_id: str) -> str:
    own = f"/p2p/{peer_id}"
    if names[-1] == "p2p":
        return text if text.endswith(own) else text + _CIRCUIT + own
    return text + own
