"""For operators: metrics of all processes, live events of the kernel, the dashboard."""

from __future__ import annotations

__all__: list[str] = []
