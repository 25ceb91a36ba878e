"""`/health`, `/info`, `/version` and their older spellings."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from ipc_schema.kernel.records import NodeHealth, ProtocolState
from logos_client.control import ControlClient
from logos_client.exceptions import LogosError
from logos_gateway.bodies import json_response
from logos_gateway.state import Gateway, gateway_of, kernel_for

router = APIRouter(tags=["node"])

_HEALTH_SECONDS: Final = 5.0
_D_LOW: Final = 4


@router.get("/health", summary="Health of the node and of each protocol")
async def health(request: Request) -> Response:
    """`{nodeHealth, connectionStatus, protocolsHealth: [{<protocol>: <state>, desc?}]}`; 500 after 5 s."""
    gateway = gateway_of(request)
    if not gateway.links.kernel_seen:
        return json_response(_body(ProtocolState.INITIALIZING, "Disconnected", ()))
    try:
        async with asyncio.timeout(_HEALTH_SECONDS):
            found = await gateway.links.kernel.health()
            status = await connection_status(gateway, found)
    except TimeoutError:  # a DeadlineError of the client is one too
        return PlainTextResponse("Health check timed out", 500)
    except LogosError:  # the kernel is gone for now: that is an answer, not a failure of ours
        return json_response(_body(ProtocolState.NOT_READY, "Disconnected", ()))
    protocols = (
        {protocol.name: protocol.state, **({"desc": protocol.description} if protocol.description else {})}
        for protocol in found.protocols
    )
    return json_response(_body(found.state, status, tuple(protocols)))


def _body(state: str, connection: str, protocols: tuple[dict[str, str], ...]) -> dict[str, Any]:
    return {"nodeHealth": state, "connectionStatus": connection, "protocolsHealth": list(protocols)}


async def connection_status(gateway: Gateway, health: NodeHealth) -> str:
    """Return the Messaging API's status, or without one its rule for core nodes applied to the relay's
    peers."""
    if gateway.links.mapi_endpoints is not None:
        try:
            async with ControlClient.connect(gateway.links.mapi_endpoints.control, timeout=1.0) as control:
                status = (await control.health_details(timeout=1.0)).get("connection")
            if isinstance(status, str):
                return status
        except LogosError:
            return "Disconnected"
    peers = next((one.strength for one in health.protocols if one.name == "Relay"), 0)
    return "Connected" if peers >= _D_LOW else "PartiallyConnected" if peers else "Disconnected"


@router.get("/info", summary="Listen addresses and node record")
@router.get("/debug/v1/info", include_in_schema=False)
async def info(request: Request) -> Response:
    """`{listenAddresses, enrUri}`."""
    facts = await kernel_for(request, "/info").info(["MyMultiaddresses", "MyENR"])
    addresses = facts["MyMultiaddresses"]
    listed = addresses.split(",") if isinstance(addresses, str) else addresses
    return json_response({"listenAddresses": listed, "enrUri": facts["MyENR"]})


@router.get("/version", summary="Version of the node, as text")
@router.get("/debug/v1/version", include_in_schema=False)
async def version(request: Request) -> Response:
    """Return the kernel's version as plain text."""
    facts = await kernel_for(request, "/version").info(["Version"])
    return PlainTextResponse(str(facts["Version"]))
