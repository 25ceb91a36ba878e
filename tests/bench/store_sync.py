"""The bench `store-sync`: how two stores find and exchange what each lacks, beside the plain way by queries.

Two real kernels, whose archives (SQLite) hold the same 100,000 messages of the last hour, connected over
loopback. `--case "1 M"` does it with a million (some minutes to fill), and shows only that.

- `differences`: 500 messages that only one and 500 that only the other has; reference: each reads the other's
  hashes by store queries, looks for them in its own archive, and fetches what is missing.
- `all different`: 5,000 messages each; reference: each reads all that the other has, with data.
- `fingerprints`: a session of the core, from the index in memory; reference: straight from the archive.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any, Final

from ipc_schema.kernel.store import store_blobs
from ipc_schema.kernel.store_admin import MAX_IMPORT
from ipc_schema.message import WakuMessage, message_hash
from kernel_proc.archive.api import KeyQuery
from kernel_proc.archive.rows import Offer, make_rows
from kernel_proc.archive.sqlite import SqliteEngine
from kernel_proc.protocols.sync.codec import decode_payload, encode_payload
from kernel_proc.protocols.sync.index import KeyIndex, KeyView, RangeSummary, fingerprint_of
from kernel_proc.protocols.sync.keys import SyncKey, hash_of, make_key, time_of
from kernel_proc.protocols.sync.reconcile import Reconciliation, SyncWindow, TopicFilter
from tests.bench.harness import BenchError, Case, Options, Round, alternate, result
from tests.support.kernel_process import Dealer, KernelProcess, eventually

BENCH: Final = "store-sync"
TOPIC: Final = "/waku/2/rs/0/0"
SIZES: Final = {"100 k": 100_000}
LARGE: Final = {"1 M": 1_000_000}
DIFFERENCES: Final = 500
ALL: Final = 5_000
SPAN: Final = 45 * 60 * 1_000_000_000
"""Nanoseconds over which the common messages are spread: all stay in the hour while the bench runs."""
BATCH: Final = 5_000
HASH_BYTES: Final = 36
"""Of a message without data in a store response."""
OPTIONS: Final = (
    "--store=true",
    "--store-sync=true",
    "--store-sync-interval=24h",
    "--store-sync-relay-jitter=0",
)
READY_SECONDS: Final = 120.0


def store_sync(options: Options) -> Iterator[dict[str, Any]]:
    """The lines of all cases."""
    sizes = {**SIZES, **LARGE} if any(name in options.only for name in LARGE) else SIZES
    for name, size in sizes.items():
        few, many, core = (
            f"{2 * DIFFERENCES} differences among {name}",
            f"all different beside {name}",
            f"fingerprints of {name}",
        )
        if not any(map(options.wants, (few, many, core))):
            continue
        with ExitStack() as stack:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bs-")))
            bench = _Pair(place, options.count(size), stack)
            if options.wants(few):
                yield bench.compare(few, options, DIFFERENCES)
            if options.wants(many):
                yield bench.compare(many, options, options.count(ALL), data=True)
            bench.stop()
            if options.wants(core):
                yield bench.fingerprints(core, options)


class _Pair:
    """Two stores with the same messages."""

    def __init__(self, place: Path, size: int, stack: ExitStack) -> None:
        self._random = Random(1)
        self._place = place
        self._size = size
        self._now = time.time_ns()
        self._fill(place / "k0")
        shutil.copytree(place / "k0", place / "k1")
        started = time.perf_counter()
        self._kernels = [stack.enter_context(KernelProcess(place / name, *OPTIONS)) for name in ("k0", "k1")]
        self._dealers = [kernel.dealer() for kernel in self._kernels]
        self._peers = [kernel.info("MyPeerId")["MyPeerId"] for kernel in self._kernels]
        for dealer in self._dealers:
            eventually(lambda one=dealer: one.ok("store.status")["sync"]["ready"], READY_SECONDS)
        self._ready = time.perf_counter() - started
        self._dealers[0].ok("peers.connect", {"addresses": [self._kernels[1].address()]})
        eventually(lambda: self._dealers[0].ok("store.status")["sync"]["peers"])

    def stop(self) -> None:
        """End both, for their archives to be read."""
        for kernel in self._kernels:
            kernel.stop()

    def _fill(self, directory: Path) -> None:
        directory.mkdir()
        engine = SqliteEngine(directory / "store.sqlite3")
        engine.open()
        for at in range(0, self._size, BATCH):
            offers = []
            for number in range(at, min(at + BATCH, self._size)):
                stamp = self._now - SPAN + number * SPAN // self._size
                one = WakuMessage(number.to_bytes(32, "big"), f"/b/1/{number % 50}/proto", 0, stamp)
                offers.append(Offer(TOPIC, one, message_hash(TOPIC, one), 0))
            engine.insert(make_rows(offers)[0])
        engine.close()

    # --- two kernels ---

    def compare(self, name: str, options: Options, each: int, *, data: bool = False) -> dict[str, Any]:
        """Measure both ways for `each` new messages on either side."""

        def synced() -> Round:
            self._put(each)
            before = self._exchanged()
            started = time.perf_counter()
            reply = self._dealers[0].ask("store.sync").body
            seconds = time.perf_counter() - started
            if (reply.get("received"), reply.get("sent")) != (each, each):
                raise BenchError(f"{each} messages each: {reply}")
            kib = (self._exchanged() - before) / 1024
            extra = {
                "differences_per_second": 2 * each / seconds,
                "kib": kib,
                "frames": float(str(reply["round_trips"])),
            }
            return Round(seconds * 1000, {}, extra)

        def queried() -> Round:
            new = self._put(each)
            started = time.perf_counter()
            size = sum(self._read(side, new[1 - side], data=data) for side in (0, 1))
            seconds = time.perf_counter() - started
            self._introduce()
            self._dealers[0].ask("store.sync")
            return Round(seconds * 1000, {}, {"kib": size / 1024})

        ours, reference = alternate(options.runs, synced, queried)
        way = "all messages" if data else "the hashes, then what is missing,"
        case = Case(BENCH, name, "ms", f"each reads {way} of the other by store queries")
        case.more = {"ready_seconds": round(self._ready, 1), "rss_mib": self._memory()}
        return result(case, ours, reference)

    def _introduce(self) -> None:
        """Say hello again: an index of a million messages makes the kernel's memory grow so much that it
        closes connections that were idle for a minute (`logos_sockets.memory`)."""
        for dealer in self._dealers:
            dealer.hello()

    def _put(self, each: int) -> list[list[bytes]]:
        """Give either side messages of its own; returns the hashes."""
        self._introduce()
        found = []
        for dealer in self._dealers:
            some = [
                WakuMessage(
                    self._random.randbytes(100), "/b/1/new/proto", 0, self._now - self._random.randrange(SPAN)
                )
                for _ in range(each)
            ]
            for at in range(0, each, MAX_IMPORT):
                part = some[at : at + MAX_IMPORT]
                reply = dealer.ask("store.import", {}, *store_blobs((TOPIC, one) for one in part))
                if reply.body.get("stored") != len(part):
                    raise BenchError(f"store.import: {reply.body}")
            found.append([message_hash(TOPIC, one) for one in some])
        return found

    def _read(self, side: int, expected: list[bytes], *, data: bool) -> int:
        """Read the other store by queries, and what is missing here; about how many bytes that were."""
        dealer, own, other = self._dealers[side], self._peers[side], self._peers[1 - side]
        self._introduce()
        missing, size, cursor = set(expected), 0, None
        while True:
            page = {"pubsub_topic": TOPIC, "limit": 100, "max_messages": 2000, "cursor": cursor}
            reply = self._ask(dealer, other, include_data=data, **page)
            hashes = reply.body["hashes"]
            missing -= set(hashes)
            size += sum(map(len, reply.blobs)) + HASH_BYTES * len(hashes)
            for at in range(0, 0 if data else len(hashes), 1000):
                part = hashes[at : at + 1000]
                self._ask(dealer, own, hashes=part, limit=100, max_messages=1000)
            cursor = reply.body.get("cursor")
            if cursor is None:
                break
        for at in range(0, 0 if data else len(expected), 100):
            reply = self._ask(dealer, other, hashes=expected[at : at + 100], include_data=True, limit=100)
            size += sum(map(len, reply.blobs))
        if missing:
            raise BenchError(f"{len(missing)} messages were not found")
        return size

    def _ask(self, dealer: Dealer, peer: str, **what: object) -> Any:
        reply = dealer.ask("store.query", {"peer": peer, **{k: v for k, v in what.items() if v is not None}})
        if reply.error is not None:
            raise BenchError(str(reply.error))
        return reply

    def _exchanged(self) -> float:
        return sum(
            float(value)
            for dealer in self._dealers
            for name, labels, value in dealer.ok("node.metrics")["metrics"]
            if name.endswith("total_bytes_exchanged") and labels["direction"] == "sent"
        )

    def _memory(self) -> int:
        process = self._kernels[0].process
        assert process is not None
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) // 1024

    # --- the core ---

    def fingerprints(self, name: str, options: Options) -> dict[str, Any]:
        """A session between two views that differ, in memory and straight from the archive."""
        engine = SqliteEngine(self._place / "k0" / "store.sqlite3")
        engine.open()
        rows = engine.read_keys(KeyQuery(TOPIC, (0, b""), (1 << 62, b""), 1 << 31), 600)
        indexes = KeyIndex(), KeyIndex()
        for index in indexes:
            for stamp, digest in rows:
                index.add(make_key(stamp, digest))
        # half a thousand differences, taken from one side and hidden from the other
        keys = indexes[0].keys(make_key(0, bytes(32)), make_key(1 << 62, bytes(32)))
        hidden = frozenset(self._random.sample(keys, min(DIFFERENCES, len(keys) // 4)))
        for key in hidden:
            indexes[1].remove(key)

        def run(one: KeyView, two: KeyView) -> Round:
            started = time.perf_counter()
            size, found = _session(one, two, SyncWindow(self._now - SPAN, self._now))
            if found != len(hidden):
                raise BenchError(f"{found} of {len(hidden)} differences were found")
            return Round((time.perf_counter() - started) * 1000, {}, {"kib": size / 1024})

        ours, reference = alternate(
            options.runs,
            lambda: run(*indexes),
            lambda: run(_ArchiveView(engine, frozenset()), _ArchiveView(engine, hidden)),
        )
        engine.close()
        return result(Case(BENCH, name, "ms", "the same straight from the archive"), ours, reference)


class _ArchiveView(KeyIndex):
    """The keys straight from the archive."""

    def __init__(self, engine: SqliteEngine, hidden: frozenset[SyncKey]) -> None:
        self._engine = engine
        self._hidden = hidden

    def summary(self, low: SyncKey, high: SyncKey) -> RangeSummary:
        found = self.keys(low, high)
        return RangeSummary(len(found), fingerprint_of(found))

    def keys(self, low: SyncKey, high: SyncKey) -> list[SyncKey]:
        bounds = (time_of(low), hash_of(low)), (time_of(high), hash_of(high) + b"\0")
        rows = self._engine.read_keys(KeyQuery(TOPIC, *bounds, 1 << 31), 600)
        return [key for row in rows if (key := make_key(*row)) not in self._hidden]


def _session(one: KeyView, two: KeyView, window: SyncWindow) -> tuple[int, int]:
    """Run a session; returns the bytes of its frames and how many messages there are to send."""
    sides = [
        (Reconciliation(window, TopicFilter(), invite=lambda _low, _high: None), view) for view in (one, two)
    ]
    frame, size, turn = encode_payload(sides[0][0].first(one)), 0, 1
    while True:
        size += len(frame)
        core, view = sides[turn]
        answers = [answer for answer in core.answer(decode_payload(frame), view) if answer is not None]
        if not answers:
            break
        frame = encode_payload(answers[0])
        turn = 1 - turn
    return size, sum(len(core.totals.to_send) for core, _ in sides)
