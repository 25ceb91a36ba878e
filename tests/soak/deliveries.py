"""Who was to get which message of a network, who got it, and how often. Pure: times, in seconds of one clock,
come in.

A member is counted on from the moment that it is said to be `there` to the moment that it is `gone`. What was
on its way while it was not counted on, or within `AROUND` of that, is excused: a process that is killed in
the middle of it need not have received a message, nor passed one on. Everything else must arrive, once in
each life of a process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Final

AROUND: Final = 5.0
"""Seconds before a member goes and after it is there again: a message takes less to go round."""
PATIENCE: Final = 60.0
"""Seconds after which a message that has not come is lost."""
KEEP: Final = 300.0
"""Seconds for which messages are remembered, to know a copy when it comes."""
_EXAMPLES: Final = 20


@dataclass(slots=True)
class Figures:
    """Of one member, as a receiver."""

    expected: int = 0
    lost: int = 0
    doubled: int = 0
    """Copies beyond the first within one life, and messages that were never sent or were sent long ago."""
    excused: int = 0
    worst: float = 0.0
    """Seconds from sending until it came, the longest."""


@dataclass(slots=True)
class _Message:
    sender: str
    sent: float
    out: float
    """When it was known to be out in the network; sent and not yet known: never."""
    came: dict[str, float] = field(default_factory=dict)
    lives: set[tuple[str, bytes]] = field(default_factory=set)
    judged: bool = False


class Deliveries:
    """All messages of one run. At first none is expected at any receiver."""

    def __init__(self, members: Iterable[str]) -> None:
        self.figures = {member: Figures() for member in members}
        self.sent_count = 0
        self.failed = 0
        """Sends that failed at members that were there."""
        self.examples: list[str] = []
        self._messages: dict[int, _Message] = {}
        self._absences: dict[str, list[tuple[float, float]]] = {name: [(-inf, inf)] for name in self.figures}

    # -- members ---------------------------------------------------------------------------------------------

    def there(self, member: str, now: float) -> None:
        """Count on it from now on."""
        absences = self._absences[member]
        if absences and absences[-1][1] == inf:
            absences[-1] = absences[-1][0], now

    def gone(self, member: str, now: float) -> None:
        """Not from now on."""
        absences = self._absences[member]
        if not absences or absences[-1][1] != inf:
            absences.append((now, inf))

    def present(self, now: float) -> list[str]:
        """Those that are counted on, and have been for `AROUND`."""
        return [name for name in self.figures if not self._away(name, now - AROUND, now)]

    def _away(self, member: str, begin: float, end: float) -> bool:
        return any(one <= end and begin <= other for one, other in self._absences[member])

    # -- messages --------------------------------------------------------------------------------------------

    def send(self, sender: str, now: float) -> int:
        """The number of a message that is about to be sent."""
        self.sent_count += 1
        self._messages[self.sent_count] = _Message(sender, now, inf)
        return self.sent_count

    def out(self, number: int, now: float) -> None:
        """It has left its sender for the network."""
        if (message := self._messages.get(number)) is not None:
            message.out = min(message.out, now)

    def fail(self, number: int, now: float, reason: str) -> None:
        """Its sender could not send it."""
        message = self._messages.pop(number, None)
        if message is not None and not self._away(message.sender, message.sent - AROUND, now):
            self.failed += 1
            self._example(f"failed: {message.sender}: message {number}, {now - message.sent:.1f} s: {reason}")

    def receive(self, member: str, life: bytes, number: int, now: float) -> None:
        """It came to a member, in one life of its process."""
        message = self._messages.get(number)
        if message is None or (member, life) in message.lives:
            self.figures[member].doubled += 1
            when = "sent long ago, or never" if message is None else f"sent {now - message.sent:.1f} s before"
            self._example(f"doubled: {member}: message {number}, {when}")
            return
        message.lives.add((member, life))
        message.came.setdefault(member, now)

    # -- judgement -------------------------------------------------------------------------------------------

    def overdue(self, now: float, after: float = AROUND) -> int:
        """Deliveries not made in `after` seconds, and neither excused nor judged yet."""
        return sum(
            name not in message.came and not self._excused(message, name)
            for message in self._messages.values()
            if not message.judged and now - message.sent >= after
            for name in self.figures
        )

    def settle(self, now: float) -> None:
        """Judge what has had its time, and forget what is older still."""
        for number, message in list(self._messages.items()):
            if now - message.sent <= PATIENCE:
                break
            if not message.judged:
                self._judge(number, message)
            if now - message.sent > KEEP:
                del self._messages[number]

    def finish(self) -> bool:
        """Judge what is left: nothing more will come. Whether all went well, and anything at all."""
        for number, message in self._messages.items():
            if not message.judged:
                self._judge(number, message)
        bad = sum(one.lost + one.doubled for one in self.figures.values()) + self.failed
        return not bad and all(one.expected for one in self.figures.values())

    def _excused(self, message: _Message, member: str) -> bool:
        out = message.sent if message.out == inf else message.out
        return self._away(member, message.sent - AROUND, out + AROUND) or self._away(
            message.sender, message.sent, out + AROUND
        )

    def _judge(self, number: int, message: _Message) -> None:
        message.judged = True
        for name, figures in self.figures.items():
            if self._excused(message, name):
                figures.excused += 1
                continue
            figures.expected += 1
            if name in message.came:
                figures.worst = max(figures.worst, message.came[name] - message.sent)
            else:
                figures.lost += 1
                self._example(
                    f"lost: {name}: message {number} of {message.sender}, sent at {message.sent:.1f}"
                )

    def _example(self, text: str) -> None:
        if len(self.examples) < _EXAMPLES:
            self.examples.append(text)
