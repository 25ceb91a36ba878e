"""The consumers of the kernel by name, and their connections.

A consumer is identified by the name in its hello and outlives its connection; a connection is a ROUTER
identity. ROUTER does not report closed connections, so both tables are bounded LRU tables.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.server_client import Client

MAX_CONNECTIONS: Final = 1024
MAX_CONSUMERS: Final = 1024


class Consumer(Client):
    """A consumer. `named`: it chose its own name; `replaying`: a replay is in progress."""

    __slots__ = ("kind", "named", "replaying")

    def __init__(self, name: str, kind: str, *, named: bool) -> None:
        super().__init__(name)
        self.kind = kind
        self.named = named
        self.replaying = False


class Consumers:
    """The two tables. `holds_lease(name)` returns whether a consumer must not be forgotten."""

    def __init__(self, new_name: Callable[[], str], holds_lease: Callable[[str], bool]) -> None:
        self._new_name = new_name
        self._holds_lease = holds_lease
        self._connections: OrderedDict[bytes, Consumer] = OrderedDict()
        self._by_name: OrderedDict[str, Consumer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_name)

    def of(self, identity: bytes) -> Consumer | None:
        """Return the consumer that said hello on this connection."""
        found = self._connections.get(identity)
        if found is not None:
            self._connections.move_to_end(identity)
        return found

    def hello(self, identity: bytes, name: str | None, kind: str) -> Consumer:
        """Bind the connection to the consumer of that name, creating it if necessary; without a name, to a
        new one.

        Raise `IpcError` (`busy`) if there are too many consumers that cannot be forgotten.
        """
        if name is None:
            previous = self._connections.get(identity)
            # A second hello on the same connection keeps the name generated for the first one.
            name = previous.name if previous is not None and not previous.named else self._new_name()
            consumer = self._by_name.get(name) or self._add(Consumer(name, kind, named=False))
        else:
            consumer = self._by_name.get(name) or self._add(Consumer(name, kind, named=True))
        consumer.kind = kind
        self._by_name.move_to_end(consumer.name)
        self._connections[identity] = consumer
        self._connections.move_to_end(identity)
        while len(self._connections) > MAX_CONNECTIONS:
            self._connections.popitem(last=False)
        return consumer

    def forget_connection(self, identity: bytes) -> None:
        """Forget a connection, but keep its consumer."""
        self._connections.pop(identity, None)

    def _add(self, consumer: Consumer) -> Consumer:
        if len(self._by_name) >= MAX_CONSUMERS:
            self._evict()
        self._by_name[consumer.name] = consumer
        return consumer

    def _evict(self) -> None:
        for name, consumer in self._by_name.items():
            if not (consumer.in_flight or consumer.unanswered or consumer.ordered) and not self._holds_lease(
                name
            ):
                del self._by_name[name]
                for identity in [i for i, c in self._connections.items() if c is consumer]:
                    del self._connections[identity]
                return
        raise IpcError(ErrorCode.BUSY, f"{MAX_CONSUMERS} consumers are connected", retry_after_ms=10_000)
