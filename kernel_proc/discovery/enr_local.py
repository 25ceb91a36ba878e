"""Our own node record, kept current: setters record changes, and a record with a higher `seq` is signed.

The last record is kept in a file, so that `seq` continues after a restart: other nodes ignore a record whose
`seq` is not higher than the known one, and would keep dialling an old port.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from kernel_proc.discovery.enr import MAX_RECORD, Enr, EnrError, record_size, sign_record
from kernel_proc.discovery.enr_identity import Identity
from kernel_proc.discovery.enr_values import Capability, RelayShards, encode_multiaddrs, encode_shards
from logos_process.files import replace_file

log = logging.getLogger(__name__)

_LENGTH_FIELDS: Final = 2
"""Bytes by which the length fields of `multiaddrs` and of the whole record may grow."""


class LocalEnr:
    """This node's record.

    Nothing is signed before `record` is first read, so that a start with unchanged settings results in the
    previous record. After that, each effective change creates a new record and notifies the listeners;
    `batch` combines several changes.

    `multiaddrs` that do not fit into 300 bytes are dropped, starting from the last. The rest always fits.
    """

    def __init__(self, identity: Identity, path: Path | None = None, *, now_ms: int) -> None:
        """`path` is the file of the last record (None: do not persist).

        `now_ms` returns milliseconds since the Unix epoch, the first `seq` without a stored record of this
        key, so that losing the file does not make us look outdated. Raise OSError if the file exists but
        cannot be read.
        """
        self.identity = identity
        self._path = path
        self._listeners: list[Callable[[Enr], None]] = []
        self._pairs: dict[bytes, bytes] = {}
        self._addresses: tuple[str, ...] = ()
        stored = None if path is None else _load(path, identity)
        self._seq = stored.seq if stored is not None else max(0, now_ms - 1)
        self._record = stored
        self._published = False
        self._batches = 0

    @property
    def record(self) -> Enr:
        """The current record; within a `batch` the previous one."""
        if not self._published:
            self._published = True
            self._sign(self._fitting(self._pairs, self._addresses))
        assert self._record is not None
        return self._record

    @property
    def node_id(self) -> bytes:
        """The node id, 32 bytes."""
        return self.identity.node_id

    def add_listener(self, listener: Callable[[Enr], None]) -> None:
        """Call `listener` with every new record."""
        self._listeners.append(listener)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Combine the changes in the block into one new record, even if it raises."""
        self._batches += 1
        try:
            yield
        finally:
            self._batches -= 1
            self._renew()

    # -- setters ----------------------------------------------

    def set_capabilities(self, capabilities: Capability) -> None:
        """Set the protocols that we serve."""
        self._change({b"waku2": bytes((capabilities,))})

    def set_shards(self, cluster: int, shards: Iterable[int]) -> None:
        """Set our shards in one cluster; no shards remove the field. Raise ValueError for a number that
        does not fit."""
        chosen = RelayShards.of(cluster, shards)
        key, value = encode_shards(chosen)
        self._change({b"rs": None, b"rsv": None} | ({key: value} if chosen.shards else {}))

    def set_udp(self, *, udp4: int | None, udp6: int | None) -> None:
        """Set the ports at which discv5 is reachable; None removes them."""
        self._change({b"udp": _port(udp4), b"udp6": _port(udp6)})

    def set_addresses(self, addresses: Iterable[str]) -> None:
        """Set the announced multiaddrs of the libp2p host, most useful first.

        The first plain TCP address of each IP version goes into `ip`, `tcp`, `ip6`, `tcp6`, the others into
        `multiaddrs` as far as they fit. Undialable addresses (0.0.0.0, port 0) are left out. An IP without a
        plain TCP address is unchanged, because discv5 may need it. Raise ValueError for an invalid multiaddr.
        """
        plain, rest = split_addresses(addresses)
        change: dict[bytes, bytes | None] = {b"tcp": None, b"tcp6": None}
        for version, (ip, tcp) in plain.items():
            ip_key, tcp_key = (b"ip", b"tcp") if version == 4 else (b"ip6", b"tcp6")
            change |= {ip_key: ipaddress.ip_address(ip).packed, tcp_key: _port(tcp)}
        self._change(change, rest)

    # -- internal ---------------------------------------------

    def _change(self, change: dict[bytes, bytes | None], addresses: tuple[str, ...] | None = None) -> None:
        merged = {**self._pairs, **change}
        pairs = {key: value for key, value in merged.items() if value is not None}
        if addresses is None:
            addresses = self._addresses
        self._fitting(pairs, addresses)  # raise before anything is changed
        self._pairs, self._addresses = pairs, addresses
        self._renew()

    def _renew(self) -> None:
        if self._published and not self._batches:
            self._sign(self._fitting(self._pairs, self._addresses))

    def _fitting(self, pairs: dict[bytes, bytes], addresses: tuple[str, ...]) -> dict[bytes, bytes]:
        """Return the pairs with as many addresses as fit. Raise ValueError for an invalid address."""
        seq = self._seq + 1
        room = MAX_RECORD - record_size(seq, {**pairs, b"multiaddrs": b""}) - _LENGTH_FIELDS
        listed = encode_multiaddrs(addresses, max(room, 0), self.identity.peer_id)
        return {**pairs, b"multiaddrs": listed} if listed else pairs

    def _sign(self, pairs: dict[bytes, bytes]) -> None:
        """Sign a new record if it differs from the last one."""
        if self._record is not None and _same(self._record, pairs):
            return
        record = sign_record(self.identity, self._seq + 1, pairs)
        if self._path is not None:
            _save(self._path, record)
        self._record, self._seq = record, record.seq
        if dropped := len(self._addresses) - _count(pairs.get(b"multiaddrs", b"")):
            log.info("%d addresses did not fit into the node record", dropped)
        for listener in self._listeners:
            listener(record)


