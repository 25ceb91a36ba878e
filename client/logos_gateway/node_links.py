"""The gateway's connections to the processes of its node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from ipc_schema.errors import ErrorCode
from ipc_schema.kernel.records import ProtocolState
from ipc_schema.paths import KernelEndpoints, MapiEndpoints
from logos_client.exceptions import LogosError, NotReadyError
from logos_client.kernel import KernelClient

log = logging.getLogger(__name__)

T = TypeVar("T")

_RETRY_SECONDS: Final = 1.0


class NodeLinks:
    """Keep one connection to the kernel, opened once the kernel is up; it then reconnects by itself.

    Connections to the Messaging API are made per app (`apps.journals`); only its address is here.
    """

    def __init__(self, kernel: KernelEndpoints, mapi: MapiEndpoints | None) -> None:
        self.kernel_endpoints = kernel
        self.mapi_endpoints = mapi
        self._kernel: KernelClient | None = None
        self._opening: asyncio.Task[None] | None = None
        self._refusal: LogosError | None = None
        self._mounted: tuple[bytes, frozenset[str]] | None = None
        self._on_kernel: list[Callable[[KernelClient], Awaitable[None]]] = []

    def on_kernel(self, callback: Callable[[KernelClient], Awaitable[None]]) -> None:
        """Run `callback` once, after the first connection to the kernel. Call before `start`."""
        self._on_kernel.append(callback)

    def start(self) -> None:
        self._opening = asyncio.get_running_loop().create_task(self._open(), name="kernel link")

    async def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._kernel is not None:
            await self._kernel.close()

    @property
    def kernel(self) -> KernelClient:
        """Return the kernel's client. Raises `NotReadyError` until the kernel has been reached once."""
        if self._kernel is None:
            reason = str(self._refusal) if self._refusal is not None else "the kernel is not reachable yet"
            raise NotReadyError(ErrorCode.NOT_READY, reason)
        return self._kernel

    @property
    def kernel_seen(self) -> bool:
        """Whether the kernel has been reached since the gateway started."""
        return self._kernel is not None

    async def mounts(self, protocol: str) -> bool:
        """Return whether the kernel runs a protocol. Only its configuration decides, so each kernel process
        is queried once. Raises `LogosError`."""
        kernel = self.kernel
        if self._mounted is None or self._mounted[0] != kernel.instance:
            found = (await kernel.health()).protocols
            mounted = frozenset(one.name for one in found if one.state != ProtocolState.NOT_MOUNTED)
            self._mounted = kernel.instance, mounted
        return protocol in self._mounted[1]

    async def _open(self) -> None:
        while True:
            try:
                client = await KernelClient.connect(self.kernel_endpoints, kind="tool", timeout=None)
                break
            except LogosError as error:  # it is there and refuses: an operator may change that
                self._refusal = error
                log.warning("the kernel refuses the gateway: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)
        self._kernel = client
        for callback in self._on_kernel:
            await callback(client)
