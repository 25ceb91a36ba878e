"""node.health, node.info, node.config, node.metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.kernel.methods import (
    NODE_CONFIG,
    NODE_HEALTH,
    NODE_METRICS,
    NodeConfigReply,
    NodeMetricsReply,
    OptionRecord,
)
from ipc_schema.node_info import NODE_INFO, NodeInfoReply, NodeInfoRequest
from ipc_schema.server import Answer, Call, Route
from kernel_proc.health import HealthMonitor
from kernel_proc.metrics import Registry


def node_routes(
    *,
    health: HealthMonitor,
    registry: Registry,
    info: Mapping[str, Callable[[], object]],
    options: Callable[[], list[dict[str, object]]],
) -> Mapping[str, Route]:
    """Return the methods. `info` returns each fact by its id; `options` are the rows of the configuration."""

    def node_health(_call: Call) -> Answer:
        return health.current().to_body(), ()

    def node_info(call: Call) -> Answer:
        wanted = call.read(NodeInfoRequest).ids
        found: dict[str, object] = {}
        for name in info if wanted is None else wanted:
            if name not in info:
                raise IpcError(
                    ErrorCode.BAD_REQUEST, f"node.info: there is no {name!r}, only {', '.join(info)}"
                )
            found[name] = info[name]()
        return NodeInfoReply(info=found).to_body(), ()

    def node_config(_call: Call) -> Answer:
        # Row by row: keys added to the schema later are not an error here.
        known = OptionRecord.from_body
        return NodeConfigReply(options=tuple(known(row) for row in options())).to_body(), ()

    def node_metrics(_call: Call) -> Answer:
        return NodeMetricsReply(metrics=tuple(registry.collect())).to_body(), ()

    return {
        NODE_HEALTH: Route(node_health),
        NODE_INFO: Route(node_info),
        NODE_CONFIG: Route(node_config),
        NODE_METRICS: Route(node_metrics),
    }
