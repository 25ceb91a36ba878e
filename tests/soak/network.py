"""A network whose members know one node each, by its record, by a list in the DNS or by its address.

Members send at a steady rate, each in its turn by chance; every minute or so one of them is killed and comes
back with other ports, or the bootstrap goes or comes back. One JSON line for each interval, one for each of
these turns, one for each figure at the end.

Bad: a message that a member lost or got twice (`deliveries` says what is excused), a send that failed, a
network that is not healthy again `LIMIT` seconds after a turn, a process that ended or wrote to its log that
something is wrong, and a figure of a member that was never killed that grew beyond its bound.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Final

from tests.soak.deliveries import PATIENCE, Deliveries
from tests.soak.growth import NETWORK_BOUNDS
from tests.soak.members import EdgeMember, KernelMember, Member
from tests.soak.plan import Turn, What, make_plan
from tests.soak.watched import Watched, emit, report_growth, warm_up
from tests.support.dns_server import DnsServer, dns_server
from tests.support.kernel_process import short_directory
from tests.support.networks import GONE, PAIR, Entrance, complaints

NODES: Final = 20
FEWEST: Final = 7
"""A mesh needs four others, also while one is killed and the bootstrap is gone."""
RATE: Final = 5.0
EDGES: Final = 2
LIMIT: Final = 60.0
LOOK: Final = 0.25
NOTICED: Final = 1.0
"""Seconds after which all know that a neighbour is gone: health before that is that of yesterday."""
STORE: Final = ("--store=true", "--store-message-retention-policy=capacity:5000")
STORE_EVERY: Final = 3
STEADY_EVERY: Final = 4
"""Of so many members one is never killed: in those we look for what grows."""
BOOTSTRAP: Final = "boot"
EXPECTED: Final = (*GONE, "event loop lagging")
"""What a process rightly warns of: that others are gone, and that the machine is busy."""


class Network:
    """All members, and what is done to them."""

    def __init__(self, directory: Path, nodes: int, background: asyncio.TaskGroup) -> None:
        """`background` runs what listens to the members."""
        self.kernels = [f"k{number}" for number in range(1, nodes)]
        self.edges = [f"e{number}" for number in range(1, EDGES + 1)]
        self.deliveries = Deliveries([BOOTSTRAP, *self.kernels, *self.edges])
        self.healed = True
        """Whether after each turn all were healthy in time."""
        self.watched: list[Watched] = []
        """The processes that are never killed."""
        self._directory = directory
        self._background = background
        self._listeners: list[asyncio.Task[None]] = []
        self._members: dict[str, Member] = {}
        self._away: set[str] = set()

    @property
    def steady(self) -> list[str]:
        """Those that are never killed."""
        return [*self.kernels[::STEADY_EVERY], *self.edges]

    # -- coming up and going down ----------------------------------------------------------------------------

    async def start(self, stack: AsyncExitStack, server: DnsServer) -> None:
        """Start all, and wait until all are healthy; they end with the stack."""
        boot = self._kernel(BOOTSTRAP)
        await self._up(stack, [boot])
        entrance = await asyncio.to_thread(Entrance, boot.kernel, server)
        members: list[Member] = []
        for number, name in enumerate(self.kernels):
            store = STORE if number % STORE_EVERY == 0 else ()
            members.append(self._kernel(name, *entrance.options(number), *store))
        # Edge nodes have no discv5: an option that names a node to enter that by would be nothing to them.
        ways = [way for way in entrance.ways if way[0].startswith("--entry-node")]
        for number, name in enumerate(self.edges):
            way = ways[number % len(ways)]
            members.append(EdgeMember(name, self._directory, self.deliveries, time.monotonic, *way))
        for at in range(0, len(members), PAIR):
            await self._up(stack, members[at : at + PAIR])
        await self._healthy_again(started=len(self._members))
        for name in self.steady:
            self.watched += await asyncio.to_thread(self._members[name].watched)

    def _kernel(self, name: str, *options: str) -> KernelMember:
        return KernelMember(name, self._directory, self.deliveries, time.monotonic, *options)

    async def _up(self, stack: AsyncExitStack, members: Sequence[Member]) -> None:
        for member in members:
            stack.callback(member.kernel.__exit__, None, None, None)
            member.kernel.launch()
        for member in members:
            await asyncio.to_thread(member.kernel.wait_ready)
            stack.push_async_callback(member.close)
            await member.open()
            self._members[member.name] = member
            self._listeners.append(self._background.create_task(member.listen()))

    def stop_listening(self) -> None:
        """Stop listening to all peers."""
        for task in self._listeners:
            task.cancel()

    # -- health ----------------------------------------------------------------------------------------------

    async def unhealthy(self) -> list[str]:
        """Those that are not, of all that are not away. Who is healthy for the first time is counted on.

        Raises ChildProcessError for one that ended by itself.
        """
        names = [name for name in self._members if name not in self._away]
        states = await asyncio.gather(*(self._members[name].healthy() for name in names))
        found = []
        for name, state in zip(names, states, strict=True):
            process = self._members[name].kernel.process
            if name in self._away:
                continue  # meanwhile
            if process is not None and process.poll() is not None:
                raise ChildProcessError(f"{name} ended with {process.poll()}")
            if state:
                self.deliveries.there(name, time.monotonic())
            else:
                found.append(name)
        return found

    async def _healthy_again(self, **facts: object) -> None:
        """Wait until all are, and tell how long that took; at most `LIMIT`."""
        began = time.monotonic()
        await asyncio.sleep(NOTICED)
        while unhealthy := await self.unhealthy():
            if time.monotonic() - began > LIMIT:
                self.healed = False
                emit(**facts, healthy_s=None, unhealthy=unhealthy)
                return
            await asyncio.sleep(LOOK)
        emit(**facts, healthy_s=round(time.monotonic() - began, 2))

    # -- turns -----------------------------------------------------------------------------------------------

    async def take(self, plan: Sequence[Turn]) -> None:
        """Do what the plan says, each turn once the one before it has healed."""
        start = time.monotonic()
        for turn in plan:
            await asyncio.sleep(max(0.0, start + turn.at - time.monotonic()))
            facts: dict[str, object] = {"turn": turn.what, "member": turn.member}
            facts["at"] = round(time.monotonic() - start, 1)
            if turn.what is not What.RETURN:
                await self._kill(turn.member)
            if turn.what is not What.GO:
                await asyncio.sleep(turn.away)
                facts |= {"away_s": round(turn.away, 1), "start_s": await self._back(turn.member)}
            await self._healthy_again(**facts)

    async def _kill(self, name: str) -> None:
        self._away.add(name)
        self.deliveries.gone(name, time.monotonic())
        await asyncio.to_thread(self._members[name].kernel.stop, signal.SIGKILL)

    async def _back(self, name: str) -> float:
        """Start it, on automatic ports, which are others now; the seconds until it was ready."""
        began = time.monotonic()
        await asyncio.to_thread(self._members[name].kernel.start)
        self._away.discard(name)
        return round(time.monotonic() - began, 2)

    # -- messages --------------------------------------------------------------------------------------------

    async def send(self, rate: float, seconds: float, random: Random) -> None:
        """`rate` times a second, from one of those that are counted on."""
        start, turns = time.monotonic(), 0
        while (now := time.monotonic()) - start < seconds:
            if senders := self.deliveries.present(now):
                sender = random.choice(senders)
                number = self.deliveries.send(sender, now)
                self._background.create_task(self._members[sender].send(number))
            turns += 1
            await asyncio.sleep(max(0.0, start + turns / rate - time.monotonic()))

    async def drained(self) -> None:
        """Wait until all is delivered, or lost."""
        end = time.monotonic() + PATIENCE
        while self.deliveries.overdue(time.monotonic(), 0.0) and time.monotonic() < end:
            await asyncio.sleep(0.1)

    async def watch(self, after: float, interval: float) -> None:
        """Tell how things stand, again and again. Figures count from `after` seconds on."""
        start = time.monotonic()
        while True:
            seen = await asyncio.gather(*(asyncio.to_thread(process.look) for process in self.watched))
            now = time.monotonic()
            if now - start >= after:
                for process, sample in zip(self.watched, seen, strict=True):
                    process.samples.append(sample)
            self.deliveries.settle(now)
            figures = self.deliveries.figures.values()
            emit(
                seconds=round(now - start),
                sent=self.deliveries.sent_count,
                overdue=self.deliveries.overdue(now),
                lost=sum(one.lost for one in figures),
                doubled=sum(one.doubled for one in figures),
                failed=self.deliveries.failed,
                away=sorted(self._away),
                unhealthy=await self.unhealthy(),
                memory_mb={
                    process.name: round(sample["memory"] / 1e6, 1)
                    for process, sample in zip(self.watched, seen, strict=True)
                },
            )
            await asyncio.sleep(interval)


async def _soak(
    directory: Path, server: DnsServer, seconds: float, nodes: int, rate: float, seed: int
) -> bool:
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        network = Network(directory, nodes, group)
        await network.start(stack, server)
        restless = [name for name in network.kernels if name not in network.steady]
        watch = group.create_task(network.watch(warm_up(seconds), max(1.0, min(10.0, seconds / 30))))
        turns = group.create_task(network.take(make_plan(seed, seconds, restless, BOOTSTRAP)))
        await network.send(rate, seconds, Random(seed))
        await turns
        await network.drained()
        watch.cancel()
        network.stop_listening()
    return _report(network, seconds - warm_up(seconds))


def _report(network: Network, seconds: float) -> bool:
    deliveries = network.deliveries
    good = deliveries.finish() and network.healed
    for name, figures in deliveries.figures.items():
        emit(**{"member": name, **asdict(figures), "worst": round(figures.worst, 2)})
    for process in network.watched:
        good = report_growth(process, seconds, deliveries.sent_count, NETWORK_BOUNDS) and good
    for example in deliveries.examples:
        emit(example=example)
    emit(
        sent=deliveries.sent_count,
        failed=deliveries.failed,
        deliveries=sum(one.expected for one in deliveries.figures.values()),
        excused=sum(one.excused for one in deliveries.figures.values()),
        lost=sum(one.lost for one in deliveries.figures.values()),
        doubled=sum(one.doubled for one in deliveries.figures.values()),
        worst_s=round(max(one.worst for one in deliveries.figures.values()), 2),
        healed=network.healed,
    )
    return good


def run_network(seconds: float, nodes: int, rate: float, seed: int) -> bool:
    """`nodes` kernels that relay, one of them the bootstrap; `rate`: messages a second, of all together.
    Returns whether all was well."""
    with short_directory() as directory:
        emit(network=nodes, edges=EDGES, seconds=seconds, seed=seed)
        try:
            with dns_server() as server:
                good = asyncio.run(_soak(directory, server, seconds, nodes, rate, seed))
        finally:
            wrong = {log.name: complaints(log, EXPECTED) for log in sorted(directory.glob("*.log"))}
            for name, lines in wrong.items():
                if lines:
                    emit(log=name, lines=len(lines), last=lines[-20:])
    return good and not any(wrong.values())
