"""An app's own journal over HTTP: server-sent events, WebSocket, sends with a fate.

The journal is the Messaging API's: it is on disk there, numbered by (stream id, seq), and stays until it is
acknowledged. The gateway adds nothing that a kill of it could lose.
"""

from __future__ import annotations

__all__: list[str] = []
