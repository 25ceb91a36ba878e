"""Consumers: a name outlives its connections, and both tables are bounded."""

from __future__ import annotations

from itertools import count

import pytest

from ipc_schema.errors import IpcError
from kernel_proc.ipc import consumers as module
from kernel_proc.ipc.consumers import Consumers


def table(leased: set[str] | None = None) -> Consumers:
    numbers = count()
    return Consumers(lambda: f"anonymous-{next(numbers)}", lambda name: name in (leased or set()))


def test_a_name_is_one_consumer_on_any_connection() -> None:
    consumers = table()
    first = consumers.hello(b"1", "mapi", "mapi")
    assert consumers.hello(b"2", "mapi", "mapi") is first
    assert consumers.of(b"1") is consumers.of(b"2") is first
    consumers.forget_connection(b"1")
    assert consumers.of(b"1") is None
    assert consumers.of(b"2") is first


def test_without_a_name_each_connection_is_its_own() -> None:
    consumers = table()
    first = consumers.hello(b"1", None, "tool")
    assert consumers.hello(b"1", None, "tool") is first
    assert consumers.hello(b"2", None, "tool") is not first


def test_the_oldest_idle_consumer_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONSUMERS", 3)
    consumers = table({"leased"})
    consumers.hello(b"1", "leased", "mapi")
    consumers.hello(b"2", "busy", "tool").in_flight = 1
    consumers.hello(b"3", "idle", "tool")
    consumers.hello(b"4", "new", "tool")
    assert consumers.of(b"3") is None
    assert len(consumers) == 3
    consumers.hello(b"5", "new", "tool").in_flight = 1
    with pytest.raises(IpcError, match="busy"):
        consumers.hello(b"6", "one more", "tool")


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    consumers = table()
    for identity in (b"1", b"2", b"3"):
        consumers.hello(identity, "same", "tool")
    assert consumers.of(b"1") is None
    assert consumers.of(b"3") is not None
