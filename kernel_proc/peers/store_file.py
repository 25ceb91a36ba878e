"""The peer store on disk: one JSON file, replaced as a whole, readable by people.

What is in it only saves time: a file that cannot be read is put aside and the node starts without; a disk
that refuses is logged once in a row of refusals and tried again.
"""

from __future__ import annotations

import json
import logging
import math
import os
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from ipc_schema.steady import Stamp
from kernel_proc.peers.clock import PeerClock
from kernel_proc.peers.known import KnownPeer
from kernel_proc.peers.store import MAX_ADDRESS_TEXT, MAX_ADDRESSES

__all__ = ["load_peers", "save_peers", "snapshot"]

log = logging.getLogger(__name__)

VERSION: Final = 1
MAX_FILE: Final = 64 * 1024 * 1024
MAX_FAILURES: Final = 2**31
MOMENT: Final = 1e-3
"""The least instant that is not "never"."""


def snapshot(peers: Iterable[KnownPeer]) -> list[dict[str, Any]]:
    """What `save_peers` writes, taken in the loop so that writing may happen in a thread."""
    return [asdict(peer) for peer in peers]


def save_peers(path: Path, peers: Sequence[dict[str, Any]], stamp: Stamp) -> None:
    """Replace the file. Raises OSError."""
    for peer in peers:
        peer["enr"] = b64encode(peer["enr"]).decode()
        for name in ("group", "why", "source"):
            peer.pop(name, None)
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        content = {"version": VERSION, "stamp": stamp.to_dict(), "peers": peers}
        json.dump(content, file, separators=(",", ":"), allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_peers(path: Path, clock: PeerClock) -> list[KnownPeer]:
    """Return the peers of an earlier run, their instants moved to `clock`; none if no file is usable."""
    try:
        if path.stat().st_size > MAX_FILE:
            raise ValueError(f"more than {MAX_FILE} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}")
        # A file of version 0.1 has no stamp: its instants are readings of the wall clock.
        shift = clock.shift(Stamp.from_dict(content["stamp"])) if "stamp" in content else 0.0
        return [_peer(one, shift) for one in content["peers"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        log.warning("the peer store %s cannot be read (%s): the node starts without it", path, error)
        _put_aside(path)
        return []


def _put_aside(path: Path) -> None:
    try:
        path.replace(path.with_name(f"{path.name}.unreadable"))
    except OSError as error:
        log.warning("it cannot be put aside either: %s", error)


def _instant(value: Any, shift: float) -> float:
    """Read an instant; 0 stands for never. Raises ValueError, TypeError, OverflowError."""
    instant = float(value)
    if not math.isfinite(instant):  # JSON has no infinity, but Python reads it, and 1e999 as one
        raise ValueError("a time that is not finite")
    return max(instant + shift, MOMENT) if instant else 0.0


def _peer(row: dict[str, Any], shift: float) -> KnownPeer:
    """Raises ValueError, TypeError, KeyError, OverflowError."""
    addresses = tuple(str(one) for one in row["addresses"])[:MAX_ADDRESSES]
    if any(len(one) > MAX_ADDRESS_TEXT for one in addresses):
        raise ValueError("an address that is too long")
    cluster = row["cluster"]
    failures = int(row["failures"])
    if not 0 <= failures <= MAX_FAILURES:
        raise ValueError("a number of failures that cannot be")
    return KnownPeer(
        peer_id=str(row["peer_id"]),
        addresses=addresses,
        origin=str(row["origin"]),
        protocols=tuple(map(str, row["protocols"])),
        capabilities=int(row["capabilities"]),
        cluster=None if cluster is None else int(cluster),
        shards=tuple(map(int, row["shards"])),
        enr=b64decode(row["enr"], validate=True),
        seq=int(row["seq"]),
        learned=_instant(row["learned"], shift),
        last_success=_instant(row["last_success"], shift),
        last_attempt=_instant(row["last_attempt"], shift),
        failures=failures,
        retry_at=_instant(row["retry_at"], shift),
    )
