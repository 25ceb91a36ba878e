"""The frames of filter seen with nwaku, by kind, without their length prefix."""

from __future__ import annotations

from tests.unit.kernel_proc.protocols.vectors import exchanges, vectors

_FRAMES = [(one.direction, one.body) for one in vectors("filter") if one.body is not None]

REQUESTS = [body for direction, body in _FRAMES if direction.endswith("request")]
RESPONSES = [body for direction, body in _FRAMES if direction.endswith("response")]
PUSHES = [body for direction, body in _FRAMES if direction in ("py->nwaku", "nwaku->py")]
PAIRS = [(asked, answered) for asked, answered in exchanges("filter").values() if asked and answered]
"""What nwaku was asked, in this order, and what it answered."""
