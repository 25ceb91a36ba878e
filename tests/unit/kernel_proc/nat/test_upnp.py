"""A router that hangs, and one that knows only leases without end."""

from __future__ import annotations

import threading
from random import Random

import pytest

from kernel_proc.nat import upnp
from kernel_proc.nat.gateway import GatewayError, LocalPort
from kernel_proc.nat.upnp import UpnpGateway
from tests.support.aio import trio_test

PORT = LocalPort("tcp", 60000)


class Igd:
    """As miniupnpc's UPnP object, as far as it is used."""

    lanaddr = "192.168.1.5"

    def __init__(self) -> None:
        self.released = threading.Event()
        self.added: list[tuple[object, ...]] = []
        self.refused: dict[int, str] = {}

    def externalipaddress(self) -> str:
        self.released.wait()
        return "8.8.4.4"

    def addportmapping(self, *arguments: object) -> bool:
        external, lease = arguments[0], arguments[-1]
        for key in (external, lease):
            if isinstance(key, int) and key in self.refused:
                raise Exception(self.refused[key])
        self.added.append(arguments)
        return True


@trio_test()
async def test_a_call_that_hangs_is_left_behind_and_no_second_one_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    igd = Igd()
    gateway = UpnpGateway(igd, Random(1))
    with monkeypatch.context() as quick:
        quick.setattr(upnp, "_TIMEOUT", 0.05)
        for _ in range(2):
            with pytest.raises(GatewayError, match="no reply"):
                await gateway.external_ip()
    igd.released.set()
    assert await gateway.external_ip() == "8.8.4.4"


@trio_test()
async def test_a_taken_port_and_a_router_that_knows_only_permanent_leases() -> None:
    igd = Igd()
    gateway = UpnpGateway(igd, Random(1))
    igd.refused = {60000: "ConflictInMappingEntry", 600: "OnlyPermanentLeasesSupported"}
    external, lifetime = await gateway.add(PORT, 60000, 600)
    assert (external != 60000, lifetime) == (True, 600.0)
    assert igd.added == [(external, "TCP", "192.168.1.5", 60000, "logos-mapi", "", 0)]
    igd.refused[600] = "Action not authorized"
    with pytest.raises(GatewayError, match="not authorized"):
        await gateway.add(PORT, 61000, 600)
