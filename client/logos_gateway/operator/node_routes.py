"""`/gateway/v1` and the list of all apps: what the dashboard needs in addition to the live stream."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ipc_schema.config.kinds import LOG_LEVELS
from logos_client.control import ControlClient
from logos_gateway.bodies import json_response, own_body
from logos_gateway.http_access import scopes_of
from logos_gateway.json_values import BadBody, decode_json
from logos_gateway.operator.app_list import list_apps
from logos_gateway.problems import ProblemError
from logos_gateway.state import gateway_of

router = APIRouter()


@router.get("/gateway/v1/about", tags=["gateway"], summary="What this gateway serves, and to this token")
async def about(request: Request) -> Response:
    """Return `{version, scopes, rest, admin, messagingApi, kernel, network?}`; `scopes` are the token's."""
    gateway = gateway_of(request)
    config, links = gateway.config, gateway.links
    shown: dict[str, Any] = {
        "version": request.app.version,
        "scopes": sorted(scopes_of(request)),
        "rest": config.options.rest,
        "admin": config.options.rest_admin,
        "messagingApi": config.mapi is not None,
        "kernel": links.kernel_seen and links.kernel.connected,
    }
    if links.kernel_seen:
        network = links.kernel.network
        shown["network"] = {
            "cluster": network.cluster,
            "shardCount": network.shard_count,
            "maxMessageSize": network.max_message_size,
            "preset": network.preset,
        }
    return json_response(shown)


@router.get("/apps/v1", tags=["apps"], summary="All apps of the node")
async def apps(request: Request) -> Response:
    """Return `{apps, total, sends: {sends, total, states}}`: apps with backlog and position, the longest
    backlog first; sends that are not final, the oldest first."""
    endpoints = gateway_of(request).config.mapi
    if endpoints is None:
        raise ProblemError(503, "not_ready", "this node has no Messaging API")
    async with ControlClient.connect(endpoints.control) as control:
        return json_response(await list_apps(control))


@router.put("/gateway/v1/log-level", tags=["gateway"], summary="Set the log level of the node's processes")
async def log_level(request: Request) -> Response:
    """Body: `{level}`. 200 `{previous}`: process to its previous level. Needs `rest-admin`."""
    gateway = gateway_of(request)
    if not gateway.config.options.rest_admin:
        raise ProblemError(403, "unauthorised", "the log level can be set with rest-admin only")
    level = await _level(request)
    endpoints = {"kernel": gateway.config.kernel.control}
    if gateway.config.mapi is not None:
        endpoints["mapi"] = gateway.config.mapi.control
    previous: dict[str, str] = {}
    for process, endpoint in endpoints.items():
        async with ControlClient.connect(endpoint) as control:
            previous[process] = await control.set_log_level(level)
    return json_response({"previous": previous})


async def _level(request: Request) -> str:
    try:
        value = decode_json(await own_body(request, 1024))
        level = value.get("level") if isinstance(value, dict) else None
        if not isinstance(level, str) or level.upper() not in LOG_LEVELS:
            raise BadBody(f"level: one of {', '.join(LOG_LEVELS)} is needed")
    except BadBody as error:
        raise ProblemError(400, "bad_request", str(error)) from None
    return level.upper()
