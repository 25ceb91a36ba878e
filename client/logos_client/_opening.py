"""The result of `connect`: to be awaited, or entered as a context."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Generic, TypeVar

C = TypeVar("C", bound=AbstractAsyncContextManager[Any, Any])


class Opening(Generic[C]):
    """`client = await opening`, or `async with opening as client:`, which closes it at the end."""

    def __init__(self, open_client: Callable[[], Coroutine[Any, Any, C]]) -> None:
        self._open = open_client
        self._client: C | None = None

    def __await__(self) -> Generator[Any, None, C]:
        return self._open().__await__()

    async def __aenter__(self) -> C:
        self._client = await self._open()
        return self._client

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._client is not None:
            await self._client.__aexit__(kind, error, traceback)
