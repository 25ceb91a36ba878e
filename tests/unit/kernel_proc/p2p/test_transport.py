"""Dialling names, and the Host header of a WebSocket request."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio

from kernel_proc.p2p import addresses
from kernel_proc.p2p.api import DialError
from kernel_proc.p2p.transport import dial, host_header
from tests.support.aio import trio_test


class Names(trio.abc.HostnameResolver):
    """Names that the test makes up, of one family."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts
        self.families: list[int] = []

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        family: int = 0,
        type: int = 0,  # noqa: A002 - the name in the interface
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        self.families.append(family)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, int(port))) for one in self.hosts]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


async def listener(host: str) -> tuple[trio.SocketListener, int]:
    (one,) = await trio.open_tcp_listeners(0, host=host)
    return one, one.socket.getsockname()[1]


@trio_test()
async def test_every_address_of_a_name_is_tried() -> None:
    """127.0.0.3 and 127.0.0.4 refuse; the last one of the name answers."""
    there, port = await listener("127.0.0.2")
    names = Names("127.0.0.3", "127.0.0.4", "127.0.0.2")
    trio.socket.set_custom_hostname_resolver(names)
    async with there:
        _, tcp = await dial(addresses.parse(f"/dns4/node.example/tcp/{port}"))
        assert tcp.socket.getpeername()[0] == "127.0.0.2"
        assert names.families == [socket.AF_INET]
        await tcp.aclose()


@trio_test()
async def test_a_name_of_which_no_address_answers_is_a_dial_error() -> None:
    there, port = await listener("127.0.0.2")
    await there.aclose()
    trio.socket.set_custom_hostname_resolver(Names("127.0.0.3", "127.0.0.4"))
    with pytest.raises(DialError, match="all attempts to connect"):
        await dial(addresses.parse(f"/dns4/node.example/tcp/{port}"))
    trio.socket.set_custom_hostname_resolver(Names())
    with pytest.raises(DialError, match="no address"):
        await dial(addresses.parse(f"/dns6/node.example/tcp/{port}"))


@pytest.mark.parametrize(
    ("address", "header"),
    [
        ("/ip4/10.0.0.1/tcp/80/ws", "10.0.0.1:80"),
        ("/ip6/2001:db8::1/tcp/8000/ws", "[2001:db8::1]:8000"),
        ("/dns4/node.example/tcp/8000/ws", "node.example:8000"),
        ("/ip6/2001:db8::1/tcp/443/tls/sni/node.example/ws", "node.example:443"),
    ],
)
def test_the_host_header_of_a_websocket(address: str, header: str) -> None:
    assert host_header(addresses.parse(address)) == header