def split_addresses(addresses: Iterable[str]) -> tuple[dict[int, tuple[str, int]], tuple[str, ...]]:
    """Split addresses into the first plain TCP address per IP version (version → (IP, port)) and all
    others. Undialable ones are left out."""
    plain: dict[int, tuple[str, int]] = {}
    rest: list[str] = []
    for address in addresses:
        parts = address.split("/p2p/")[0].split("/")[1:]
        if len(parts) < 4 or parts[0] not in ("ip4", "ip6"):
            rest.append(address)
            continue
        if ipaddress.ip_address(parts[1]).is_unspecified or parts[3] == "0":
            continue
        version = int(parts[0][2])
        if len(parts) == 4 and parts[2] == "tcp" and "p2p-circuit" not in address and version not in plain:
            plain[version] = (parts[1], int(parts[3]))
        else:
            rest.append(address)
    return plain, tuple(dict.fromkeys(rest))


def _port(port: int | None) -> bytes | None:
    if port is None:
        return None
    if not 0 < port <= 0xFFFF:
        raise ValueError(f"port {port} is not in 1..65535")
    return port.to_bytes((port.bit_length() + 7) // 8, "big")


def _count(multiaddrs: bytes) -> int:
    count = at = 0
    while at < len(multiaddrs):
        at += 2 + int.from_bytes(multiaddrs[at : at + 2], "big")
        count += 1
    return count


def _same(record: Enr, pairs: dict[bytes, bytes]) -> bool:
    fixed = (b"id", b"secp256k1")
    return {key: value for key, value in record.pairs.items() if key not in fixed} == pairs


def _load(path: Path, identity: Identity) -> Enr | None:
    """Return the record in the file, if there is one and it is ours."""
    try:
        record = Enr.from_text(path.read_text(encoding="ascii", errors="replace").strip())
    except FileNotFoundError:
        return None
    except EnrError as error:
        log.warning("%s does not hold a node record (%s); restarting the sequence number", path, error)
        return None
    if record.public_key != identity.public_key:
        log.warning("%s holds the record of another key; restarting the sequence number", path)
        return None
    return record


def _save(path: Path, record: Enr) -> None:
    """Write atomically. If the disk fails, we lose the stored `seq` but not the node."""
    try:
        replace_file(path, record.text + "\n")
    except OSError as error:
        log.warning("cannot store the node record in %s: %s", path, error)
