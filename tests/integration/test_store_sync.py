"""Real kernels whose stores complete each other: by store sync and by store resume."""

from __future__ import annotations

import io
import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from ipc_schema.kernel.store import store_blobs
from ipc_schema.kernel.store_admin import (
    StoreImportReply,
    StoreResumeRecord,
    StoreSessionRecord,
    StoreStatusReply,
    StoreVerifyReply,
)
from ipc_schema.message import WakuMessage, message_hash
from ipc_schema.topics import shard_topic
from logos_deploy.exits import Exit
from logos_deploy.node.store_file import StoreFileWriter
from tests.integration.logos_node import LOGOS, clean_environment
from tests.support.kernel_process import Dealer, KernelProcess, eventually, kernels, short_directory

CONTENT = "/toychat/2/huilong/proto"
TOPIC = shard_topic(0, 0)
SYNC = ("--store=true", "--store-sync=true", "--store-sync-relay-jitter=0")
BY_HAND = (*SYNC, "--store-sync-interval=1h")


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


Messages = list[tuple[str, WakuMessage]]


def messages(count: int, name: str, age: float = 0.0) -> Messages:
    """Messages that are `age` seconds old."""
    start = time.time_ns() - int(age * 1e9)
    return [
        (TOPIC, WakuMessage(f"{name} {number}".encode(), CONTENT, timestamp=start + number))
        for number in range(count)
    ]


def put(dealer: Dealer, some: Messages) -> list[bytes]:
    """Put messages into a kernel's archive, unheard by others; returns their hashes."""
    for at in range(0, len(some), 32):
        part = some[at : at + 32]
        reply = dealer.ask("store.import", {}, *store_blobs(part))
        assert reply.error is None, reply.error
        assert StoreImportReply.from_body(reply.body) == StoreImportReply(stored=len(part), known=0)
    return [message_hash(*one) for one in some]


def status(dealer: Dealer) -> StoreStatusReply:
    return StoreStatusReply.from_body(dealer.ok("store.status"))


def synced(dealer: Dealer, **what: object) -> dict[str, object] | None:
    """Ask for a session; None while no peer is known to speak it."""
    reply = dealer.ask("store.sync", what)
    assert reply.error is None or reply.error.code == "no_peers", reply.error
    return reply.body if reply.error is None else None


def has(dealer: Dealer, hashes: Sequence[bytes]) -> bool:
    """Whether a kernel's own archive has all of these."""
    own = dealer.ok("node.info", {"ids": ["MyPeerId"]})["info"]["MyPeerId"]
    for at in range(0, len(hashes), 100):
        part = list(hashes[at : at + 100])
        reply = dealer.ok("store.query", {"peer": own, "hashes": part, "limit": 100})
        if set(reply["hashes"]) != set(part):
            return False
    return True


def test_two_halves_become_one(directory: Path) -> None:
    with kernels(directory, BY_HAND, BY_HAND) as (one, two):
        left, right = one.dealer("left"), two.dealer("right")
        shared = messages(40, "both")
        both, _ = put(left, shared), put(right, shared)
        mine, theirs = put(left, messages(400, "mine", 60)), put(right, messages(300, "theirs", 50))
        assert left.code("store.sync") == "no_peers"
        left.ok("peers.connect", {"addresses": [two.address()]})

        found = StoreSessionRecord.from_body(eventually(lambda: synced(left)))
        assert found.received == 300
        assert (found.to_send, found.sent) == (400, 400)
        assert found.peer == two.info("MyPeerId")["MyPeerId"]
        assert found.complete
        everything = [*both, *mine, *theirs]
        eventually(lambda: has(left, everything) and has(right, everything))
        # nothing is left to do, from either end
        for dealer, peer in ((left, two), (right, one)):
            idle = StoreSessionRecord.from_body(dealer.ok("store.sync", {"peer": peer.address()}))
            assert (idle.round_trips, idle.missing, idle.to_send) == (1, 0, 0)
        state = status(left)
        assert state.sync is not None
        assert state.sync.last is not None
        assert (state.messages, state.sync.messages, state.sync.peers) == (740, 740, 1)
        assert state.topics[0].pubsub_topic == TOPIC
        assert time.time_ns() - 90 * 10**9 < state.topics[0].oldest < state.topics[0].newest < time.time_ns()
        figures = {name: value for name, labels, value in left.ok("node.metrics")["metrics"] if not labels}
        assert figures["logos_delivery_reconciliation_differences_sum"] >= 400
        verified = StoreVerifyReply.from_body(left.ok("store.verify", {"pubsub_topic": TOPIC, "limit": 1000}))
        assert (verified.checked, verified.bad, verified.cursor) == (740, (), None)


