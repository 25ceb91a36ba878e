"""The judgement, from the ledgers alone: `python -m tests.chaos.checker DIRECTORY`. Exit code 1 unless all is
0.

What is looked for, after repeats of one (stream id, seq) are taken as one event:
- **no fate, two fates**: an accepted send without exactly one final event (sent, unconfirmed, error,
  cancelled);
- **lost**: a message that its sender got `sent` for and that a subscribed app never got;
- **doubled**: a message hash twice in one app's stream, or one send under two message hashes;
- **holes**: seqs of an app's stream that it neither got nor had reported as dropped;
- **changed**: one (stream id, seq) that was two different events, and apps whose stream was replaced;
- **unanswered**: a send that the app never saw accepted, though it repeated it until the end.

Where a backup was put back, what it did not know is excused for the apps of that host: fates of what was
accepted after it was made, and another stream. A seq that is given twice never is.

**unreported** is a figure, not a fault: messages that propagated and that a subscribed app neither received
nor had reported (`messages_missed`). It is 0 unless the network was parted while the message was young.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.chaos.ledger import phase_of, read_ledger

FINALS: Final = {
    "MessageSent": "sent",
    "MessageUnconfirmed": "unconfirmed",
    "MessageError": "error",
    "MessageCancelled": "cancelled",
}
FAULTS: Final = ("no_fate", "two_fates", "lost", "doubled", "holes", "changed", "unanswered")
WINDOW_S: Final = 75.0
"""How long before a backup a send may have been accepted and be open in it: the send window and more."""
NEAR_S: Final = 15.0
"""How far the moment at which a sender heard of it may lie beside the time of a message."""
_EXAMPLES: Final = 20


@dataclass(slots=True)
class AppVerdict:
    """Figures of one app. The fields named in `FAULTS` are to be 0."""

    accepted: int = 0
    sent: int = 0
    unconfirmed: int = 0
    error: int = 0
    cancelled: int = 0
    received: int = 0
    repeats: int = 0
    """Events given again under the same (stream id, seq): allowed, and dropped here."""
    no_fate: int = 0
    two_fates: int = 0
    lost: int = 0
    doubled: int = 0
    holes: int = 0
    changed: int = 0
    unanswered: int = 0
    reported_missing: int = 0
    """Events that said so."""
    unreported: int = 0


@dataclass(slots=True)
class Verdict:
    """All apps, and examples of what is wrong (text)."""

    apps: dict[str, AppVerdict]
    faults: Counter[str] = field(default_factory=Counter)
    """What was done to the network: kills by kind of process, cuts."""
    torn: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether everything that must be 0 is, and anything happened at all."""
        return (
            all(getattr(app, fault) == 0 for app in self.apps.values() for fault in FAULTS)
            and sum(app.sent for app in self.apps.values()) > 0
        )

    def wrong(self, app: str, fault: str, text: str) -> None:
        """Count a fault."""
        setattr(self.apps[app], fault, getattr(self.apps[app], fault) + 1)
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{fault}: {app}: {text}")


Line = Mapping[str, Any]


@dataclass(slots=True)
class _Stream:
    """What one app was given, once per (stream id, seq)."""

    events: dict[tuple[str, int], Line] = field(default_factory=dict)
    streams: list[str] = field(default_factory=list)


def judge(ledgers: Mapping[str, Iterable[Line]], conductor: Iterable[Line] = ()) -> Verdict:
    """Judge the apps' ledgers. Pure. `ledgers`: by app; `conductor`: what was done to the network."""
    verdict = Verdict({app: AppVerdict() for app in ledgers})
    conductor = list(conductor)
    hosts = _Hosts(conductor)
    lines = {app: list(found) for app, found in ledgers.items()}
    streams = {app: _stream_of(app, found, hosts, verdict) for app, found in lines.items()}
    received: dict[str, set[str]] = {}
    hashes_of: dict[str, set[str]] = defaultdict(set)
    for app, stream in streams.items():
        received[app] = _check_received(app, stream, hosts, verdict, hashes_of)
    sent: dict[str, tuple[str, str, str]] = {}
    for app, found in lines.items():
        sent |= _check_sends(app, found, streams[app], hosts, verdict, hashes_of)
    subscribed = {app: _topics_of(found) for app, found in lines.items()}
    for request_id, (sender, topic, message_hash) in sent.items():
        for app in streams:
            if topic in subscribed[app] and message_hash not in received[app]:
                verdict.wrong(app, "lost", f"{message_hash} of {sender} (request {request_id})")
    _count_unreported(lines, streams, subscribed, received, hosts, verdict)
    for line in conductor:
        if (name := _NAMES.get(line["what"])) is not None:
            verdict.faults[name(line)] += 1
    return verdict


_NAMES: Final[Mapping[str, Callable[[Line], str]]] = {
    "kill": lambda line: f"kill -9 {line['name'].split(':')[0]}",
    "cut": lambda line: "frozen links" if line["frozen"] else "reset links",
    "away": lambda line: "away: " + " and ".join(sorted(name.split(":")[1] for name in line["names"])),
    "step": lambda line: "clocks set" if line["ahead"] else "clocks set right",
    "full": lambda _line: "full disks",
    "unread": lambda _line: "unread logs",
    "restore": lambda _line: "backups put back",
}
"""What the conductor did, for people."""


