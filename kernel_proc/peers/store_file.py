"""The peer store on disk: one JSON file, replaced atomically, human-readable.

Its contents only save time: an unreadable file is moved aside and the node starts without; a failing disk is
logged once per row of failures and retried.
"""

from __future__ import annotations

import json
import logging
import math
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from ipc_schema.steady import Stamp
from kernel_proc.peers.clock import PeerClock
from kernel_proc.peers.known import KnownPeer
from kernel_proc.peers.store import MAX_ADDRESS_TEXT, MAX_ADDRESSES
from logos_process.files import read_json, replace_file

log = logging.getLogger(__name__)

VERSION: Final = 1
MAX_FILE: Final = 64 * 1024 * 1024
MAX_FAILURES: Final = 2**31
MOMENT: Final = 1e-3
"""The smallest instant that is distinct from "never" (0)."""


def snapshot(peers: Iterable[KnownPeer]) -> list[dict[str, Any]]:
    """Return the data for `save_peers`; taken in the event loop, so that the write can happen in a thread."""
    return [asdict(peer) for peer in peers]


def save_peers(path: Path, peers: Sequence[dict[str, Any]], stamp: Stamp) -> None:
    """Replace the file. Raise OSError."""
    for peer in peers:
        peer["enr"] = b64encode(peer["enr"]).decode()
        for name in ("group", "why", "source"):
            peer.pop(name, None)
    content = {"version": VERSION, "stamp": stamp.to_dict(), "peers": peers}
    replace_file(path, json.dumps(content, separators=(",", ":"), allow_nan=False))


def load_peers(path: Path, clock: PeerClock) -> list[KnownPeer]:
    """Return the peers of an earlier run, with instants shifted to `clock`; none without a usable file."""
    try:
        content = read_json(path, version=VERSION, max_bytes=MAX_FILE)
        # Files of version 0.1 have no stamp: their instants are wall-clock readings.
        shift = clock.shift(Stamp.from_dict(content["stamp"])) if "stamp" in content else 0.0
        return [_peer(one, shift) for one in content["peers"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        log.warning("cannot read the peer store %s (%s); starting without it", path, error)
        _put_aside(path)
        return []


def _put_aside(path: Path) -> None:
    try:
        path.replace(path.with_name(f"{path.name}.unreadable"))
    except OSError as error:
        log.warning("cannot move it aside either: %s", error)


def _instant(value: Any, shift: float) -> float:
    """Parse an instant; 0 means never. Raise ValueError, TypeError or OverflowError."""
    instant = float(value)
    if not math.isfinite(instant):  # JSON has no infinity, but Python's parser accepts it, and 1e999
        raise ValueError("time is not finite")
    return max(instant + shift, MOMENT) if instant else 0.0


def _peer(row: dict[str, Any], shift: float) -> KnownPeer:
    """Parse a peer. Raise ValueError, TypeError, KeyError or OverflowError."""
    addresses = tuple(str(one) for one in row["addresses"])[:MAX_ADDRESSES]
    if any(len(one) > MAX_ADDRESS_TEXT for one in addresses):
        raise ValueError("address too long")
    cluster = row["cluster"]
    failures = int(row["failures"])
    if not 0 <= failures <= MAX_FAILURES:
        raise ValueError("invalid number of failures")
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