def test_stores_sync_by_themselves_and_find_each_other(directory: Path) -> None:
    with kernels(directory, (*SYNC, "--store-sync-interval=1"), ()) as (one, middle):
        third = KernelProcess(
            directory / "third", *SYNC, "--store-sync-interval=1", f"--staticnode={one.address()}"
        )
        hashes = put(one.dealer("writer"), messages(150, "one", 30))
        with third:
            dealer = third.dealer()
            eventually(lambda: has(dealer, hashes))
            health = {row["name"]: row["state"] for row in dealer.ok("node.health")["protocols"]}
            assert health["Store Sync"] == "READY"
        assert middle.dealer().code("store.status") == "not_ready"


def test_a_store_fetches_what_it_missed(directory: Path) -> None:
    with kernels(directory, ["--store=true"], ["--store=true"]) as (one, two):
        # two stores that have missed something themselves, and one that was down for a while
        first, second = one.dealer("one"), two.dealer("two")
        old, shared = messages(30, "old", 300), messages(250, "shared", 120)
        only_one, only_two = messages(20, "only one", 90), messages(130, "only two", 80)
        put(first, [*old, *shared, *only_one])
        put(second, [*shared, *only_two])
        late = KernelProcess(
            directory / "late",
            "--store=true",
            "--store-resume=true",
            f"--staticnode={one.address()}",
            f"--staticnode={two.address()}",
        )
        with late:
            dealer = late.dealer()
            missed = [message_hash(*each) for each in (*old, *shared, *only_one, *only_two)]
            eventually(lambda: resumed(dealer), 60)
            assert has(dealer, missed)
            assert status(dealer).resume == StoreResumeRecord(state="done", added=430)
            # nothing that the node was there for is fetched again, however it ends
            assert late.stop(signal.SIGKILL) == -signal.SIGKILL
            newest_one, newest_two = messages(4, "newest one"), messages(6, "newest two")
            put(first, newest_one)
            put(second, newest_two)
            assert two.process is not None
            two.process.send_signal(signal.SIGSTOP)  # the other one has answered before it is connected
            late.start()
            dealer = late.dealer()
            eventually(lambda: has(dealer, [message_hash(*each) for each in newest_one]))
            two.process.send_signal(signal.SIGCONT)
            eventually(lambda: resumed(dealer), 60)
            missed += [message_hash(*each) for each in (*newest_one, *newest_two)]
            assert has(dealer, missed)
            assert status(dealer).resume == StoreResumeRecord(state="done", added=10)


def resumed(dealer: Dealer) -> bool:
    found = status(dealer).resume
    return found is not None and found.state == "done"


def test_a_resume_that_was_killed_goes_on(directory: Path) -> None:
    with kernels(directory, ["--store=true"]) as (store,):
        writer = store.dealer("writer")
        missed = put(writer, messages(3000, "missed", 200))
        late = KernelProcess(
            directory / "late", "--store=true", "--store-resume=true", f"--staticnode={store.address()}"
        )
        with late:
            for _ in range(3):
                # killed in the middle, with newer messages than those that it has still to fetch
                dealer = late.dealer()
                eventually(lambda: status(dealer).messages > 0)  # noqa: B023 - asked at once
                put(dealer, messages(1, "live"))
                late.stop(signal.SIGKILL)
                late.start()
            dealer = late.dealer()
            eventually(lambda: resumed(dealer), 60)
            assert has(dealer, missed)


