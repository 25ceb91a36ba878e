"""One request, one typed reply: for all clients, and the base of the parts of a kernel's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from ipc_schema.body import Body
from ipc_schema.frames import Reply
from logos_client._connection import DEFAULT_TIMEOUT
from logos_client.exceptions import public_errors

B = TypeVar("B", bound=Body)


class Calls(ABC):
    """An object that can make requests to a kernel."""

    @abstractmethod
    async def _reply(
        self,
        method: str,
        body: Mapping[str, object] | None = None,
        blobs: Sequence[bytes] = (),
        *,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Reply:
        """Make one request. Raises `LogosError`."""

    async def _call(
        self,
        kind: type[B],
        method: str,
        body: Mapping[str, object] | None = None,
        blobs: Sequence[bytes] = (),
        *,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> B:
        return read_reply(kind, await self._reply(method, body, blobs, timeout=timeout))


def read_reply(kind: type[B], reply: Reply) -> B:
    """Return the body of a reply. Raises `LogosError` if it is not one of its kind."""
    with public_errors():
        return kind.from_body(reply.body)


def texts(one_or_more: str | Iterable[str]) -> tuple[str, ...]:
    """Treat a single text as one element, not as its characters."""
    return (one_or_more,) if isinstance(one_or_more, str) else tuple(one_or_more)