def _host_of(app: str) -> str:
    return app.split("-", maxsplit=1)[0]


class _Hosts:
    """What was done to the hosts: backups that were put back, clocks that were set."""

    def __init__(self, conductor: Iterable[Line]) -> None:
        self._restored: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._steps: dict[str, list[tuple[float, float]]] = defaultdict(list)
        made: dict[str, float] = {}
        for line in conductor:
            match line["what"]:
                case "backup":
                    made[line["host"]] = line["at"]
                case "restore":
                    self._restored[line["host"]].append((made[line["host"]], line["at"]))
                case "step":
                    self._steps[line["host"]].append((line["at"], line["ahead"]))

    def restores(self, app: str) -> int:
        """How often the app's Messaging API got an older database."""
        return len(self._restored[_host_of(app)])

    def excused(self, app: str, asked: float, at: float, ended: float = 0.0) -> bool:
        """Whether the fate of what was accepted then may be unknown to today's database, or reported twice.

        `asked`: when the app first asked for it; the answer that came `at` last may not have been the first
        one. `ended`: when the app heard of its first fate. A send may wait for its first attempt, and so be
        open, for any time.
        """
        return any(
            asked <= restored + 1.0 and max(at + WINDOW_S, ended) >= made
            for made, restored in self._restored[_host_of(app)]
        )

    def ahead(self, app: str, at: float) -> float:
        """How far the host's clock was ahead."""
        ahead = 0.0
        for since, by in self._steps[_host_of(app)]:
            if since <= at:
                ahead = by
        return ahead


def _count_unreported(
    lines: Mapping[str, list[Line]],
    streams: Mapping[str, _Stream],
    subscribed: Mapping[str, set[str]],
    received: Mapping[str, set[str]],
    hosts: _Hosts,
    verdict: Verdict,
) -> None:
    spans: dict[str, list[tuple[float, float]]] = {}
    for app, stream in streams.items():
        found = [line for line in stream.events.values() if line["kind"] == "MessagesMissed"]
        spans[app] = []
        for line in found:
            ahead = hosts.ahead(app, line.get("at", 0.0))
            spans[app].append((line["from"] / 1e9 - ahead, line["to"] / 1e9 - ahead))
        verdict.apps[app].reported_missing = len(found)
    for sender, stream in streams.items():
        topics = {line["id"]: line["topic"] for line in lines[sender] if line["what"] == "intent"}
        for line in stream.events.values():
            topic = topics.get(line.get("id", ""))
            if line["kind"] != "MessagePropagated" or topic is None:
                continue
            for app in streams:
                if topic in subscribed[app] and line["hash"] not in received[app]:
                    at = line.get("at", 0.0)
                    verdict.apps[app].unreported += not any(
                        low - NEAR_S <= at <= high + NEAR_S for low, high in spans[app]
                    )


def _topics_of(lines: Iterable[Line]) -> set[str]:
    return {topic for line in lines if line["what"] == "subscribed" for topic in line["topics"]}


def _same_event(one: Line, other: Line) -> bool:
    return one["seq"] == other["seq"] and all(one.get(name) == other.get(name) for name in _SAME)


_SAME: Final = ("kind", "id", "hash", "reason", "first", "last")


def _stream_of(app: str, lines: Iterable[Line], hosts: _Hosts, verdict: Verdict) -> _Stream:
    stream = _Stream()
    for line in lines:
        if line["what"] != "event":
            continue
        key = line["stream"], line["seq"]
        before = stream.events.setdefault(key, line)
        if before is not line:
            verdict.apps[app].repeats += 1
            if any(before.get(name) != line.get(name) for name in _SAME):
                verdict.wrong(app, "changed", f"seq {key[1]} was {before} and {line}")
        if line["stream"] not in stream.streams:
            stream.streams.append(line["stream"])
    for replaced in stream.streams[1 + hosts.restores(app) :]:
        verdict.wrong(app, "changed", f"stream {stream.streams[0]} became {replaced}")
    for name in stream.streams:
        seqs = {seq for owner, seq in stream.events if owner == name}
        for (owner, _), line in stream.events.items():
            if owner == name and line["kind"] == "EventsDropped":
                seqs.update(range(line["first"], line["last"] + 1))
        # The stream that follows a restored one goes on behind what the copy knew to be acknowledged.
        first = 1 if name == stream.streams[0] else min(seqs)
        for missing in sorted(set(range(first, max(seqs) + 1)) - seqs):
            verdict.wrong(app, "holes", f"seq {missing} of {max(seqs)}")
    return stream


def _check_received(
    app: str, stream: _Stream, hosts: _Hosts, verdict: Verdict, hashes_of: dict[str, set[str]]
) -> set[str]:
    found: dict[str, tuple[str, int]] = {}
    for (owner, seq), line in stream.events.items():
        if line["kind"] != "MessageReceived":
            continue
        message_hash = line["hash"]
        hashes_of[line["id"]].add(message_hash)
        if message_hash in found:
            before, first = found[message_hash]
            if before == owner or not hosts.restores(app):
                verdict.wrong(app, "doubled", f"{message_hash} as seq {first} and {seq}")
        found[message_hash] = owner, seq
    verdict.apps[app].received = len(found)
    return set(found)


