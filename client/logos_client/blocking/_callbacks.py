"""The thread in which a blocking client's callbacks run."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any


class CallbackThread:
    """Runs one callback after another, in a thread started for the first one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: queue.SimpleQueue[tuple[Callable[[Any], object], Any, Callable[[], None]] | None]
        self._work = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def inside(self) -> bool:
        """Whether this is that thread, that is, whether a callback is calling."""
        return self._thread is not None and threading.get_ident() == self._thread.ident

    async def run(self, callback: Callable[[Any], object], event: Any) -> None:
        """In the client's loop: run a callback and wait until it has returned."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        returned = loop.create_future()

        def finish() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
                loop.call_soon_threadsafe(_settle, returned)

        self._work.put((callback, event, finish))
        await returned

    def end(self) -> None:
        """End the thread after its current callback."""
        self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            callback, event, finish = work
            try:
                callback(event)
            except BaseException:
                # As for any uncaught exception of a thread. The next event is still delivered.
                kind, error, trace = sys.exc_info()
                assert kind is not None
                threading.excepthook(
                    threading.ExceptHookArgs((kind, error, trace, threading.current_thread()))
                )
                del error, trace
            finally:
                finish()
            del work, callback, event, finish  # hold no references while waiting


def _settle(returned: asyncio.Future[None]) -> None:
    if not returned.done():
        returned.set_result(None)
