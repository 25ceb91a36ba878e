"""The processes of the network: two stores between three nodes, and two named apps on each node.

        alpha, beta, gamma ──links── store           alpha ──link── beta, directly
        alpha, beta, gamma ──links── depot           store ──link── depot

Every connection between kernels goes through a `Link`. Kernels announce an address without a listener:
none of them learns a way round the links.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from ipc_schema.errors import IpcError
from ipc_schema.node_info import NodeInfoReply
from ipc_schema.paths import kernel_endpoints, mapi_endpoints
from logos_client.transport import ConnectionSettings, RequestConnection
from tests.chaos.ledger import Ledger, read_ledger
from tests.chaos.plan import MOVES
from tests.chaos.proxy import Link
from tests.chaos.shim import HostFaults, build

NODES: Final = ("alpha", "beta", "gamma")
STORE: Final = "store"
DEPOT: Final = "depot"
STORES: Final = (STORE, DEPOT)
APPS: Final = tuple(f"{node}-{number}" for node in NODES for number in (1, 2))
LINKS: Final = (
    *(f"{node}~{STORE}" for node in NODES),
    f"{DEPOT}~{STORE}",
    *(f"{node}~{DEPOT}" for node in NODES),
    "alpha~beta",
)
GROUPS: Final = (
    tuple(f"kernel:{node}" for node in NODES),
    tuple(f"kernel:{store}" for store in STORES),
    tuple(f"mapi:{node}" for node in NODES),
    tuple(f"app:{app}" for app in APPS),
)
"""The processes by kind, as the plan wants them."""

_ROOT: Final = Path(__file__).parents[2]
_NOBODY: Final = "/ip4/127.0.0.1/tcp/9"
_START_S: Final = 60.0
_DISK_FULL: Final = 70
"""What a process ends with that cannot start on a full disk (EX_SOFTWARE); a supervisor starts it again."""
_FULL_GRACE_S: Final = 5.0


class FleetError(Exception):
    """The network does not come up, or a process ended by itself: the run is worth nothing."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _drain(reader: int, log: Path) -> None:
    """Read a process's log at last, until its end."""
    with log.open("ab") as file:
        while data := os.read(reader, 65_536):
            file.write(data)
            file.flush()
    os.close(reader)


async def _ask(endpoint: str, method: str, body: dict[str, object] | None = None) -> dict[str, object] | None:
    """Make one request on a socket; return None without a good answer."""
    connection = RequestConnection(endpoint)
    try:
        return dict((await connection.request(method, body, timeout=1.0)).body)
    except IpcError:
        return None
    finally:
        await connection.close()


