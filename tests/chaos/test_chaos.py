"""The parts of the chaos run that judge and break: each fault is found in made-up ledgers, a link can be cut,
a plan follows from its seed. The run itself is `make chaos`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.checker import FAULTS, judge, table
from tests.chaos.fleet import APPS, GROUPS, LINKS, NODES, STORES
from tests.chaos.ledger import Ledger, read_ledger
from tests.chaos.plan import CUT_SECONDS, MOVES, Away, Cut, Kill, Restore, Step, make_plan
from tests.chaos.proxy import Link
from tests.chaos.shim import HostFaults, build
from tests.support.aio import asyncio_test

Line = dict[str, Any]


def event(seq: int, kind: str, request: str, message: str = "", stream: str = "s") -> Line:
    return {"what": "event", "kind": kind, "stream": stream, "seq": seq, "id": request, "hash": message}


def good() -> dict[str, list[Line]]:
    """Alice sends r1; she and Bob receive it."""
    subscribed: Line = {"what": "subscribed", "topics": ["t"]}
    return {
        "alice": [
            subscribed,
            {"what": "intent", "id": "r1", "topic": "t"},
            {"what": "accepted", "id": "r1"},
            event(1, "MessageReceived", "r1", "h1"),
            event(2, "MessagePropagated", "r1", "h1"),
            event(3, "MessageSent", "r1", "h1"),
        ],
        "bob": [subscribed, event(1, "MessageReceived", "r1", "h1", "b")],
    }


def faults(ledgers: dict[str, list[Line]]) -> dict[str, dict[str, int]]:
    verdict = judge(ledgers)
    found = {
        app: {fault: count for fault in FAULTS if (count := getattr(figures, fault))}
        for app, figures in verdict.apps.items()
    }
    assert verdict.good == (not any(found.values()))
    assert bool(verdict.examples) == any(found.values())
    return {app: wrong for app, wrong in found.items() if wrong}


def test_a_good_run_is_good_and_its_table_has_every_app() -> None:
    ledgers = good()
    ledgers["bob"].append({**ledgers["bob"][1]})  # given again: allowed
    verdict = judge(ledgers, [{"what": "kill", "name": "app:bob"}, {"what": "cut", "frozen": True}])
    assert verdict.good
    assert verdict.apps["bob"].repeats == 1
    assert verdict.faults == {"kill -9 app": 1, "frozen links": 1}
    text = table(verdict)
    assert [line.split()[0] for line in text.splitlines() if "-" not in line] == [
        "app",
        "alice",
        "bob",
        "all",
    ]


def test_a_run_in_which_nothing_was_sent_proves_nothing() -> None:
    assert not judge({"alice": []}).good


def test_what_was_sent_and_not_received_is_lost() -> None:
    ledgers = good()
    ledgers["bob"].pop()
    assert faults(ledgers) == {"bob": {"lost": 1}}
    ledgers["bob"].pop()
    assert faults(ledgers) == {}, "who has not subscribed has lost nothing"


def test_what_was_never_confirmed_is_not_lost() -> None:
    ledgers = good()
    ledgers["alice"][-1] = event(3, "MessageUnconfirmed", "r1")
    ledgers["bob"].pop()
    assert judge(ledgers).apps["bob"].lost == 0


def test_no_fate_and_two_fates() -> None:
    ledgers = good()
    last = ledgers["alice"].pop()
    wrong = judge(ledgers).apps["alice"]
    assert (wrong.no_fate, wrong.sent) == (1, 0)
    ledgers["alice"] += [last, event(4, "MessageError", "r1")]
    assert faults(ledgers) == {"alice": {"two_fates": 1}}


@pytest.mark.parametrize("seq", [2, 5])
def test_a_hash_twice_in_one_stream_is_doubled(seq: int) -> None:
    ledgers = good()
    ledgers["bob"].append(event(seq, "MessageReceived", "r1", "h1", "b"))
    found = faults(ledgers)["bob"]
    assert found.pop("doubled") == 1
    assert found == ({"holes": seq - 2} if seq > 2 else {})


def test_one_send_under_two_hashes_is_doubled() -> None:
    ledgers = good()
    ledgers["bob"].append(event(2, "MessageReceived", "r1", "h2", "b"))
    assert faults(ledgers) == {"alice": {"doubled": 1}}


def test_holes_changed_events_and_replaced_streams() -> None:
    ledgers = good()
    ledgers["alice"].append(event(6, "ConnectionStatusChange", ""))
    assert faults(ledgers) == {"alice": {"holes": 2}}
    ledgers["alice"].append({**event(7, "EventsDropped", ""), "first": 4, "last": 5})
    assert faults(ledgers) == {}, "a reported drop is not a hole"
    ledgers["bob"].append(event(1, "MessageReceived", "r1", "h3", "b"))
    ledgers["bob"].append(event(1, "ConnectionStatusChange", "", stream="other"))
    assert faults(ledgers)["bob"] == {"changed": 2}


def test_a_send_that_was_never_accepted_is_unanswered() -> None:
    ledgers = good()
    ledgers["alice"].append({"what": "intent", "id": "r2", "topic": "t"})
    assert faults(ledgers) == {"alice": {"unanswered": 1}}


def test_a_torn_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    first = Ledger(path)
    first.write("one", number=1)
    first.close()
    with path.open("ab") as file:
        file.write(b'{"what":"tor')
    second = Ledger(path)
    second.write("two")
    second.sync()
    second.close()
    found = read_ledger(path)
    assert [line["what"] for line in found.lines] == ["one", "two"]
    assert found.torn == 1
    assert read_ledger(tmp_path / "none").lines == []


def test_a_plan_follows_from_its_seed() -> None:
    plan = make_plan(7, 600.0, GROUPS, LINKS)
    assert plan == make_plan(7, 600.0, GROUPS, LINKS)
    assert plan != make_plan(8, 600.0, GROUPS, LINKS)
    assert [fault.at for fault in plan] == sorted(fault.at for fault in plan)
    killed = {name for fault in plan if isinstance(fault, Kill) for name in fault.names}
    assert killed <= {name for group in GROUPS for name in group}
    assert {name.split(":")[0] for name in killed} == {"kernel", "mapi", "app"}
    cuts = [fault for fault in plan if isinstance(fault, Cut)]
    assert {cut.link for cut in cuts} == set(LINKS)
    assert all(CUT_SECONDS[0] <= cut.seconds <= CUT_SECONDS[1] for cut in cuts)
    assert {cut.frozen for cut in cuts} == {True, False}
    assert len(APPS) == 2 * len(NODES)


def test_other_moves_change_nothing_of_the_plan_without_them() -> None:
    bare = make_plan(7, 600.0, GROUPS, LINKS)
    more = make_plan(7, 600.0, GROUPS, LINKS, hosts=NODES, stores=STORES, moves=list(MOVES))
    assert [fault for fault in more if isinstance(fault, Kill | Cut)] == bare
    steps = [fault for fault in more if isinstance(fault, Step)]
    assert {step.ahead > 0 for step in steps} == {True, False}
    pairs = [fault.names for fault in more if isinstance(fault, Away) and len(fault.names) == 2]
    assert all(first.split(":")[1] in NODES and second.split(":")[1] in STORES for first, second in pairs)
    assert pairs
    assert any(isinstance(fault, Restore) for fault in more)
    only = make_plan(7, 600.0, GROUPS, LINKS, hosts=NODES, stores=STORES, moves=["clock"])
    assert [fault for fault in only if isinstance(fault, Step)] == steps


def test_what_a_backup_did_not_know_is_excused_and_a_seq_given_twice_never() -> None:
    restored: list[Line] = [
        {"what": "backup", "host": "alice", "at": 100.0},
        {"what": "restore", "host": "alice", "at": 110.0},
    ]
    ledgers = good()
    ledgers["alice"][2]["at"] = 105.0
    ledgers["alice"][3:] = [event(1, "MessageReceived", "r1", "h1", "new")]
    ledgers["alice"].append(event(9, "MessageReceived", "r1", "h1", "old"))
    ledgers["alice"][-1]["seq"] = 1
    assert judge(ledgers, restored).apps["alice"].no_fate == 0
    assert judge(ledgers).apps["alice"].no_fate == 1
    figures = judge(ledgers, restored).apps["alice"]
    assert (figures.doubled, figures.changed) == (0, 0), "in another stream it may come again"
    ledgers["alice"].append(event(1, "ConnectionStatusChange", "", stream="new"))
    assert judge(ledgers, restored).apps["alice"].changed == 1


def test_a_send_that_was_parked_long_and_open_in_the_backup_may_end_again_after_it() -> None:
    restored: list[Line] = [
        {"what": "backup", "host": "alice", "at": 400.0},
        {"what": "restore", "host": "alice", "at": 410.0},
    ]
    ledgers = good()
    ledgers["alice"][2]["at"] = 105.0
    again = event(9, "MessageUnconfirmed", "r1", stream="new")
    for heard, faults in ((402.0, 0), (395.0, 1)):
        ledgers["alice"][3:] = [event(1, "MessageUnconfirmed", "r1") | {"at": heard}, again | {"at": 430.0}]
        assert judge(ledgers, restored).apps["alice"].two_fates == faults


def test_a_fate_whose_acknowledgement_a_backup_did_not_know_is_one_fate() -> None:
    restored: list[Line] = [
        {"what": "backup", "host": "alice", "at": 400.0},
        {"what": "restore", "host": "alice", "at": 410.0},
    ]
    ledgers = good()
    ledgers["alice"][2]["at"] = 105.0
    fate = event(1, "MessageUnconfirmed", "r1") | {"at": 395.0}
    again = event(1, "MessageUnconfirmed", "r1", stream="new") | {"at": 430.0}
    ledgers["alice"][3:] = [fate, again]
    figures = judge(ledgers, restored).apps["alice"]
    assert (figures.two_fates, figures.unconfirmed, figures.repeats) == (0, 1, 1)
    for other in (again | {"seq": 2}, again | {"kind": "MessageError"}):
        ledgers["alice"][3:] = [fate, other]
        assert judge(ledgers, restored).apps["alice"].two_fates == 1


def test_a_send_whose_first_answer_was_lost_with_what_was_put_back_may_go_out_again() -> None:
    restored: list[Line] = [
        {"what": "backup", "host": "alice", "at": 90.0},
        {"what": "restore", "host": "alice", "at": 110.0},
    ]
    for asked, faults in ((105.0, 0), (115.0, 1)):
        ledgers = good()
        for line in ledgers["alice"]:
            line["at"] = asked if line["what"] == "intent" else 120.0
        ledgers["bob"].append(event(3, "MessageReceived", "r1", "h2", "b") | {"at": 109.0})
        assert judge(ledgers, restored).apps["alice"].doubled == faults


def test_what_propagated_and_is_neither_received_nor_reported_is_counted() -> None:
    ledgers = good()
    ledgers["alice"][-1] = event(3, "MessageUnconfirmed", "r1")
    ledgers["alice"][-2]["at"] = 1000.0
    ledgers["bob"].pop()
    assert judge(ledgers).apps["bob"].unreported == 1
    assert judge(ledgers).apps["bob"].lost == 0
    reported = {**event(1, "MessagesMissed", "", stream="b"), "at": 1030.0}
    ledgers["bob"].append(reported | {"from": 990 * 10**9, "to": 1005 * 10**9})
    assert judge(ledgers).apps["bob"].unreported == 0
    ahead: list[Line] = [{"what": "step", "host": "bob", "ahead": 3600.0, "at": 1020.0}]
    assert judge(ledgers, ahead).apps["bob"].unreported == 1, "an hour ago, by a clock that is ahead"


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_host_has_its_own_clock_and_disk(tmp_path: Path) -> None:
    library = build(tmp_path)
    assert library is not None
    host = HostFaults(tmp_path / "host", library)
    program = """
