"""Common to the blocking clients: closing, and taking events one at a time."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, overload

from ipc_schema.errors import ErrorCode
from logos_client.blocking._portal import Portal, PortalCall
from logos_client.exceptions import ClosedError, DeadlineError

E = TypeVar("E")
T = TypeVar("T")


class AsyncClosable(Protocol):
    """The asyncio client inside a blocking one."""

    async def close(self) -> None:
        """Close it."""


C = TypeVar("C", bound=AsyncClosable)


def open_client(name: str, work: Callable[[], Coroutine[Any, Any, C]]) -> tuple[Portal, C]:
    """Open a portal with a client in it. Nothing is left behind if opening fails or is interrupted."""
    portal = Portal(f"logos {name}")
    try:
        client = portal.call(work)
    except Exception:
        portal.close()
        raise
    except BaseException:  # Ctrl-C: do not wait, it ends by itself
        portal.begin_close()
        raise
    portal.on_close = client.close
    return portal, client


@overload
def here(values: str | Iterable[str]) -> str | list[str]: ...  # type: ignore[overload-overlap]  # str is one
@overload
def here(values: Iterable[T]) -> list[T]: ...
@overload
def here(values: None) -> None: ...
def here(values: Any) -> Any:
    """Consume an argument in the caller's thread: it may be a generator."""
    return values if values is None or isinstance(values, str) else list(values)


class BlockingClient:
    """A client with an event loop of its own, and so with an end."""

    def __init__(self, portal: Portal) -> None:
        """Internal: use `connect`."""
        self._portal = portal
        # Not the client itself, which must stay collectable. At exit the portals close themselves.
        weakref.finalize(self, _forgotten, portal, type(self).__name__).atexit = False

    def close(self) -> None:
        """Close the connection gracefully, and the thread behind it. Idempotent, from any thread."""
        self._portal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _forgotten(portal: Portal, kind: str) -> None:
    if portal.open:
        portal.begin_close()
        warnings.warn(f"unclosed {kind}", ResourceWarning, stacklevel=2)


class EventTap(Generic[E]):
    """Takes events from the loop, one when one is requested.

    A wait that ends early, by its timeout or by Ctrl-C, leaves the take in progress: its event answers the
    next call. So none is lost, and none counts as handled before it was given out.
    """

    def __init__(self, portal: Portal, take: Callable[[], Coroutine[Any, Any, E | None]]) -> None:
        """`take()` waits for the next event; None at the end."""
        self._portal = portal
        self._take = take
        # The thread whose turn it is. No lock: Ctrl-C between acquiring it and the `try` would leak it.
        self._turn: dict[str, int] = {}
        self._holder: int | None = None
        self._call: PortalCall[E | None] | None = None

    def next(self, timeout: float | None = None) -> E:
        """Return the next event.

        Raises `DeadlineError`, `ClosedError` at the end, RuntimeError if another thread is waiting for it.
        """
        self._portal.home.check()
        me = threading.get_ident()
        if self._turn.setdefault("thread", me) != me:
            raise RuntimeError("another thread is waiting for the next event already")
        try:
            call = self._call
            if call is None:
                call = self._call = PortalCall(self._portal, self._take)
            if not call.begun:  # also one that Ctrl-C withheld
                self._portal.begin(call)
            try:
                event = call.wait(timeout)
            except BaseException as error:
                if call.raised(error):
                    self._call = None
                elif isinstance(error, TimeoutError) and not call.done:
                    what = f"no event within {timeout:g} s"
                    raise DeadlineError(ErrorCode.DEADLINE_EXCEEDED, what) from None
                raise
            self._call = None
            self._holder = me
        finally:
            self._turn.clear()
        if event is None:
            raise ClosedError
        return event

    def settled(self) -> bool:
        """Return whether the app is done with its last event: it is if the thread that took it is the one
        that asks.

        Another thread may still be working on it, or may have failed: the event is delivered again then.
        """
        return self._call is None and self._holder == threading.get_ident()
