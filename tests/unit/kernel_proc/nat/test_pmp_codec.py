"""NAT-PMP: bytes as a router exchanges them, and replies that are none."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from kernel_proc.nat.pmp_codec import (
    Granted,
    PmpError,
    address_request,
    default_gateway,
    map_request,
    read_reply,
)

# What miniupnpd 2.3.1 answered.
ADDRESS_REPLY = bytes.fromhex("0080 0000 00000007 19090001")
TCP_REPLY = bytes.fromhex("0082 0000 00000007 ea60 ea61 00000258")
ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
w0\t00000000\t0107A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
e3\t00000000\t0108A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
e4\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0
e3\t0007A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


def test_requests_and_replies() -> None:
    assert address_request().hex() == "0000"
    assert read_reply(address_request(), ADDRESS_REPLY) == IPv4Address("25.9.0.1")
    request = map_request("tcp", 60000, 60001, 600)
    assert request.hex(" ", 2) == "0002 0000 ea60 ea61 0000 0258"
    assert read_reply(request, TCP_REPLY) == Granted(60000, 60001, 600)
    assert map_request("udp", 60000, 60001, 0).hex(" ", 2) == "0001 0000 ea60 0000 0000 0000"


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("", "0 bytes"),
        ("0182000000000007ea60ea6100000258", "version 1"),
        ("0081000000000007ea60ea6100000258", "opcode 1"),
        ("0082000200000007", "turned off"),
        ("0082006300000007", "result 99"),
        ("0082000000000007ea60ea61", "12 bytes"),
        ("0082000000000007ea5fea6100000258", "port 59999"),
    ],
)
def test_a_reply_to_something_else_is_refused(reply: str, why: str) -> None:
    with pytest.raises(PmpError, match=why):
        read_reply(map_request("tcp", 60000, 60001, 600), bytes.fromhex(reply))


def test_the_default_gateway_is_that_of_the_lowest_metric() -> None:
    assert default_gateway(ROUTES) == IPv4Address("192.168.8.1")
    assert default_gateway(ROUTES.splitlines()[0]) is None
