"""Asking control sockets: the answer there never waits behind work."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from ipc_schema.control import HEALTH, ControlHealthReply
from ipc_schema.errors import IpcError
from logos_client._connection import RequestConnection

__all__ = ["ControlHealth", "ask_health", "wait_ready"]

_POLL: Final = 0.1


class ControlHealth:
    """Health of one process: the common part, and everything it said (`extra`)."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        """Raises `IpcError` when the common part is not there."""
        self.common = ControlHealthReply.from_body(dict(body))
        self.extra = {
            key: value for key, value in body.items() if key not in ControlHealthReply.__dataclass_fields__
        }


async def ask_health(endpoint: str, timeout: float = 2.0) -> ControlHealth | None:
    """Health of the process at a control endpoint; None when none answers in time."""
    connection = RequestConnection(endpoint)
    try:
        async with asyncio.timeout(timeout):
            reply = await connection.request(HEALTH, timeout=timeout)
        return ControlHealth(reply.body)
    except (IpcError, TimeoutError):
        return None
    finally:
        await connection.close()


async def wait_ready(endpoint: str, *, pid: int | None = None, not_pid: int | None = None) -> ControlHealth:
    """Wait until the process is ready; for ever, so put a deadline around it.

    `pid`: the one that is meant. `not_pid`: one that is on its way out.
    """
    while True:
        health = await ask_health(endpoint)
        if (
            health is not None
            and health.common.ready
            and (pid is None or health.common.pid == pid)
            and (not_pid is None or health.common.pid != not_pid)
        ):
            return health
        await asyncio.sleep(_POLL)
