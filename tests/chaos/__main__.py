"""`python -m tests.chaos`: run the network, break it as a seed says, let it settle, have it judged.

The same seed gives the same faults at the same times; what the processes make of them is up to the machine.
Exit code 0: nothing lost, nothing doubled; 1: something was; 2: the run is worth nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.chaos.checker import judge_directory
from tests.chaos.fleet import GROUPS, LINKS, NODES, STORES, Fleet, FleetError
from tests.chaos.ledger import PHASE, Ledger
from tests.chaos.plan import (
    MOVES,
    Away,
    Backup,
    Cut,
    Fault,
    Full,
    Kill,
    Restore,
    Step,
    Unread,
    make_plan,
)

TOPICS: Final = ("/chaos/1/red/proto", "/chaos/1/green/proto", "/chaos/1/blue/proto")
NIM: Final = "nim"
"""No fault: one store is a peer that keeps nim-libp2p's mesh rules."""
SETTLE_S: Final = 150.0
"""The longest wait at the end: the send window, and the time that a catch-up may take behind it."""
CALM_S: Final = 26.0
"""How long all must stay well before the judgement: longer than a catch-up waits with asking once more, so
that a message that comes twice has time to show."""


async def _wound(fleet: Fleet, fault: Fault, begin: float, lasting: asyncio.TaskGroup) -> None:
    await asyncio.sleep(max(0.0, begin + fault.at - time.time()))
    match fault:
        case Kill():
            await asyncio.to_thread(fleet.kill, fault.names)
        case Cut():
            lasting.create_task(fleet.cut(fault.link, fault.seconds, frozen=fault.frozen))
        case Away():
            lasting.create_task(fleet.away(fault.names, fault.seconds))
        case Step():
            lasting.create_task(fleet.step(fault.host, fault.ahead, fault.seconds))
        case Full():
            lasting.create_task(fleet.full(fault.host, fault.seconds))
        case Unread():
            lasting.create_task(fleet.unread(fault.name, fault.seconds))
        case Backup():
            await asyncio.to_thread(fleet.backup, fault.host)
        case Restore():
            await asyncio.to_thread(fleet.restore, fault.host)


async def _watch(fleet: Fleet) -> None:
    """What a supervisor does: see at once what has ended."""
    while True:
        await asyncio.sleep(0.5)
        fleet.check_alive()


async def _settle(fleet: Fleet, directory: Path) -> None:
    until = time.monotonic() + SETTLE_S
    good_since: float | None = None
    while time.monotonic() < until:
        await asyncio.sleep(2.0)
        fleet.check_alive()
        if not (await asyncio.to_thread(judge_directory, directory)).good:
            good_since = None
        elif good_since is None:
            good_since = time.monotonic()
        elif time.monotonic() - good_since >= CALM_S:
            return


async def _run(directory: Path, seed: int, seconds: float, rate: float, moves: Sequence[str]) -> None:
    ledger = Ledger(directory / "conductor.jsonl")
    ledger.write("run", seed=seed, seconds=seconds, rate=rate, moves=moves)
    fleet = Fleet(directory, ledger, TOPICS, rate, nim=NIM in moves)
    try:
        await fleet.start()
        begin = time.time() + 0.5
        (directory / "phase.new").write_text(json.dumps([begin, begin + seconds]), encoding="ascii")
        (directory / "phase.new").rename(directory / PHASE)  # apps see it whole, or not
        possible = [move for move in moves if move in fleet.moves]
        if NIM in moves:
            _say("the depot keeps nim-libp2p's mesh rules")
        _say(f"up; {seconds:.0f} s of chaos begin: kills, cuts, {', '.join(possible) or 'nothing else'}")
        if len(possible) < len(set(moves) - {NIM}):
            _say("no C compiler: the clock is not set, and no disk fills")
        plan = make_plan(seed, seconds, GROUPS, LINKS, hosts=NODES, stores=STORES, moves=possible)
        async with asyncio.TaskGroup() as lasting:
            watch = lasting.create_task(_watch(fleet))
            for fault in plan:
                await _wound(fleet, fault, begin, lasting)
            await asyncio.sleep(max(0.0, begin + seconds - time.time()))
            _say("no more faults but those that still last; settling")
            watch.cancel()
        ledger.write("settling")
        await _settle(fleet, directory)
        fleet.check_alive()
    finally:
        await fleet.close()
        ledger.close()


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Chaos, and its judgement.")
    parser.add_argument("--seed", type=int, help="of the faults (random)")
    parser.add_argument("--seconds", type=float, default=100.0, help="of sending and faults (100)")
    parser.add_argument("--rate", type=float, default=50.0, help="messages a second, all apps together (50)")
    parser.add_argument("--keep", type=Path, help="empty directory for ledgers and logs, to be kept")
    parser.add_argument(
        "--moves",
        default=",".join((*MOVES, NIM)),
        help=f"what is done beside kills and cuts, of {', '.join((*MOVES, NIM))} (all)",
    )
    given = parser.parse_args()
    moves = [move for move in given.moves.split(",") if move]
    unknown = set(moves) - {*MOVES, NIM}
    if unknown:
        parser.error(f"--moves: {', '.join(sorted(unknown))}: not known")
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    # Short: socket paths have 107 bytes at most. On the real disk: the databases are part of the matter.
    directory = given.keep or Path(tempfile.mkdtemp(prefix="chaos-", dir="/var/tmp"))
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        parser.error(f"{directory} is not empty")
    _say(f"seed {seed}; ledgers and logs in {directory}")
    failed = False
    try:
        asyncio.run(_run(directory.resolve(), seed, given.seconds, given.rate, moves))
    except* FleetError as group:
        for error in group.exceptions:
            sys.stderr.write(f"{error}\n")
        failed = True
    if failed:
        return 2
    code = subprocess.call([sys.executable, "-m", "tests.chaos.checker", str(directory)])
    if code == 0 and given.keep is None:
        shutil.rmtree(directory)
    elif code:
        _say(f"seed {seed}; ledgers and logs stay in {directory}")
    return code


if __name__ == "__main__":
    sys.exit(main())
