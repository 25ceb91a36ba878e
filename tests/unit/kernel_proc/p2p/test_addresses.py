from __future__ import annotations

import pytest

from kernel_proc.ip_group import ip_group
from kernel_proc.p2p import addresses
from kernel_proc.p2p._libp2p import Multiaddr
from kernel_proc.p2p.api import BadAddress

PEER = "16Uiu2HAmTUbnxLGT9JvV6mu9oPyDjqHK4Phs1VDJNUgESgNSkuby"


@pytest.mark.parametrize(
    ("text", "kind", "host", "port", "transport", "peer"),
    [
        ("/ip4/127.0.0.1/tcp/60000", "ip4", "127.0.0.1", 60000, "", None),
        (f"/ip4/10.0.0.1/tcp/1/ws/p2p/{PEER}", "ip4", "10.0.0.1", 1, "/ws", PEER),
        (f"/dns4/node.example.org/tcp/30303/p2p/{PEER}", "dns4", "node.example.org", 30303, "", PEER),
        ("/ip6/::1/tcp/0", "ip6", "::1", 0, "", None),
        ("/dns4/my_node.example/tcp/1", "dns4", "my_node.example", 1, "", None),
        (f"/dns4/node.example/tcp/443/wss/p2p/{PEER}", "dns4", "node.example", 443, "/wss", PEER),
        (f"/ip4/10.0.0.1/tcp/1/ipfs/{PEER}", "ip4", "10.0.0.1", 1, "", PEER),
    ],
)
def test_parse(text: str, kind: str, host: str, port: int, transport: str, peer: str | None) -> None:
    endpoint = addresses.parse(text)
    assert (endpoint.kind, endpoint.host, endpoint.port, endpoint.transport) == (kind, host, port, transport)
    assert (endpoint.peer_id.to_base58() if endpoint.peer_id else None) == peer
    assert text.startswith(endpoint.text())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "/ip4/300.0.0.1/tcp/1",
        "/ip4/127.0.0.1/udp/1/quic-v1",
        "/ip4/127.0.0.1",
        "/ip4/127.0.0.1/tcp/70000",
        "/ip4/127.0.0.1/tcp/1/tls",
        "/ip4/127.0.0.1/tcp/1/tls/sni/a b/ws",
        f"/ip4/127.0.0.1/tcp/1/p2p/{PEER[:-1]}",
        "/ip6/fe80::1%lo/tcp/1",
        "/ip4/127.0.0.1/tcp/1/p2p/notapeer",
        f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}/p2p-circuit",
    ],
)
def test_what_cannot_be_dialled_is_a_bad_address(text: str) -> None:
    with pytest.raises(BadAddress):
        addresses.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/127.0.0.1/tcp/61108",
        "/ip6/2001:db8::1/tcp/1/ws",
        f"/dns4/node.example.org/tcp/443/wss/p2p/{PEER}",
        f"/dns6/{'a' * 60}.{'b' * 60}.{'c' * 60}/tcp/65535/p2p/{PEER}",
        "/dns/x.example/tcp/1/p2p/12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5",
        "/ip4/1.2.3.4/tcp/1/p2p/QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC",
    ],
)
def test_the_binary_form_is_that_of_the_library(text: str) -> None:
    assert addresses.to_bytes(text) == Multiaddr(text).to_bytes()
    assert addresses.from_bytes(addresses.to_bytes(text)) == text


def test_the_forms_of_a_secure_websocket() -> None:
    assert addresses.parse("/dns4/a.example/tcp/443/tls/ws").text() == "/dns4/a.example/tcp/443/wss"
    named = "/ip4/192.0.2.1/tcp/443/tls/sni/a.example/ws"
    endpoint = addresses.parse(f"{named}/p2p/{PEER}")
    assert (endpoint.transport, endpoint.certified, endpoint.text()) == ("/wss", "a.example", named)
    assert addresses.to_bytes(named) == Multiaddr(named).to_bytes()
    # What was dialled by name is known by address and name; a certificate for the address needs no name.
    sockaddr = ("192.0.2.1", 443)
    assert addresses.reached(addresses.parse("/dns4/a.example./tcp/443/wss"), sockaddr).text() == named
    plain = "/ip4/192.0.2.1/tcp/443/wss"
    assert addresses.reached(addresses.parse(plain), sockaddr).text() == plain


def test_what_the_library_refuses_in_a_name_can_be_announced() -> None:
    raw = addresses.to_bytes("/dns4/my_node.example/tcp/1")
    assert raw == b"\x36\x0fmy_node.example\x06\x00\x01"


def test_binary_form_goes_both_ways_and_garbage_is_none() -> None:
    text = "/ip4/127.0.0.1/tcp/61108/ws"
    assert addresses.from_bytes(addresses.to_bytes(text)) == text
    assert addresses.from_bytes(b"\xff\xff\xff") is None


def test_sockets_addresses_are_shown_plainly() -> None:
    assert addresses.from_sockaddr(("::ffff:10.1.2.3", 5, 0, 0), "/ws").text() == "/ip4/10.1.2.3/tcp/5/ws"
    assert addresses.from_sockaddr(("fe80::1%eth0", 5, 0, 2), "").text() == "/ip6/fe80::1/tcp/5"


def test_one_ipv6_host_commands_a_whole_64() -> None:
    assert ip_group("2001:db8:1:2:3::4") == ip_group("2001:db8:1:2:ffff::1")
    assert ip_group("2001:db8:1:2::1") != ip_group("2001:db8:1:3::1")
    assert ip_group("10.0.0.1") != ip_group("10.0.0.2")


def test_a_wildcard_is_advertised_as_real_addresses() -> None:
    assert addresses.reachable_forms(addresses.parse("/ip4/127.0.0.1/tcp/9")) == ["/ip4/127.0.0.1/tcp/9"]
    forms = addresses.reachable_forms(addresses.parse("/ip4/0.0.0.0/tcp/9/ws"))
    assert "/ip4/127.0.0.1/tcp/9/ws" in forms
    assert not any("0.0.0.0" in form for form in forms)
