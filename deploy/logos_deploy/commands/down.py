"""`logos down`: stop the node of a data directory gracefully, and wait until it has ended."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from typing import Final

from ipc_schema.errors import IpcError
from logos_client.control import ControlClient
from logos_client.exceptions import LogosError
from logos_deploy.commands.output import print_json
from logos_deploy.commands.where import NodePlace, add_where, where
from logos_deploy.exits import CommandError, Exit
from logos_deploy.node.handles import ProcessHandle
from logos_deploy.node.rpc import RpcError
from logos_deploy.node.running import (
    BRIDGE,
    FOREGROUND,
    GATEWAY,
    KERNEL,
    MAPI,
    Holder,
    holders,
    supervisor_rpc,
)
from logos_deploy.session import run_interruptible

HELP: Final = "stop the node of a data directory gracefully"

_POLL: Final = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="seconds to wait (default: 30)"
    )
    parser.add_argument("--kill", action="store_true", help="kill what has not ended by then")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_where(parser)


def run(arguments: argparse.Namespace) -> int:
    return run_interruptible(_down(where(arguments, denied=Exit.FAILED), arguments))


async def _down(place: NodePlace, arguments: argparse.Namespace) -> int:
    found = _holders(place)
    with contextlib.ExitStack() as stack:
        handles: dict[str, ProcessHandle] = {}
        _hold(stack, handles, found)
        try:
            how = await _ask(place, found, handles)
        except PermissionError as error:
            raise CommandError(Exit.FAILED, f"the node is another user's: {error}") from None
        left = await _wait(place, arguments.timeout)
        killed = False
        if left and arguments.kill:
            _hold(stack, handles, left)
            killed = sum(handle.kill() for handle in handles.values()) > 0
            left = await _wait(place, 5.0)
    if arguments.json:
        print_json(
            {"ended": not left, "how": how, "killed": killed, "processes": _rows(found), "left": _rows(left)},
        )
    elif not found:
        print(f"no node runs in {place.data_dir}")
    else:
        names = ", ".join(f"{holder.role} (process {holder.pid})" for holder in left or found)
        print(f"{'still running' if left else 'killed' if killed else 'ended'}: {names}")
        if left and arguments.kill and not killed:
            print("not killed: they run where this command cannot see them (another container, another user)")
    return Exit.UNDECIDED if left else Exit.OK


def _rows(holders: list[Holder]) -> list[dict[str, object]]:
    return [{"role": holder.role, "pid": holder.pid} for holder in holders]


def _holders(place: NodePlace) -> list[Holder]:
    try:
        return holders(place.supervisor, place.run_dir, place.mapi_run_dir)
    except PermissionError as error:
        raise CommandError(Exit.FAILED, f"the data directory is another user's: {error}") from None


def _hold(stack: contextlib.ExitStack, handles: dict[str, ProcessHandle], found: list[Holder]) -> None:
    """Add handles of processes that were found."""
    for holder in found:
        known = handles.get(holder.role)
        if known is None or known.pid != holder.pid:
            handle = holder.handle()
            if handle is not None:
                handles[holder.role] = stack.enter_context(handle)


async def _ask(place: NodePlace, found: list[Holder], handles: dict[str, ProcessHandle]) -> str:
    """Ask the topmost process, which stops its children in order. Return how it was asked.

    A signal goes only to a process that provably holds the lock. One in another pid namespace is asked
    through its sockets instead, which are reachable over a shared volume.
    """
    if FOREGROUND in handles:
        with contextlib.suppress(ProcessLookupError):
            handles[FOREGROUND].signal(signal.SIGTERM)
        return FOREGROUND
    if not found:
        return "none"
    rpc = supervisor_rpc(place.supervisor)
    if rpc is not None:
        with contextlib.suppress(RpcError):
            await rpc.shutdown()
            return "supervisord"
    for role in (BRIDGE, GATEWAY):  # they have no control socket
        if role in handles:
            with contextlib.suppress(ProcessLookupError):
                handles[role].signal(signal.SIGTERM)
    # Each process on its own: a supervisor takes exit code 0 for a requested stop.
    endpoints = {MAPI: place.mapi.control, KERNEL: place.kernel.control}
    for role in (MAPI, KERNEL):
        if any(holder.role == role for holder in found):
            with contextlib.suppress(LogosError, IpcError):
                async with ControlClient.connect(endpoints[role], timeout=3.0) as control:
                    await control.shutdown(timeout=3.0)
    return "control"


async def _wait(place: NodePlace, seconds: float) -> list[Holder]:
    """Wait until no lock is held. Return who still holds one after the timeout."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        left = _holders(place)
        if not left or asyncio.get_running_loop().time() >= deadline:
            return left
        await asyncio.sleep(_POLL)