class Fleet:
    """All processes and links. Names are `kernel:<node>`, `mapi:<node>`, `app:<app>`."""

    def __init__(
        self, directory: Path, ledger: Ledger, topics: Sequence[str], rate: float, *, nim: bool = False
    ) -> None:
        """`rate`: messages a second, of all apps together. `nim`: the depot keeps nim-libp2p's mesh rules."""
        self._nim = nim
        self.links: dict[str, Link] = {}
        self._directory = directory
        self._ledger = ledger
        self._topics = list(topics)
        self._rate = rate
        self._ports = {name: _free_port() for name in (*STORES, "alpha")}
        self._commands: dict[str, list[str]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.RLock()
        self._away: set[str] = set()
        self._full_until: dict[str, float] = {}
        self._hosts: dict[str, HostFaults] = {}
        library = build(directory)
        if library is not None:
            self._hosts = {
                name: HostFaults(directory / f"{name}.host", library) for name in (*STORES, *NODES)
            }

    # -- coming up ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start everything; returns when every app is subscribed and every kernel has a mesh peer."""
        for name in LINKS:
            near, far = name.split("~")
            target = far if far in STORES else near
            self.links[name] = Link(name, self._ports[target])
            await self.links[name].start()
        peer_ids: dict[str, str] = {}
        # Each kernel dials those started before it.
        for node in (*STORES, *NODES):
            dials = [
                f"--staticnode=/ip4/127.0.0.1/tcp/{link.port}/p2p/{peer_ids[other]}"
                for name, link in self.links.items()
                if node in (ends := name.split("~"))
                and (other := ends[0] if ends[1] == node else ends[1]) in peer_ids
            ]
            self._kernel(node, dials)
            peer_ids[node] = await self._peer_id(node)
        for node in NODES:
            self._mapi(node)
        for app in APPS:
            self._app(app)
        await self._until("the apps are not subscribed", self._all_subscribed)
        await self._until("no mesh", self._all_meshed)

    def _kernel(self, node: str, dials: list[str]) -> None:
        options = [f"--tcp-port={self._ports.get(node, 0)}", "--ip-colocation-limit=0", *dials]
        options += ["--ext-multiaddr-only=true", f"--ext-multiaddr={_NOBODY}"]
        if node in STORES:
            options += ["--store=true", "--shard=0"]
        module = "kernel_proc"
        if self._nim and node == DEPOT:
            module = "tests.chaos.nim_kernel"
            options.append("--agent-string=nwaku/nim-rules")
        self._launch(f"kernel:{node}", module, f"--data-dir={self._directory / node}", *options)

    def _mapi(self, node: str) -> None:
        self._launch(f"mapi:{node}", "mapi_proc", f"--data-dir={self._directory / node}")

    def _app(self, app: str) -> None:
        run_dir = self._directory / app.split("-")[0] / "run"
        options = [f"--topic={topic}" for topic in self._topics]
        options.append(f"--rate={self._rate / len(APPS):g}")
        self._launch(f"app:{app}", "tests.chaos.app", app, str(run_dir), str(self._directory), *options)

    def _launch(self, name: str, module: str, *arguments: str) -> None:
        self._commands[name] = [sys.executable, "-m", module, *arguments]
        self._run(name)

    @property
    def moves(self) -> list[str]:
        """The moves that this machine can make."""
        return [move for move in MOVES if self._hosts or move not in ("clock", "full")]

    def _run(self, name: str, log: int | None = None, *options: str) -> None:
        """Start a process. `log`: a descriptor for its log instead of the file."""
        path = os.pathsep.join(map(str, (_ROOT, _ROOT / "client", _ROOT / "deploy")))
        environment = {**os.environ, "PYTHONPATH": path}
        kind, _, host = name.partition(":")
        if kind != "app" and host in self._hosts:
            environment |= self._hosts[host].environment
        with self.log(name).open("ab") as file:
            self._processes[name] = subprocess.Popen(
                [*self._commands[name], *options],
                cwd=_ROOT,
                env=environment,
                stdout=log or file,
                stderr=log or file,
            )
        self._ledger.write("start", name=name, pid=self._processes[name].pid)

    def log(self, name: str) -> Path:
        """Where a process writes its log."""
        return self._directory / f"{name.replace(':', '-')}.log"

    async def _peer_id(self, node: str) -> str:
        endpoint = kernel_endpoints(self._directory / node / "run").requests
        found: list[str] = []

        async def known() -> bool:
            connection = RequestConnection(
                endpoint,
                ConnectionSettings(hello=lambda: {"kind": "tool", "name": "chaos", "protocol": [1, 1]}),
            )
            try:
                reply = await connection.request("node.info", {"ids": ["MyPeerId"]}, timeout=2.0)
                found.append(str(NodeInfoReply.from_body(reply.body).info["MyPeerId"]))
            except IpcError:
                return False
            finally:
                await connection.close()
            return True

        await self._until(f"the kernel of {node} does not answer", known)
        return found[0]

    async def _all_subscribed(self) -> bool:
        return all(
            any(line["what"] == "subscribed" for line in read_ledger(self.ledger_of(app)).lines)
            for app in APPS
        )

    def ledger_of(self, app: str) -> Path:
        return self._directory / f"app-{app}.jsonl"

    async def _all_meshed(self) -> bool:
        for node in NODES:
            health = await _ask(mapi_endpoints(self._directory / node / "run").control, "health")
            if health is None or health.get("connection") == "Disconnected":
                return False
        return True

    async def _until(self, what: str, check: Callable[[], Awaitable[bool]]) -> None:
        try:
            async with asyncio.timeout(_START_S):
                while not await check():
                    self.check_alive()
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise FleetError(what) from None

    # -- faults ---------------------------------------------------------------------------------------------

    def check_alive(self) -> None:
        """Raise FleetError if a process has ended that was not killed. One that could not start on a full
        disk is started again.
        """
        with self._lock:
            self._check_alive()

    def _check_alive(self) -> None:
        for name, process in list(self._processes.items()):
            if process.poll() is not None and name not in self._away:
                host = name.partition(":")[2]
                if process.returncode == _DISK_FULL and time.monotonic() < self._full_until.get(host, 0.0):
                    self._ledger.write("ended", name=name, code=process.returncode)
                    self._run(name)
                    continue
                tail = self.log(name).read_text(errors="replace")[-3000:]
                raise FleetError(f"{name} ended by itself with {process.returncode}:\n{tail}")

    def kill(self, names: Sequence[str]) -> None:
        """SIGKILL these processes together, and start each again at once; nothing for those that are away."""
        with self._lock:
            for name in self._end(names):
                self._run(name)

    def _end(self, names: Sequence[str]) -> list[str]:
        """SIGKILL; returns those that ran."""
        self.check_alive()
        ended = [name for name in names if name not in self._away]
        for name in ended:
            self._ledger.write("kill", name=name, pid=self._processes[name].pid)
            self._processes[name].kill()
        for name in ended:
            self._processes[name].wait()
        return ended

    async def away(self, names: Sequence[str], seconds: float) -> None:
        """SIGKILL these processes together, and start them again, together, after a while."""
        with self._lock:
            ended = self._end(names)
            self._away.update(ended)
        self._ledger.write("away", names=ended, seconds=seconds)
        await asyncio.sleep(seconds)
        with self._lock:
            for name in ended:
                self._run(name)
            self._away.difference_update(ended)

    async def step(self, host: str, ahead: float, seconds: float) -> None:
        """Set a host's wall clock, and set it right after a while. Two of these on one host do not add up."""
        faults = self._hosts[host]
        faults.set_clock(int(ahead * 1e9))
        self._ledger.write("step", host=host, ahead=ahead)
        await asyncio.sleep(seconds)
        faults.set_clock(0)
        self._ledger.write("step", host=host, ahead=0.0)

    async def full(self, host: str, seconds: float) -> None:
        """Fill a host's disk for a while."""
        self._full_until[host] = time.monotonic() + seconds + _FULL_GRACE_S
        self._hosts[host].fill_disk(full=True)
        self._ledger.write("full", host=host, seconds=seconds)
        await asyncio.sleep(seconds)
        self._hosts[host].fill_disk(full=False)
        self._ledger.write("emptied", host=host)

    async def unread(self, name: str, seconds: float) -> None:
        """Start a process again with a log that is not read for a while, small as pipes get."""
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        with self._lock:
            for ended in self._end([name]):
                self._run(ended, writer, "--log-level=DEBUG")
        os.close(writer)
        self._ledger.write("unread", name=name, seconds=seconds)
        await asyncio.sleep(seconds)
        drain = threading.Thread(target=_drain, args=(reader, self.log(name)), daemon=True)
        drain.start()

    def backup(self, host: str) -> None:
        """Copy a Messaging API's database, as an operator does while it runs."""
        source = sqlite3.connect(self._database(host), timeout=10.0)
        target = sqlite3.connect(self._database(host).with_suffix(".backup"))
        try:
            source.backup(target)
        except sqlite3.Error as error:
            self._ledger.write("trouble", where="backup", host=host, error=str(error))
        else:
            self._ledger.write("backup", host=host)
        finally:
            source.close()
            target.close()

    def restore(self, host: str) -> None:
        """Put the last copy back while the Messaging API is down."""
        copy = self._database(host).with_suffix(".backup")
        if not copy.exists():
            return
        with self._lock:
            for name in self._end([f"mapi:{host}"]):
                for suffix in ("-wal", "-shm"):  # they belong to the database that is replaced
                    Path(f"{self._database(host)}{suffix}").unlink(missing_ok=True)
                shutil.copyfile(copy, self._database(host))
                self._ledger.write("restore", host=host)
                self._run(name)
        copy.unlink()

    def _database(self, host: str) -> Path:
        return self._directory / host / "mapi.sqlite3"

    async def cut(self, name: str, seconds: float, *, frozen: bool) -> None:
        """Cut a link for a while."""
        self._ledger.write("cut", link=name, seconds=seconds, frozen=frozen)
        await self.links[name].cut(seconds, frozen=frozen)
        self._ledger.write("healed", link=name)

    async def close(self) -> None:
        """End all processes and links."""
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
        for process in self._processes.values():
            process.wait()
        for link in self.links.values():
            await link.close()
