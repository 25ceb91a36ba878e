"""The contract between kernel, Messaging API and clients: frames, types and pure logic, no I/O.

`SPEC.md` beside this file is the contract in words, `vectors/*.json` in bytes. Changing either changes
`PROTOCOL_VERSION`, except for additions that old readers skip.
"""

from __future__ import annotations

from typing import Final

__all__ = ["PROTOCOL_MIN", "PROTOCOL_VERSION"]

PROTOCOL_VERSION: Final = 1
"""The version of SPEC.md that this package implements, and the highest one it knows."""

PROTOCOL_MIN: Final = 1
"""The oldest version that this package still supports."""
