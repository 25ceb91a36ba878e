"""Control methods on a socket of their own, never behind queued work (SPEC.md, 3.4 and 4.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ipc_schema.control import (
    HEALTH,
    LOG_LEVEL,
    METRICS,
    SHUTDOWN,
    LogLevelReply,
    LogLevelRequest,
    MetricsReply,
)
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.mapi.control import APPS, SENDS, AppsReply, SendsReply
from ipc_schema.server import Answer, Call, Route, answer
from logos_process import logs
from logos_process.logs import LogLevelError


def control_routes(
    health: Callable[[], Mapping[str, object]],
    metrics: Callable[[], MetricsReply],
    shutdown: Callable[[], None],
    apps: Callable[[], AppsReply],
    sends: Callable[[], SendsReply],
) -> Mapping[str, Route]:
    """Build the methods of the control socket. `health()` returns the body of its reply."""

    def stop(_call: Call) -> Answer:
        shutdown()
        return answer()

    def log_level(call: Call) -> Answer:
        wanted = call.read(LogLevelRequest)
        try:
            previous = logs.set_level(wanted.level, wanted.logger)
        except LogLevelError as error:
            raise IpcError(ErrorCode.BAD_REQUEST, str(error)) from error
        return answer(LogLevelReply(previous=previous).to_body())

    return {
        HEALTH: Route(lambda _call: answer(health()), needs_hello=False),
        METRICS: Route(lambda _call: answer(metrics().to_body()), needs_hello=False),
        SHUTDOWN: Route(stop, needs_hello=False),
        LOG_LEVEL: Route(log_level, needs_hello=False),
        APPS: Route(lambda _call: answer(apps().to_body()), needs_hello=False),
        SENDS: Route(lambda _call: answer(sends().to_body()), needs_hello=False),
    }