def _check_sends(
    app: str,
    lines: Iterable[Line],
    stream: _Stream,
    hosts: _Hosts,
    verdict: Verdict,
    hashes_of: Mapping[str, set[str]],
) -> dict[str, tuple[str, str, str]]:
    """Return the sends reported as sent: request id -> (app, content topic, message hash)."""
    figures = verdict.apps[app]
    topics: dict[str, str] = {}
    asked: dict[str, float] = {}
    accepted: dict[str, float] = {}
    refused: set[str] = set()
    for line in lines:
        if line["what"] == "intent":
            topics[line["id"]] = line["topic"]
            asked.setdefault(line["id"], line.get("at", 0.0))
        elif line["what"] == "accepted":
            accepted[line["id"]] = line.get("at", 0.0)
        elif line["what"] == "refused":
            refused.add(line["id"])
    finals: dict[str, list[Line]] = defaultdict(list)
    for line in stream.events.values():
        if line["kind"] not in FINALS:
            continue
        known = finals[line["id"]]
        # A copy of the database that did not know the app's acknowledgement gives the event again, under the
        # new stream id and its old seq.
        again = hosts.restores(app) and any(_same_event(line, before) for before in known)
        if again:
            figures.repeats += 1
        else:
            known.append(line)
    figures.accepted = len(accepted)
    sent: dict[str, tuple[str, str, str]] = {}
    for request_id, topic in topics.items():
        fates = finals.get(request_id, [])
        if request_id not in accepted:
            how = "refused" if request_id in refused else "no answer"
            verdict.wrong(app, "unanswered", f"request {request_id}: {how}")
        ended = min((fate.get("at", 0.0) for fate in fates), default=0.0)
        excused = hosts.excused(app, asked[request_id], accepted.get(request_id, 0.0), ended)
        if len(fates) > 1 and not excused:
            verdict.wrong(app, "two_fates", f"request {request_id}: {[fate['kind'] for fate in fates]}")
        if not fates:
            if request_id in accepted and not excused:
                verdict.wrong(app, "no_fate", f"request {request_id}")
            continue
        name = FINALS[fates[0]["kind"]]
        setattr(figures, name, getattr(figures, name) + 1)
        if name == "sent":
            sent[request_id] = (app, topic, fates[0]["hash"])
        if len(hashes_of.get(request_id, ())) > 1 and not excused:
            verdict.wrong(app, "doubled", f"request {request_id} went out under {hashes_of[request_id]}")
    return sent


# -- the program ---------------------------------------------------------------------------------------------


def judge_directory(directory: Path) -> Verdict:
    """Judge the ledgers of a run."""
    ledgers: dict[str, list[dict[str, Any]]] = {}
    torn = 0
    for path in sorted(directory.glob("app-*.jsonl")):
        found = read_ledger(path)
        ledgers[path.stem.removeprefix("app-")] = found.lines
        torn += found.torn
    verdict = judge(ledgers, read_ledger(directory / "conductor.jsonl").lines)
    verdict.torn = torn
    return verdict


_COLUMNS: Final = (
    "accepted", "sent", "unconfirmed", "error", "cancelled", "received", "repeats", "reported_missing",
    "unreported", *FAULTS,
)  # fmt: skip


def table(verdict: Verdict) -> str:
    """The table for people: a row for each app, and all together."""
    rows = [[app, *(getattr(found, name) for name in _COLUMNS)] for app, found in verdict.apps.items()]
    totals: list[Any] = ["all"]
    totals += [sum(getattr(found, name) for found in verdict.apps.values()) for name in _COLUMNS]
    head: list[Any] = ["app", *(name.replace("_", " ") for name in _COLUMNS)]
    texts = [[str(cell) for cell in row] for row in (head, *rows, totals)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in texts]
    lines.insert(1, "-" * len(lines[0]))
    lines.insert(len(lines) - 1, "-" * len(lines[0]))
    return "\n".join(lines)


def _main() -> int:
    parser = argparse.ArgumentParser(description="Judge the ledgers of a chaos run.")
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args().directory
    verdict = judge_directory(directory)
    out = sys.stdout
    phase = phase_of(directory)
    if phase is not None:
        out.write(f"{phase[1] - phase[0]:.0f} s of sending; ")
    out.write(", ".join(f"{count} {what}" for what, count in sorted(verdict.faults.items())) or "no faults")
    out.write(f"\n\n{table(verdict)}\n\n")
    if verdict.torn:
        out.write(f"{verdict.torn} torn lines (processes killed while writing)\n")
    for example in verdict.examples:
        out.write(f"{example}\n")
    must = ", ".join(fault.replace("_", " ") for fault in FAULTS)
    out.write(f"{must}: {'all 0' if verdict.good else 'NOT all 0'}\n")
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(_main())
