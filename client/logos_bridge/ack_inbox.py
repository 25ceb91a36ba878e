"""Messages published to JetStream, whose acknowledgements all come to one inbox.

The library's `publish_async` takes longer for its random token, semaphore, future with two callbacks and
object of the answer than for sending the message. It also leaves a message that the server refuses without an
answer. Here the reply subject ends in a number, and an answer is a call.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg

Answered = Callable[[str, bool], None]
"""Takes why a message was refused, empty if it is stored, and whether it had been stored before."""

_NO_RESPONDERS: Final = "503"


class AckInbox:
    """The answers that messages wait for. One may never come: time limits are the caller's."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = f"{client.new_inbox()}."
        self._count = 0
        self._waiting: dict[str, Answered] = {}

    async def open(self) -> None:
        """Subscribe to the answers; the library renews that with each connection."""
        await self._client.subscribe(f"{self._prefix}*", cb=self._take)

    def expect(self, answered: Answered) -> str:
        """Return a ticket for one message, whose answer goes to `answered`."""
        self._count += 1
        ticket = str(self._count)
        self._waiting[ticket] = answered
        return ticket

    async def publish(self, ticket: str, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        """Publish; the answer may come before this returns. Raises a failure of NATS."""
        await self._client.publish(subject, payload, self._prefix + ticket, headers)

    def forget(self, ticket: str) -> None:
        """Give an answer up."""
        self._waiting.pop(ticket, None)

    async def _take(self, message: Msg) -> None:
        answered = self._waiting.pop(message.subject[len(self._prefix) :], None)
        if answered is not None:
            answered(*_read(message))


def _read(message: Msg) -> tuple[str, bool]:
    if message.headers and message.headers.get("Status") == _NO_RESPONDERS:
        return "no stream takes the subject now", False
    try:
        answer = json.loads(message.data)
        if "error" in answer:
            return f"{answer['error']['description']} ({answer['error']['err_code']})", False
        if answer["seq"] > 0:
            return "", answer.get("duplicate", False) is True
    except (ValueError, KeyError, TypeError):
        pass
    return f"not an acknowledgement: {message.data[:100]!r}", False
