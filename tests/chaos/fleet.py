"""The processes of the network: a store between three nodes, and two named apps on each node.

        alpha ──link── store ──link── gamma          alpha ──link── beta, directly
                         └────link── beta

Every connection between kernels goes through a `Link`. Kernels announce an address at which nobody listens:
none of them learns a way round the links.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from ipc_schema.errors import IpcError
from ipc_schema.kernel.methods import NodeInfoReply
from ipc_schema.paths import kernel_endpoints, mapi_endpoints
from logos_client._connection import RequestConnection
from tests.chaos.ledger import Ledger, read_ledger
from tests.chaos.proxy import Link

__all__ = ["APPS", "GROUPS", "LINKS", "NODES", "Fleet", "FleetError"]

NODES: Final = ("alpha", "beta", "gamma")
STORE: Final = "store"
APPS: Final = tuple(f"{node}-{number}" for node in NODES for number in (1, 2))
LINKS: Final = (*(f"{node}~{STORE}" for node in NODES), "alpha~beta")
GROUPS: Final = (
    tuple(f"kernel:{node}" for node in NODES),
    (f"kernel:{STORE}",),
    tuple(f"mapi:{node}" for node in NODES),
    tuple(f"app:{app}" for app in APPS),
)
"""The processes by kind, as the plan wants them."""

_ROOT: Final = Path(__file__).parents[2]
_NOBODY: Final = "/ip4/127.0.0.1/tcp/9"
_START_S: Final = 60.0


class FleetError(Exception):
    """The network does not come up, or a process ended by itself: the run is worth nothing."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _ask(endpoint: str, method: str, body: dict[str, object] | None = None) -> dict[str, object] | None:
    """One request on a socket; None when nobody answers well."""
    connection = RequestConnection(endpoint)
    try:
        return dict((await connection.request(method, body, timeout=1.0)).body)
    except IpcError:
        return None
    finally:
        await connection.close()


class Fleet:
    """All processes and links. Names are `kernel:<node>`, `mapi:<node>`, `app:<app>`."""

    def __init__(self, directory: Path, ledger: Ledger, topics: Sequence[str], rate: float) -> None:
        """`rate`: messages a second, of all apps together."""
        self.links: dict[str, Link] = {}
        self._directory = directory
        self._ledger = ledger
        self._topics = list(topics)
        self._rate = rate
        self._ports = {name: _free_port() for name in (STORE, "alpha")}
        self._commands: dict[str, list[str]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    # -- coming up ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start everything; returns when every app is subscribed and every kernel has a mesh peer."""
        for name in LINKS:
            near, far = name.split("~")
            target = far if far == STORE else near
            self.links[name] = Link(name, self._ports[target])
            await self.links[name].start()
        peer_ids: dict[str, str] = {}
        # Each kernel dials those started before it.
        for node in (STORE, *NODES):
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
        if node == STORE:
            options += ["--store=true", "--shard=0"]
        self._launch(f"kernel:{node}", "kernel_proc", f"--data-dir={self._directory / node}", *options)

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

    def _run(self, name: str) -> None:
        path = os.pathsep.join(map(str, (_ROOT, _ROOT / "client", _ROOT / "deploy")))
        with self.log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self._commands[name],
                cwd=_ROOT,
                env={**os.environ, "PYTHONPATH": path},
                stdout=log,
                stderr=log,
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
                endpoint, hello=lambda: {"kind": "tool", "name": "chaos", "protocol": [1, 1]}
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
        """Raises FleetError if a process has ended that nobody killed."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                tail = self.log(name).read_text(errors="replace")[-3000:]
                raise FleetError(f"{name} ended by itself with {process.returncode}:\n{tail}")

    def kill(self, names: Sequence[str]) -> None:
        """SIGKILL these processes together, and start each again at once."""
        self.check_alive()
        for name in names:
            self._ledger.write("kill", name=name, pid=self._processes[name].pid)
            self._processes[name].kill()
        for name in names:
            self._processes[name].wait()
            self._run(name)

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
