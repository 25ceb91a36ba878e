"""Rules for IP addresses."""

from __future__ import annotations

import random

import pytest

from kernel_proc.discovery.discv5.endpoint import (
    NodeContact,
    UdpEndpoint,
    contact_of,
    group_of,
    is_loopback,
    may_relay,
)
from kernel_proc.discovery.enr import sign_record
from kernel_proc.discovery.enr_identity import Identity

ME = Identity(random.Random(1).randbytes(32))
BOTH = frozenset({4, 6})


def test_an_endpoint_has_one_form() -> None:
    assert UdpEndpoint.of("::ffff:192.0.2.1", 1) == UdpEndpoint("192.0.2.1", 1)
    assert UdpEndpoint.of("fe80::1%eth0", 1) == UdpEndpoint("fe80::1", 1)
    assert UdpEndpoint.of("2001:DB8:0::1", 1) == UdpEndpoint("2001:db8::1", 1)
    assert (UdpEndpoint("192.0.2.1", 1).version, UdpEndpoint("::1", 1).version) == (4, 6)
    assert UdpEndpoint("192.0.2.1", 1).packed == bytes((192, 0, 2, 1))
    with pytest.raises(ValueError):
        UdpEndpoint.of("example.org", 1)


def test_how_a_node_is_reached() -> None:
    four = {b"ip": bytes((192, 0, 2, 1)), b"udp": b"\x23\x28"}
    six = {b"ip6": bytes(15) + b"\1", b"udp6": b"\x23\x29"}
    dual = sign_record(ME, 1, four | six)
    assert contact_of(dual, BOTH) == NodeContact(ME.node_id, UdpEndpoint("192.0.2.1", 9000))
    assert contact_of(dual, frozenset({6})) == NodeContact(ME.node_id, UdpEndpoint("::1", 9001))
    assert contact_of(sign_record(ME, 1, six), frozenset({4})) is None
    assert contact_of(sign_record(ME, 1, {b"ip": bytes((192, 0, 2, 1))}), BOTH) is None
    assert contact_of(sign_record(ME, 1, {b"udp": b"\1"}), BOTH) is None


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("8.8.8.8", "8.8.8.0/24"),
        ("8.8.8.9", "8.8.8.0/24"),
        ("2600:1::1", "2600:1::/64"),
        ("10.0.0.7", "10.0.0.7"),
        ("192.168.1.7", "192.168.1.7"),
        ("127.0.0.1", "127.0.0.1"),
        ("fd00::7", "fd00::7"),
    ],
)
def test_neighbours_in_the_internet_are_one_group(host: str, group: str) -> None:
    assert group_of(host) == group


@pytest.mark.parametrize(
    ("host", "source", "believed"),
    [
        ("8.8.8.8", "9.9.9.9", True),
        ("8.8.8.8", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("::1", "::1", True),
        ("127.0.0.1", "8.8.8.8", False),
        ("127.0.0.1", "10.0.0.1", False),
        ("10.0.0.7", "10.0.0.1", True),
        ("10.0.0.7", "127.0.0.1", True),
        ("10.0.0.7", "8.8.8.8", False),
        ("169.254.1.1", "8.8.8.8", False),
        ("fe80::1", "2600::1", False),
        ("0.0.0.0", "8.8.8.8", False),
        ("::", "::1", False),
        ("224.0.0.1", "8.8.8.8", False),
        ("255.255.255.255", "10.0.0.1", False),
        ("240.0.0.1", "8.8.8.8", False),
    ],
)
def test_addresses_of_a_private_network_stay_there(host: str, source: str, believed: bool) -> None:
    assert may_relay(host, source) is believed


def test_loopback() -> None:
    assert is_loopback("127.8.9.1")
    assert is_loopback("::1")
    assert not is_loopback("10.0.0.1")
