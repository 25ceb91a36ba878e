"""Query a supervisord about its processes: XML-RPC over HTTP over its Unix socket."""

from __future__ import annotations

import asyncio
import base64
import xmlrpc.client
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from xml.parsers.expat import ExpatError

_MAX_REPLY: Final = 1024 * 1024


class RpcError(Exception):
    """supervisord did not answer, or not intelligibly."""


class ProcessState(NamedTuple):
    """A program as supervisord sees it. `pid` 0: not running. `state` is supervisord's word."""

    name: str
    state: str
    pid: int
    exit_status: int
    spawn_error: str

    @property
    def ended(self) -> bool:
        """Neither running nor about to be."""
        return self.state in ("EXITED", "FATAL", "STOPPED", "UNKNOWN")


class SupervisorRpc:
    """One supervisord's socket. Each call uses a connection of its own."""

    def __init__(self, socket: Path, password: str, timeout: float = 5.0) -> None:
        self._socket = socket
        self._authorization = base64.b64encode(f"logos:{password}".encode()).decode()
        self._timeout = timeout

    async def processes(self) -> list[ProcessState]:
        """Return all programs by name. Raises `RpcError`."""
        reply = await self._call("supervisor.getAllProcessInfo", ())
        try:
            return [
                ProcessState(row["name"], row["statename"], row["pid"], row["exitstatus"], row["spawnerr"])
                for row in reply
            ]
        except (TypeError, KeyError) as error:
            raise RpcError(f"getAllProcessInfo: {error!r}") from error

    async def shutdown(self) -> None:
        """Ask supervisord to stop its programs and itself; it does so after the reply. Raises `RpcError`."""
        await self._call("supervisor.shutdown", ())

    async def _call(self, method: str, arguments: Sequence[Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                body = await self._post(xmlrpc.client.dumps(tuple(arguments), method).encode())
            return xmlrpc.client.loads(body)[0][0]
        except (OSError, EOFError, TimeoutError, ExpatError, ValueError, xmlrpc.client.Error) as error:
            raise RpcError(f"{method}: {error or type(error).__name__}") from error

    async def _post(self, body: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(self._socket), limit=_MAX_REPLY)
        try:
            head = (
                "POST /RPC2 HTTP/1.0\r\n"
                f"Authorization: Basic {self._authorization}\r\n"
                "Content-Type: text/xml\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            status = await reader.readline()
            if b" 200 " not in status:
                raise ValueError(status.decode("latin-1").strip() or "no answer")
            length = None
            while (line := await reader.readline()).strip():
                name, _, value = line.decode("latin-1").partition(":")
                if name.strip().lower() == "content-length":
                    length = int(value)
            if length is None or length > _MAX_REPLY:
                raise ValueError("no usable Content-Length")
            return await reader.readexactly(length)
        finally:
            writer.close()
