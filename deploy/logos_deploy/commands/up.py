"""`logos up`: run a node in the foreground, under supervision, until a signal stops it.

Blocked output never blocks it (`unblocked_output`): the node runs on without a reader, and a signal still
stops it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from logos_deploy.control import wait_addresses, wait_bridge, wait_ready
from logos_deploy.exits import CommandError, Exit
from logos_deploy.node.follow import LogFollower
from logos_deploy.node.host_checks import check_host
from logos_deploy.node.plan import NodePlan, NodeRequest, plan_node
from logos_deploy.node.ports import PortInUseError
from logos_deploy.node.processes import OWN_VARIABLES
from logos_deploy.node.rpc import RpcError
from logos_deploy.node.supervisor import NodeInUseError, Supervisor, SupervisorError
from logos_deploy.node.takeover import split_words, take_over
from logos_deploy.node.watch import BRIDGE, GATEWAY, NodeWatch, WatchVerdict
from logos_process.config_file import read_text, read_toml
from logos_process.exits import ExitCode, StartError
from logos_process.service_manager import ServiceManager
from logos_process.stopping import stop_signals

HELP: Final = "run a node (kernel and Messaging API) in the foreground, under supervision"

_LOOK: Final = 0.2
"""Poll interval of the log files in seconds. supervisord is asked only when its own log has grown."""
_LABEL_WIDTH: Final = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_node(parser)
    add_start(parser)


def add_start(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say whether the node is started at all."""
    parser.add_argument("--check", action="store_true", help="check the configuration and start nothing")
    parser.add_argument(
        "--write-only",
        action="store_true",
        help="check it and write supervisord's file, start nothing, and print how to run it",
    )


