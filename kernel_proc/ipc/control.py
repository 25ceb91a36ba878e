"""The control socket: health, shutdown, log level. It has its own socket and task, and every request is
answered immediately, so that it never waits behind queued work."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence

import trio

from ipc_schema.control import (
    HEALTH,
    LOG_LEVEL,
    METRICS,
    SHUTDOWN,
    ControlHealthReply,
    HealthRequest,
    LogLevelReply,
    LogLevelRequest,
    MetricsReply,
)
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.server import Answer, Call, Route
from kernel_proc.health import HealthMonitor
from logos_process import logs


def health_body(health: HealthMonitor, version: str, started: float) -> dict[str, object]:
    """Return the body of a `health` reply. `started` is on the trio clock."""
    current = health.current()
    body = ControlHealthReply(
        ready=health.ready,
        state=current.state,
        version=version,
        pid=os.getpid(),
        uptime_ms=int((trio.current_time() - started) * 1000),
    ).to_body()
    body["health"] = current.to_body()
    body["log_level"] = logs.level()
    return body


def control_routes(
    *,
    health: HealthMonitor,
    version: str,
    started: float,
    shutdown: Callable[[str], None],
    sockets: Callable[[], Sequence[str]],
    metrics: Callable[[], MetricsReply],
) -> Mapping[str, Route]:
    """Return the control methods. `started` is on the trio clock; `sockets` returns what the process listens
    on.

    `health {detail: true}` also reports tasks, threads, listening sockets and loaded modules.
    """

    def health_method(call: Call) -> Answer:
        detail = call.read(HealthRequest).detail
        body = health_body(health, version, started)
        if detail:
            body["detail"] = {
                "tasks": task_names(),
                "threads": sorted(thread.name for thread in threading.enumerate()),
                "sockets": list(sockets()),
                "modules": sorted(sys.modules),
                "asyncio_loop": _asyncio_loop(),
            }
        return body, ()

    def stop(_call: Call) -> Answer:
        shutdown("requested on the control socket")
        return {}, ()

    def log_level(call: Call) -> Answer:
        request = call.read(LogLevelRequest)
        try:
            previous = logs.set_level(request.level, request.logger)
        except logs.LogLevelError as error:
            raise IpcError(ErrorCode.BAD_REQUEST, str(error)) from error
        return LogLevelReply(previous=previous).to_body(), ()

    def report_metrics(_call: Call) -> Answer:
        return metrics().to_body(), ()

    routes = {HEALTH: health_method, SHUTDOWN: stop, LOG_LEVEL: log_level, METRICS: report_metrics}
    return {name: Route(handler, needs_hello=False) for name, handler in routes.items()}


def _asyncio_loop() -> bool:
    """Return whether an asyncio loop runs in this thread. Checked only if some library has imported
    asyncio: we never do."""
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None  # noqa: SLF001 - documented for this


def task_names() -> list[str]:
    """Return the sorted names of all trio tasks, without trio's own."""
    root = trio.lowlevel.current_root_task()
    names: list[str] = []
    waiting = [] if root is None else [root]
    while waiting:
        task = waiting.pop()
        for nursery in task.child_nurseries:
            waiting.extend(nursery.child_tasks)
        names.append(task.name)
    return sorted(name for name in names if not name.startswith("<init>"))
