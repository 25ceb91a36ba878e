"""The REST API of the reference (nwaku): its routes, JSON shapes, status codes and texts, as it spells them.

What a tool written for nwaku relies on stays as it is, even where it loses data (a polling cache is emptied
by reading it); `logos_gateway.apps` offers better.
"""

from __future__ import annotations

__all__: list[str] = []