def add_node(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that describe a node to run."""
    parser.add_argument("--preset", help="network to join; without it a local network on loopback")
    parser.add_argument(
        "--mode",
        metavar="core|edge",
        help="core relays, edge uses the services of other nodes (default: core)",
    )
    parser.add_argument("--kernel-only", action="store_true", help="no Messaging API")
    parser.add_argument("--data-dir", metavar="DIR", help="what must survive a restart (default: ./data)")
    parser.add_argument(
        "--config-file", metavar="FILE", help="TOML with [kernel], [mapi], [gateway] and [bridge]"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="any option of any process (all that have it get it; kernel.key or mapi.key for one)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Check everything, then start the node of `up` or `node`, then stay until its end."""
    # First: the processes of the node are not the service that systemd started.
    manager = ServiceManager.take(os.environ)
    plan, environ = _plan(arguments)
    check_host(plan)
    supervisor = Supervisor(plan, environ)
    for warning in plan.warnings if arguments.check else plan.idle:
        print(f"logos: {warning}", file=sys.stderr)
    if arguments.check:
        print("the configuration is valid")
        return Exit.OK
    if arguments.write_only:
        return _write_only(supervisor, environ)
    return asyncio.run(_Foreground(plan, supervisor, manager).run())


def plan_of(arguments: argparse.Namespace) -> NodePlan:
    """Plan the node from `add_node`'s arguments, the environment and the file. Raises `ConfigError`."""
    return _plan(arguments)[0]


def _plan(arguments: argparse.Namespace) -> tuple[NodePlan, Mapping[str, str]]:
    """Return the plan, and the environment that it was made from and its processes need."""
    ours, theirs = split_words(arguments.overrides or ())
    flags = [*theirs, *getattr(arguments, "reference_flags", ())]
    words = ours if arguments.preset is None else [*ours, f"preset={arguments.preset}"]
    taken = take_over(flags, arguments.config_file, os.environ, read_text, words)
    for warning in taken.warnings:
        print(f"logos: {warning}", file=sys.stderr)
    request = NodeRequest(
        preset=arguments.preset,
        mode=arguments.mode,
        kernel_only=arguments.kernel_only or taken.kernel_only,
        data_dir=arguments.data_dir,
        config_file=taken.config_file,
        overrides=ours,
    )
    return plan_node(request, taken.environ, read_toml, Path.cwd()), taken.environ


def _write_only(supervisor: Supervisor, environ: Mapping[str, str]) -> int:
    with _start_errors(supervisor):
        command = supervisor.write_only()
    print(f"written: {supervisor.paths.conf}")
    print(f"run it:  {shlex.join(command)}")
    # the processes read the environment again, inherited from supervisord
    for name in sorted(name for name in environ if name.startswith(OWN_VARIABLES)):
        here = os.environ.get(name) == environ[name]
        print(f"with     {name} in its environment, {'as here' if here else 'as taken over'}")
    return Exit.OK


@contextlib.contextmanager
def _start_errors(supervisor: Supervisor) -> Iterator[None]:
    try:
        yield
    except NodeInUseError as error:
        raise CommandError(Exit.IN_USE, str(error)) from None
    except (PortInUseError, SupervisorError) as error:  # a service manager may try again
        raise CommandError(Exit.FAILED, str(error)) from None
    except OSError as error:
        lasting = StartError.code_of(error.errno) is ExitCode.CONFIG
        raise CommandError(
            Exit.CONFIG if lasting else Exit.FAILED,
            f"data-dir: cannot use {supervisor.paths.directory}: {error}",
        ) from None


class _Foreground:
    """One run of `logos up`."""

    def __init__(self, plan: NodePlan, supervisor: Supervisor, manager: ServiceManager) -> None:
        self._plan = plan
        self._manager = manager
        self._next_sign = 0.0
        self._supervisor = supervisor
        self._controls = {"kernel": plan.kernel.endpoints.control}
        if plan.mapi is not None:
            self._controls["mapi"] = plan.mapi.endpoints.control
        self._programs = [program.name for program in supervisor.programs]
        self._watch = NodeWatch()
        self._ready: set[str] = set()
        self._waiting: dict[str, asyncio.Task[None]] = {}
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._verdict: WatchVerdict | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, self._on_signal, number)
        paths = self._supervisor.paths
        followers = {"supervisor": LogFollower(paths.log)}
        followers |= {name: LogFollower(paths.log_of(name)) for name in self._programs}
        try:
            await self._start()
            await self._stay(followers)
        finally:
            await self._end(followers)
        verdict = self._verdict
        if verdict is None:
            self._say("ended")
            return Exit.OK
        self._say(f"ended: {verdict.reason}")
        return verdict.code

    async def _start(self) -> None:
        self._say(f"data directory {self._plan.data_dir}")
        with _start_errors(self._supervisor):
            await self._supervisor.start()
        await self._look_at_processes()

    async def _stay(self, followers: dict[str, LogFollower]) -> None:
        """Relay the logs until a signal, or until the node ends by itself."""
        while not self._stop.is_set() and self._verdict is None:
            self._stay_alive()
            if self._show(followers):
                await self._look_at_processes()
            if self._supervisor.ended:
                if self._supervisor.ended_in_order:
                    self._verdict = WatchVerdict(Exit.OK, "supervisord was asked to end")
                else:
                    self._verdict = WatchVerdict(Exit.FAILED, "supervisord has ended")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _LOOK)

    def _stay_alive(self) -> None:
        """Show the service manager that this loop turns."""
        now = asyncio.get_running_loop().time()
        if self._manager.interval is not None and now >= self._next_sign:
            self._manager.alive()
            self._next_sign = now + self._manager.interval - _LOOK

    async def _end(self, followers: dict[str, LogFollower]) -> None:
        self._manager.stopping()
        for task in self._waiting.values():
            task.cancel()
        stopping = asyncio.create_task(self._supervisor.stop())
        hurry = asyncio.create_task(self._hurry.wait())
        while not stopping.done():
            await asyncio.wait({stopping, hurry}, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
            if hurry.done() and not stopping.done():
                self._say("killing the remaining processes")
                stopping.cancel()
                await asyncio.wait({stopping})
            self._show(followers)
        hurry.cancel()
        self._show(followers)
        for follower in followers.values():
            follower.close()
        if not stopping.cancelled():
            stopping.result()

    def _on_signal(self, number: int) -> None:
        if self._stop.is_set():
            self._hurry.set()
        else:
            self._say(f"{signal.Signals(number).name}: stopping the node (repeat to kill it)")
            self._stop.set()

    # -- processes -------------------------------------------------------------------------------------------

    async def _look_at_processes(self) -> None:
        try:
            states = await self._supervisor.processes()
        except RpcError:
            return  # ending, or busy: its log will grow again
        now = asyncio.get_running_loop().time()
        for name, pid, again in self._watch.started(now, states):
            if again:
                self._ready.discard(name)
                self._say(f"{name} was restarted, process {pid}")
            if name in self._waiting:
                self._waiting[name].cancel()
            self._waiting[name] = asyncio.create_task(self._announce(name, pid))
        self._verdict = self._verdict or self._watch.verdict(now, states)

    async def _announce(self, name: str, pid: int) -> None:
        if name == GATEWAY:
            addresses = await wait_addresses(self._plan.kernel.ipc_dir, pid)
            served = ", ".join(f"{what} at {url}" for what, url in addresses.items())
            self._say(f"{name} is ready, process {pid}: {served}")
            return
        if name == BRIDGE:
            await wait_bridge(self._plan.kernel.ipc_dir, pid)
            self._say(f"{name} is ready, process {pid}")
            return
        health = await wait_ready(self._controls[name], pid=pid)
        self._ready.add(name)
        self._say(f"{name} is ready, process {pid}, version {health.version}")
        if self._ready == self._controls.keys():
            self._say(_invitation(self._plan))
            self._manager.ready("the node is ready")

    # -- output ----------------------------------------------------------------------------------------------

    def _show(self, followers: dict[str, LogFollower]) -> bool:
        """Print new output. Return whether supervisord logged something."""
        news = False
        for name, follower in followers.items():
            while lines := follower.read():
                news = news or name == "supervisor"
                for line in lines:
                    self._print(name, line)
        return news

    def _say(self, text: str) -> None:
        self._print("logos", text)

    def _print(self, label: str, line: str) -> None:
        print(f"{label:<{_LABEL_WIDTH}} | {line}")


def _invitation(plan: NodePlan) -> str:
    if plan.mapi is None:
        return f"the node is ready: tools connect to {plan.kernel.endpoints.requests}"
    return f"the node is ready: apps connect to {plan.mapi.endpoints.apps}"
