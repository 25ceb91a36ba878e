"""The send queue of one peer, bounded in bytes and frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kernel_proc.relay.params import QueueParams


class Outbox:
    """Two queues of whole frames: control, which takes precedence, and messages.

    Frames are shared between the outboxes of all peers and never split. `take` joins several into one write.
    """

    __slots__ = ("_control", "_control_bytes", "_message_bytes", "_messages", "_params")

    def __init__(self, params: QueueParams) -> None:
        self._params = params
        # Lists, not deques: an empty deque takes 760 bytes, and there are two for each peer.
        self._control: list[bytes] = []
        self._control_bytes = 0
        self._messages: list[tuple[bytes, bytes]] = []
        self._message_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._messages or self._control)

    @property
    def size(self) -> int:
        return self._control_bytes + self._message_bytes

    @property
    def has_control(self) -> bool:
        return bool(self._control)

    def __len__(self) -> int:
        return len(self._control) + len(self._messages)

    def put_message(self, frame: bytes, message_id: bytes) -> bool:
        """Queue a message frame. Return False if the queue is full: the caller waits, or drops and counts
        it."""
        size = self._message_bytes + len(frame)
        if self._messages and (
            size > self._params.message_bytes or len(self._messages) >= self._params.message_count
        ):
            return False
        self._messages.append((frame, message_id))
        self._message_bytes = size
        return True

    def put_control(self, frame: bytes) -> bool:
        """Queue a control frame. Return False if the queue is full."""
        if self._control and (
            self._control_bytes + len(frame) > self._params.control_bytes
            or len(self._control) >= self._params.control_count
        ):
            return False
        self._control.append(frame)
        self._control_bytes += len(frame)
        return True

    def put_first(self, frames: Iterable[bytes]) -> None:
        """Put frames at the head of the queue, for the start of a new stream. Ignores the bounds."""
        self._control[:0] = frames
        self._control_bytes = sum(map(len, self._control))

    def take(self, unwanted: Callable[[bytes], bool] | None = None) -> bytes:
        """Return the next bytes to write, b"" if the queue is empty.

        Joins frames up to `write_bytes`, but returns at least one. Messages whose id is `unwanted` (the peer
        sent IDONTWANT) are discarded.
        """
        limit = self._params.write_bytes
        taken: list[bytes] = []
        size = count = 0
        for frame in self._control:
            if taken and size + len(frame) > limit:
                break
            taken.append(frame)
            size += len(frame)
            count += 1
        del self._control[:count]
        self._control_bytes -= size
        if self._control:
            return b"".join(taken)
        count = popped = 0
        for frame, message_id in self._messages:
            length = len(frame)
            if unwanted is None or not unwanted(message_id):
                if taken and size + length > limit:
                    break
                taken.append(frame)
                size += length
            count += 1
            popped += length
        del self._messages[:count]
        self._message_bytes -= popped
        return taken[0] if len(taken) == 1 else b"".join(taken)
