"""The request server's count of what is under way, with a shell that runs nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

from ipc_schema.frames import decode_reply, encode_request
from ipc_schema.server import Answer, Call, RequestServer, Route, answer
from ipc_schema.server_client import Client

INSTANCE = bytes(16)


class Waiting:
    """An answer that never comes."""

    def __await__(self) -> object:  # pragma: no cover (nothing waits for it)
        raise NotImplementedError


class Shell:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.sent: list[list[bytes]] = []

    def now(self) -> float:
        return 0.0

    def send(self, frames: Sequence[bytes], /) -> bool:
        self.sent.append(list(frames[1:]))
        return True

    def spawn(self, call: Call, begun: Awaitable[Answer] | None, /) -> None:
        self.calls.append(call)


def test_each_message_of_a_request_counts_as_one_under_way() -> None:
    shell, client = Shell(), Client("one")
    routes = {
        "many": Route(lambda _call: Waiting(), may_wait=True, per_blob=True),  # type: ignore[arg-type]
        "ping": Route(lambda _call: answer()),
    }
    server = RequestServer("test", INSTANCE, routes, shell, who=lambda _identity: client, in_flight=10)

    def ask(blobs: int) -> str:
        before = len(shell.sent)
        server.receive([b"identity", *encode_request(bytes(16), "many", {}, [b"x"] * blobs)], None)
        if len(shell.sent) == before:
            return "under way"
        error = decode_reply(shell.sent[-1]).error
        assert error is not None
        return str(error)

    assert ask(6) == "under way"
    assert ask(5) == "busy: 6 requests are under way"
    assert ask(0) == "under way", "one without a message counts, too"
    assert ask(3) == "under way"
    assert (client.in_flight, server.counters.in_flight) == (10, 10)
    assert ask(1).startswith("busy")
    assert all(call.counters is server.counters for call in shell.calls)
    while shell.calls:
        server.finished(shell.calls.pop())
    assert (client.in_flight, server.counters.in_flight) == (0, 0)
    assert ask(20) == "under way", "more than the limit are let in alone: otherwise they never would be"
    assert ask(1).startswith("busy")


def test_of_a_compiled_handler_it_must_be_said_whether_it_takes_time() -> None:
    compiled: Any = len  # like a compiled function it has no code that Python could look at
    with pytest.raises(ValueError, match="takes time"):
        Route(compiled)
    assert Route(compiled, takes_time=True).takes_time
    assert not Route(lambda _call: answer({})).takes_time
