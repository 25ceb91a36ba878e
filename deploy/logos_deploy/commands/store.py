"""`logos store`: the node's own archive: its state, store sync now, verification, export and import."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from ipc_schema.kernel.store import StoredMessage
from ipc_schema.kernel.store_admin import (
    MAX_IMPORT,
    StoreResumeRecord,
    StoreSessionRecord,
    StoreStatusReply,
    StoreSyncRecord,
)
from ipc_schema.message import WakuMessage
from logos_client.exceptions import BadRequestError, NoPeersError
from logos_client.kernel import KernelClient
from logos_deploy.commands.output import print_json, print_result
from logos_deploy.commands.where import add_query_options, where
from logos_deploy.exits import CommandError, Exit
from logos_deploy.node.store_file import StoreFileError, StoreFileReader, StoreFileWriter
from logos_deploy.session import run_interruptible
from logos_deploy.text import count, duration, one_line, size, table

HELP: Final = "show this node's archive; sync it with other stores now, verify, export and import it"

SYNC_SECONDS: Final = 600.0
REQUEST_SECONDS: Final = 120.0
EXPORT_PAGE: Final = 1000
IMPORTS_AT_ONCE: Final = 4
MOMENT: Final = "%Y-%m-%d %H:%M:%S"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_query_options(parser)
    actions = parser.add_subparsers(dest="action", metavar="action")
    status = actions.add_parser("status", help="state, size and range (the default)", allow_abbrev=False)
    sync = actions.add_parser(
        "sync", help="compare with another store now, and exchange what is missing", allow_abbrev=False
    )
    sync.add_argument("peer", nargs="?", help="peer id or multiaddr (default: whose turn it is)")
    verify = actions.add_parser("verify", help="recompute the hash of every message", allow_abbrev=False)
    export = actions.add_parser("export", help="write all messages to a file", allow_abbrev=False)
    export.add_argument("file", metavar="FILE", help="a new file; -: standard output")
    for action in (verify, export):
        action.add_argument("--topic", metavar="PUBSUB_TOPIC", help="only this one (default: all)")
    for name, text in (("--since", "only from this time on"), ("--until", "only up to this time")):
        export.add_argument(name, type=_moment, metavar="TIME", help=f"{text}: 2026-01-31[T12:00:00], UTC")
    bring = actions.add_parser("import", help="read messages from such a file", allow_abbrev=False)
    bring.add_argument("file", metavar="FILE", help="-: standard input")
    for action in (status, sync, verify, export, bring):
        add_query_options(action, again=True)


def _moment(text: str) -> int:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 2026-01-31T12:00:00") from None
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
    return int(when.timestamp()) * 1_000_000_000 + when.microsecond * 1000


def run(arguments: argparse.Namespace) -> int:
    return run_interruptible(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    async with KernelClient.connect(where(arguments).kernel, timeout=arguments.timeout) as client:
        match arguments.action:
            case "sync":
                return await _sync(client, arguments)
            case "verify":
                return await _verify(client, arguments)
            case "export":
                return await _export(client, arguments)
            case "import":
                return await _import(client, arguments)
            case _:
                return _show(await client.store_status(timeout=REQUEST_SECONDS), arguments)


# --- status -----------------------------------------------------------------------------------------------


def _show(status: StoreStatusReply, arguments: argparse.Namespace) -> int:
    print_result(arguments, status.to_body(), as_text(status, time.time()), indent=2)
    return Exit.OK


def as_text(status: StoreStatusReply, now: float) -> Iterator[str]:
    """Format for a terminal. `now`: seconds since 1970."""
    yield table(_rows(status, now))
    if status.topics:
        yield ""
        rows = [
            (one_line(topic.pubsub_topic), topic.messages, _when(topic.oldest), _when(topic.newest))
            for topic in status.topics
        ]
        yield table(rows, heads=("pubsub topic", "messages", "oldest", "newest"), right=(1,))


def _rows(status: StoreStatusReply, now: float) -> Iterator[tuple[str, str]]:
    away = f" for {duration(status.away_ms / 1000)}" if status.away_ms else ""
    yield "state", f"{status.state}{away}" + (f": {one_line(status.reason)}" if status.reason else "")
    yield "database", one_line(status.database)
    about = "" if status.bytes is None else f", about {size(status.bytes)}"
    on_disk = f" ({status.spooled} on disk, {size(status.spooled_bytes)})" if status.spooled else ""
    waiting = f", {status.waiting} to be written{on_disk}" if status.waiting else ""
    stored = "unknown" if status.away_ms and not status.topics else str(status.messages)
    yield "messages", f"{stored}{about}{waiting}"
    if status.replica_lag_ms is not None:
        yield "replica", f"{duration(status.replica_lag_ms / 1000)} behind"
    yield "keeps", status.retention
    yield "store sync", "off" if status.sync is None else "; ".join(_sync_text(status.sync, now))
    yield "store resume", "off" if status.resume is None else "; ".join(_resume_text(status.resume))


def _sync_text(sync: StoreSyncRecord, now: float) -> Iterator[str]:
    yield f"compares {count(sync.messages, 'message')} since {_when(sync.start)}"
    yield f"{count(sync.peers, 'peer')} speak it" if sync.ready else "not ready"
    yield count(sync.sessions, "session")
    if sync.last is not None:
        ago = duration(max(0.0, now - sync.last.at_ms / 1000))
        yield f"the last one {ago} ago: {_session_text(sync.last)}"


def _session_text(session: StoreSessionRecord) -> str:
    if session.error:
        return f"{session.peer} failed: {one_line(session.error)}"
    rest = "" if session.complete else "; there is more"
    return (
        f"{session.received} received, {session.sent} sent, {count(session.round_trips, 'round trip')}{rest}"
    )


def _resume_text(resume: StoreResumeRecord) -> Iterator[str]:
    yield f"{resume.state}, {count(resume.added, 'message')} added"
    if resume.error:
        yield one_line(resume.error)
    for gap in resume.gaps:
        yield f"{one_line(gap.pubsub_topic)} from {_when(gap.start)}, at {_when(gap.done)}"


def _when(ns: int) -> str:
    try:
        return datetime.fromtimestamp(ns / 1e9, UTC).strftime(MOMENT)
    except (OverflowError, ValueError, OSError):
        return f"{ns} ns"  # timestamps come from the senders: any number is possible


# --- sync and verify --------------------------------------------------------------------------------------


async def _sync(client: KernelClient, arguments: argparse.Namespace) -> int:
    try:
        session = await client.store_sync(arguments.peer, timeout=SYNC_SECONDS)
    except NoPeersError as error:
        raise CommandError(Exit.FAILED, error.message) from None
    print_result(
        arguments,
        session.to_body(),
        f"{session.peer}: {_session_text(session)}, {duration(session.took_ms / 1000)}",
    )
    return Exit.OK


async def _topics(client: KernelClient, arguments: argparse.Namespace) -> tuple[StoreStatusReply, list[str]]:
    status = await client.store_status(timeout=REQUEST_SECONDS)
    if arguments.topic is not None:
        return status, [arguments.topic]
    return status, [topic.pubsub_topic for topic in status.topics]


async def _verify(client: KernelClient, arguments: argparse.Namespace) -> int:
    done, bad = 0, list[bytes]()
    status, topics = await _topics(client, arguments)
    progress = _Progress("checked", status.messages)
    for topic in topics:
        cursor: bytes | None = None
        checked = 0
        while True:
            try:
                reply = await client.store_verify(topic, cursor=cursor, timeout=REQUEST_SECONDS)
            except BadRequestError as error:
                if cursor is None:
                    raise
                # Retention has removed the message that we stopped at; the next ones are the oldest then.
                print(f"logos: {error.message}, starting {topic} again", file=sys.stderr)
                cursor, checked = None, 0
                continue
            checked += reply.checked
            bad += reply.bad
            progress.show(done + checked)
            cursor = reply.cursor
            if cursor is None:
                break
        done += checked
    progress.end()
    bad = list(dict.fromkeys(bad))
    if arguments.json:
        print_json({"checked": done, "bad": [digest.hex() for digest in bad]})
    else:
        print(f"{count(done, 'message')} checked, {len(bad)} bad")
        for digest in bad:
            print(f"0x{digest.hex()}")
    return Exit.FAILED if bad else Exit.OK


# --- export -----------------------------------------------------------------------------------------------


async def _export(client: KernelClient, arguments: argparse.Namespace) -> int:
    status, topics = await _topics(client, arguments)
    progress = _Progress("exported", status.messages)
    with ExitStack() as stack:
        file, path = _new_file(arguments.file, stack)
        writer = StoreFileWriter(file)
        for topic in topics:
            async for one in _messages(client, status.peer_id, topic, arguments.since, arguments.until):
                writer.add(one.pubsub_topic, one.message)
                progress.show(writer.count)
        writer.close()
        if path is not None:
            os.fsync(file.fileno())
            path.replace(arguments.file)
    progress.end()
    if arguments.json and arguments.file != "-":
        print_json({"messages": writer.count, "file": arguments.file})
    else:
        print(f"{count(writer.count, 'message')} exported", file=sys.stderr)
    return Exit.OK


def _new_file(name: str, stack: ExitStack) -> tuple[BinaryIO, Path | None]:
    """Open the output: a new file that gets its name when it is complete, or standard output."""
    if name == "-":
        return sys.stdout.buffer, None
    if Path(name).exists():
        raise CommandError(Exit.DATA, f"{name} is there already")
    path = Path(f"{name}.part")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    stack.callback(path.unlink, missing_ok=True)
    return stack.enter_context(os.fdopen(descriptor, "wb")), path


async def _messages(
    client: KernelClient, peer: str, topic: str, since: int | None, until: int | None
) -> AsyncIterator[StoredMessage]:
    """Yield the messages of a pubsub topic, oldest first."""
    cursor: bytes | None = None
    last: StoredMessage | None = None
    passed = set[bytes]()
    while True:
        try:
            page = await client.store_query(
                pubsub_topic=topic,
                time_start=since,
                time_end=until,
                cursor=cursor,
                limit=100,
                max_messages=EXPORT_PAGE,
                include_data=True,
                peer=peer,
                timeout=REQUEST_SECONDS,
            )
        except BadRequestError:
            if cursor is None or last is None:
                raise
            # Retention has removed the message that we stopped at: go on from its time.
            since, cursor = last.message.timestamp, None
            continue
        for one in page.messages:
            if one.message_hash in passed:
                continue
            if last is None or one.message.timestamp != last.message.timestamp:
                passed.clear()
            passed.add(one.message_hash)
            last = one
            yield one
        cursor = page.cursor
        if cursor is None:
            return


# --- import -----------------------------------------------------------------------------------------------


async def _import(client: KernelClient, arguments: argparse.Namespace) -> int:
    totals = _Imported()
    problem: StoreFileError | None = None
    progress = _Progress("imported", None)
    try:
        with _input(arguments.file) as file:
            try:
                await _send_all(client, StoreFileReader(file), totals, progress)
            except StoreFileError as error:
                problem = error
    except OSError as error:
        raise CommandError(Exit.DATA, f"{arguments.file}: {error.strerror}") from None
    progress.end()
    if arguments.json:
        print_json({"stored": totals.stored, "known": totals.known, "refused": totals.refused})
    else:
        print(f"{totals.stored} new, {totals.known} known, {sum(totals.refused.values())} refused")
        for reason, number in totals.refused.items():
            print(f"refused: {one_line(reason)} ({number})", file=sys.stderr)
    if problem is not None:
        # What precedes the damage is imported: repeating with a whole file does the rest.
        raise CommandError(Exit.DATA, f"{arguments.file}: {problem}")
    return Exit.FAILED if totals.refused else Exit.OK


@contextmanager
def _input(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    with Path(name).open("rb") as file:
        yield file


class _Imported:
    def __init__(self) -> None:
        self.stored = self.known = 0
        self.refused: dict[str, int] = {}


async def _send_all(
    client: KernelClient, reader: StoreFileReader, totals: _Imported, progress: _Progress
) -> None:
    """Send all messages, a few requests at a time."""
    sending: set[asyncio.Task[None]] = set()

    async def send(some: list[tuple[str, WakuMessage]]) -> None:
        reply = await client.store_import(some, timeout=REQUEST_SECONDS)
        totals.stored += reply.stored
        totals.known += reply.known
        for one in reply.refused:
            totals.refused[one.reason] = totals.refused.get(one.reason, 0) + 1
        progress.show(totals.stored + totals.known)

    async def put(some: list[tuple[str, WakuMessage]]) -> None:
        if len(sending) >= IMPORTS_AT_ONCE:
            done, _ = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
            sending.difference_update(done)
            for task in done:
                task.result()
        sending.add(asyncio.create_task(send(some)))

    some: list[tuple[str, WakuMessage]] = []
    try:
        for one in reader:
            some.append(one)
            if len(some) == MAX_IMPORT:
                await put(some)
                some = []
    finally:
        if some:
            await put(some)
        for result in await asyncio.gather(*sending, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result


class _Progress:
    """One line on a terminal, nothing elsewhere."""

    def __init__(self, what: str, total: int | None) -> None:
        self._what = what
        self._total = "" if total is None else f" of {total}"
        self._shown = 0.0
        self._terminal = sys.stderr is not None and sys.stderr.isatty()

    def show(self, number: int) -> None:
        now = time.monotonic()
        if self._terminal and now - self._shown > 0.2:
            self._shown = now
            print(f"\r{number}{self._total} {self._what}\x1b[K", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._terminal and self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
