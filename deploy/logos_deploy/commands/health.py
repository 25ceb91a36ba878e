"""`logos health`: are the processes of a node ready? For scripts and supervisors; `status` is more
readable."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass, replace
from typing import Any, Final

from ipc_schema.mapi.methods import ConnectionStatus
from logos_client.exceptions import LogosError
from logos_client.kernel import KernelClient
from logos_deploy.commands.output import print_result
from logos_deploy.commands.where import NodePlace, add_query_options, where
from logos_deploy.control import ControlHealth, ask_health
from logos_deploy.exits import Exit
from logos_deploy.node.running import mapi_is_supervised
from logos_deploy.session import run_interruptible

HELP: Final = "check whether the processes of a node are ready"

_POLL: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReadiness:
    """Answers of the control sockets; None: no answer. `mapi_expected`: there should be a MAPI."""

    kernel: ControlHealth | None
    mapi: ControlHealth | None
    mapi_expected: bool
    connected: bool | None = None
    """Whether the node reaches its network; None: not asked."""

    @property
    def exit(self) -> Exit:
        """Exit code; 0 if the kernel is ready, and so is MAPI where there is or should be one."""
        if self.kernel is None and self.mapi is None:
            return Exit.UNAVAILABLE
        needed = [self.kernel, self.mapi] if self.mapi or self.mapi_expected else [self.kernel]
        ready = all(part is not None and part.common.ready for part in needed)
        return Exit.OK if ready and self.connected is not False else Exit.FAILED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait", type=float, metavar="SECONDS", help="seconds to wait for it to become ready (default: 0)"
    )
    parser.add_argument(
        "--connected",
        action="store_true",
        help="ready only with a network: with MAPI a connection status other than Disconnected, else a peer",
    )
    add_query_options(parser, seconds=2.0)


def run(arguments: argparse.Namespace) -> int:
    return run_interruptible(_health(where(arguments), arguments))


async def _health(place: NodePlace, arguments: argparse.Namespace) -> int:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (arguments.wait or 0.0)
    while True:
        found = await ask_both(place, arguments.timeout)
        if arguments.connected:
            found = replace(found, connected=await _is_connected(found, place, arguments.timeout))
        if found.exit is Exit.OK or loop.time() >= deadline:
            break
        await asyncio.sleep(_POLL)
    print_result(arguments, as_json(found), as_text(found, place))
    return found.exit


async def ask_both(place: NodePlace, timeout: float) -> NodeReadiness:
    """Ask both control sockets concurrently."""
    async with asyncio.TaskGroup() as group:
        kernel = group.create_task(ask_health(place.kernel.control, timeout))
        mapi = group.create_task(ask_health(place.mapi.control, timeout))
    return NodeReadiness(
        kernel=kernel.result(), mapi=mapi.result(), mapi_expected=mapi_is_supervised(place.supervisor)
    )


async def _is_connected(found: NodeReadiness, place: NodePlace, timeout: float) -> bool:
    if found.mapi is not None:
        return str(found.mapi.more.get("connection")) != ConnectionStatus.DISCONNECTED
    try:
        async with KernelClient.connect(place.kernel, timeout=timeout) as client:
            return bool(await client.peers())
    except (LogosError, TimeoutError):
        return False


def as_json(found: NodeReadiness) -> dict[str, Any]:
    """Return `{ready, kernel: {ready, state, …} or null, mapi: …}`."""
    parts = {"kernel": found.kernel, "mapi": found.mapi}
    return {
        "ready": found.exit is Exit.OK,
        **({} if found.connected is None else {"connected": found.connected}),
        **{name: part and part.common.to_body() for name, part in parts.items()},
    }


def as_text(found: NodeReadiness, place: NodePlace) -> list[str]:
    """Format a line for each process that exists or should."""
    lines = [_line("kernel", found.kernel, place.kernel.control)]
    if found.mapi is not None or found.mapi_expected:
        lines.append(_line("mapi", found.mapi, place.mapi.control))
    if found.connected is not None:
        lines.append(f"network {'connected' if found.connected else 'not connected'}")
    return lines


def _line(name: str, health: ControlHealth | None, endpoint: str) -> str:
    if health is None:
        return f"{name:<7} no answer at {endpoint}"
    state = health.common.state
    why = str(health.more.get("reason") or "")
    return f"{name:<7} {state if health.common.ready else f'not ready: {state}'}{f' ({why})' if why else ''}"
