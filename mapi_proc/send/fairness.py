"""Fair shares for the apps: of the room for waiting sends, and of the attempts. Pure.

One busy app must leave room for the others, however many there are and without a fixed quota. So an app is
admitted while it holds less than `_GREED` times what is still free (the dynamic threshold of shared-buffer
switches, Choudhury and Hahne 1998): alone it gets 8/9 of the room, and a newcomer always finds some.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

from ipc_schema.errors import ErrorCode, IpcError
from mapi_proc.send.task import SendState, SendTask

_GREED: Final = 8


@dataclass(slots=True)
class _Held:
    count: int = 0
    size: int = 0


_NOTHING: Final = _Held()


class Room:
    """The room for sends that wait for the network, and each app's share of it."""

    def __init__(self, max_tasks: int, max_bytes: int) -> None:
        self._max_tasks = max_tasks
        self._max_bytes = max_bytes
        self._all = _Held()
        self._apps: dict[bytes, _Held] = {}

    @property
    def count(self) -> int:
        return self._all.count

    @property
    def size(self) -> int:
        return self._all.size

    def check(self, scope: bytes, size: int) -> None:
        """Raise `busy` if one more send of this app, with `size` payload bytes, would take too much."""
        everybody, own = self._all, self._apps.get(scope, _NOTHING)
        free = self._max_tasks - everybody.count
        free_bytes = self._max_bytes - everybody.size - size
        if free <= 0 or free_bytes < 0:
            self._refuse(f"{everybody.count} sends ({everybody.size} bytes) wait for the network")
        if own.count >= _GREED * free or own.size > _GREED * free_bytes:
            self._refuse(
                f"{own.count} sends ({own.size} bytes) of this app wait for the network, as many as its share"
                " of the outbox"
            )

    @staticmethod
    def _refuse(text: str) -> None:
        raise IpcError(ErrorCode.BUSY, text, retry_after_ms=1000)

    def reserve(self, scope: bytes, size: int) -> None:
        """Take room for one more send of the app, or raise `busy`."""
        self.check(scope, size)
        self.take(scope, size)

    def take(self, scope: bytes, size: int) -> None:
        """Charge one more send to the app."""
        for held in (self._all, self._apps.setdefault(scope, _Held())):
            held.count += 1
            held.size += size

    def renamed(self, old: bytes, new: bytes) -> None:
        """Follow an app whose stream got another id."""
        if old in self._apps:
            self._apps[new] = self._apps.pop(old)

    def give_back(self, scope: bytes, size: int) -> None:
        """Release the room of one of the app's sends."""
        own = self._apps[scope]
        for held in (self._all, own):
            held.count -= 1
            held.size -= size
        if not own.count:
            del self._apps[scope]


class FairQueue:
    """Sends that wait for their first attempt: FIFO within an app, round robin between apps."""

    def __init__(self) -> None:
        self._apps: OrderedDict[bytes, deque[SendTask]] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether any wait; ones cancelled meanwhile may count."""
        return bool(self._apps)

    def push(self, task: SendTask) -> None:
        self._apps.setdefault(task.scope, deque()).append(task)

    def peek(self) -> SendTask | None:
        """Return the next send; ones cancelled meanwhile are skipped."""
        while self._apps:
            scope, waiting = next(iter(self._apps.items()))
            while waiting and waiting[0].state is not SendState.PARKED:
                waiting.popleft()
            if waiting:
                return waiting[0]
            del self._apps[scope]
        return None

    def pop(self) -> None:
        """Remove the send that `peek` returned, and pass the turn to the next app."""
        scope, waiting = next(iter(self._apps.items()))
        waiting.popleft()
        if waiting:
            self._apps.move_to_end(scope)
        else:
            del self._apps[scope]