import os, sys, time
for line in sys.stdin:
    try:
        os.write(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), b"x")
        print(time.time(), time.monotonic(), "written", flush=True)
    except OSError as error:
        print(time.time(), time.monotonic(), error.errno, flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "file")],
        env={**os.environ, **host.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def ask() -> tuple[float, float, str]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        wall, steady, written = process.stdout.readline().split()
        return float(wall), float(steady), written

    before = ask()
    host.set_clock(-3600 * 10**9)
    host.fill_disk(full=True)
    during = ask()
    host.set_clock(0)
    host.fill_disk(full=False)
    after = ask()
    process.stdin.close()
    assert process.wait(10) == 0
    process.stdout.close()
    assert before[0] - 3600 <= during[0] < after[0] - 3600 + 1
    assert before[0] <= after[0]
    assert before[1] <= during[1] <= after[1]
    assert (before[2], during[2], after[2]) == ("written", str(errno.ENOSPC), "written")


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


@asyncio_test()
async def test_a_link_carries_freezes_and_resets() -> None:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    link = Link("a~b", server.sockets[0].getsockname()[1])
    await link.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"

    freeze = asyncio.create_task(link.cut(3600.0, frozen=True))
    await asyncio.sleep(0)
    writer.write(b"two")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.readexactly(3)
    freeze.cancel()
    assert await reader.readexactly(3) == b"two", "late, but whole"

    reset = asyncio.create_task(link.cut(3600.0, frozen=False))
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1)
    refused, other = await asyncio.open_connection("127.0.0.1", link.port)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await refused.readexactly(1)
    reset.cancel()
    await asyncio.gather(freeze, reset, return_exceptions=True)
    again, third = await asyncio.open_connection("127.0.0.1", link.port)
    third.write(b"three")
    assert await again.readexactly(5) == b"three"
    for end in (writer, other, third):
        end.close()
    await link.close()
    server.close()
