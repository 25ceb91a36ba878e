"""Frames seen between nwaku and others, by protocol."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

PATH = Path(__file__).parents[1] / "vectors" / "nwaku.json"


class Vector(NamedTuple):
    """`body` is without the length prefix; None: the file only describes the frame."""

    protocol: str
    direction: str
    body: bytes | None

    @property
    def is_request(self) -> bool:
        return self.direction.endswith("request")

    @property
    def from_nwaku(self) -> bool:
        return self.direction.startswith("nwaku")


def vectors(prefix: str) -> list[Vector]:
    """All frames of the protocols whose name begins with `prefix`, in the order they were seen."""
    found = []
    for entry in json.loads(PATH.read_text()):
        if entry["protocol"].startswith(prefix):
            try:
                frame: bytes | None = bytes.fromhex(entry["hex"])
            except ValueError:
                frame = None
            found.append(Vector(entry["protocol"], entry["direction"], _body(frame) if frame else None))
    return found


def _body(frame: bytes) -> bytes:
    length = shift = at = 0
    while True:
        length |= (frame[at] & 0x7F) << shift
        shift += 7
        at += 1
        if frame[at - 1] < 0x80:
            break
    assert len(frame) == at + length
    return frame[at:]


def exchanges(prefix: str) -> dict[str, tuple[bytes | None, bytes | None]]:
    """Requests to nwaku and its responses, by the name of the exchange."""
    found: dict[str, tuple[bytes | None, bytes | None]] = {}
    entries = vectors(prefix)
    for asked, answered in pairwise(entries):
        if asked.direction == "py->nwaku request" and answered.direction == "nwaku->py response":
            found[asked.protocol] = (asked.body, answered.body)
    return found