def test_a_sync_that_was_killed_is_made_up_for(directory: Path) -> None:
    with kernels(directory, BY_HAND, BY_HAND) as (one, two):
        left, right = one.dealer("left"), two.dealer("right")
        right.ok("peers.connect", {"addresses": [one.address()]})
        eventually(lambda: synced(right))  # a peer resets sessions until it knows our network
        missed = put(left, messages(3000, "missed", 60))
        right.send("store.sync")
        watcher = two.dealer("watcher")
        eventually(lambda: status(watcher).messages > 0)
        two.stop(signal.SIGKILL)
        two.start()
        again = two.dealer("again")
        again.ok("peers.connect", {"addresses": [one.address()]})
        eventually(lambda: synced(again))
        eventually(lambda: has(again, missed))


def run_store(kernel: KernelProcess, *arguments: str, code: Exit = Exit.OK, stdin: bytes = b"") -> str:
    """Run `logos store …` on a kernel; returns what it printed."""
    done = subprocess.run(
        [*LOGOS, "store", "--data-dir", str(kernel.directory), *arguments],
        input=stdin,
        capture_output=True,
        timeout=60,
        env=clean_environment(),
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return (done.stdout + done.stderr).decode(errors="replace")


def test_the_command_shows_verifies_exports_and_imports(directory: Path) -> None:
    with kernels(directory, ["--store=true"], [*BY_HAND, "--store-resume=true"]) as (one, two):
        dealer = one.dealer()
        hashes = put(dealer, messages(150, "old", 7200))
        shown = run_store(one)
        assert "ready" in shown
        assert "store sync    off" in shown
        assert f"{TOPIC}       150" in shown
        assert json.loads(run_store(one, "--json"))["topics"][0]["messages"] == 150
        assert run_store(one, "verify") == "150 messages checked, 0 bad\n"
        file = directory / "one.logostore"
        assert "150 messages exported" in run_store(one, "export", str(file))
        assert file.stat().st_mode & 0o777 == 0o600
        assert "is there already" in run_store(one, "export", str(file), code=Exit.DATA)
        none = run_store(one, "export", "-", "--since", "2038-01-01")
        assert none.startswith("LOGOSTOR")

        # into another archive, from a file that was cut off, then from the whole one, twice
        whole = file.read_bytes()
        cut = run_store(two, "import", "-", stdin=whole[: len(whole) // 2], code=Exit.DATA)
        assert "the file ends in the middle" in cut
        assert 0 < status(two.dealer()).messages < 150
        assert "refused" in run_store(two, "import", str(file))
        assert run_store(two, "import", str(file)) == "0 new, 150 known, 0 refused\n"
        assert has(two.dealer(), hashes)
        assert "no connected peer speaks store sync" in run_store(two, "sync", code=Exit.FAILED)
        assert "compares 0 messages" in run_store(two)  # they are older than the range
        foreign = io.BytesIO()
        writer = StoreFileWriter(foreign)
        writer.add("/waku/2/rs/77/0", messages(1, "foreign")[0][1])
        writer.close()
        printed = run_store(two, "import", "-", stdin=foreign.getvalue(), code=Exit.FAILED)
        assert "cluster 77, the node is in 0" in printed

        # a message that is not what its hash says
        assert one.stop() == 0
        with closing(sqlite3.connect(one.directory / "store.sqlite3")) as database, database:
            (data,) = database.execute("SELECT data FROM message WHERE hash = ?", (hashes[7],)).fetchone()
            changed = data.replace(b"old 7", b"new 7")
            database.execute("UPDATE message SET data = ? WHERE hash = ?", (changed, hashes[7]))
        one.start()
        found = run_store(one, "verify", code=Exit.FAILED)
        assert found == f"150 messages checked, 1 bad\n0x{hashes[7].hex()}\n"
    assert "does `logos up` run" in run_store(one, "--timeout", "0.1", code=Exit.UNAVAILABLE)
