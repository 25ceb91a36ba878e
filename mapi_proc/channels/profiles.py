"""The wire forms that a channel can write. Every channel reads all of them.

| profile | SDS form | mark | segments | what is encrypted |
|---|---|---|---|---|
| reference | nim | yes | newest | each segment |
| raw | nim | yes | none: one message holds the payload | the whole envelope |
| js | js | no | none | the whole envelope |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mapi_proc.channels.sds.bloom import JS, NIM

MARK: Final = b"RELIABLE-CHANNEL-API/1"
"""`meta` of the reference's channel messages. It ignores messages without it."""

MAX_RAW: Final = 110 * 1024
"""Largest payload without segments: with the Bloom filter and references it stays below the relay's 150
KiB."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One of the forms."""

    name: str
    form: str
    meta: bytes
    segments: bool
    seals_envelope: bool


PROFILES: Final = {
    profile.name: profile
    for profile in (
        Profile("reference", NIM, MARK, segments=True, seals_envelope=False),
        Profile("raw", NIM, MARK, segments=False, seals_envelope=True),
        Profile("js", JS, b"", segments=False, seals_envelope=True),
    )
}
