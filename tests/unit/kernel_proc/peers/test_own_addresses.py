"""What the node announces as its addresses; whether it is online, and whether the machine slept."""

from __future__ import annotations

from kernel_proc.peers.own_addresses import OwnAddresses

BOUND = ("/ip4/192.168.1.5/tcp/60000", "/ip4/127.0.0.1/tcp/60000", "/ip4/192.168.1.5/tcp/8000/ws")


def test_bound_addresses_are_announced_loopback_only_if_alone() -> None:
    own = OwnAddresses()
    own.bind(BOUND)
    assert own.announced() == (BOUND[0], BOUND[2])
    assert own.for_record() == own.announced()
    own.bind(BOUND[1:2])
    assert own.announced() == BOUND[1:2]


def test_a_mapped_port_is_announced_as_the_router_has_it() -> None:
    own = OwnAddresses(observing=True)
    own.bind(BOUND)
    assert own.map("8.8.4.4", {60000: 61000})
    assert not own.map("8.8.4.4", {60000: 61000})
    for observer in "abc":
        own.observe(observer, "/ip4/8.8.8.8/tcp/1")
    assert own.for_record() == ("/ip4/8.8.4.4/tcp/61000", "/ip4/8.8.8.8/tcp/8000/ws")
    assert own.map(None, {})
    assert own.for_record() == ("/ip4/8.8.8.8/tcp/60000", "/ip4/8.8.8.8/tcp/8000/ws")


def test_addresses_through_relays_are_announced_but_not_dialled_directly() -> None:
    own = OwnAddresses(observing=True)
    own.bind(BOUND)
    circuit = "/ip4/8.8.8.8/tcp/4001/p2p/16Uiu2HAx/p2p-circuit"
    own.relay([circuit])
    assert own.announced() == (circuit, BOUND[0], BOUND[2])
    assert own.dialable() == (BOUND[0], BOUND[2])
    assert own.for_record() == (circuit,)
    assert not any(own.observe(observer, circuit) for observer in "abc")


def test_an_external_address_goes_with_every_port() -> None:
    own = OwnAddresses(external_ip="8.8.4.4", domain="node.example.org")
    own.bind(BOUND)
    public = (
        "/dns4/node.example.org/tcp/60000",
        "/ip4/8.8.4.4/tcp/60000",
        "/dns4/node.example.org/tcp/8000/ws",
        "/ip4/8.8.4.4/tcp/8000/ws",
    )
    assert own.for_record() == public
    assert own.announced() == (*public, BOUND[0], BOUND[2])


def test_a_secure_websocket_is_announced_by_the_name_of_its_certificate_only() -> None:
    bound = (BOUND[0], "/ip4/192.168.1.5/tcp/8000/wss", "/ip6/fd00::5/tcp/8000/wss")
    named = OwnAddresses(external_ip="8.8.4.4", domain="node.example.org")
    named.bind(bound)
    assert named.announced() == (
        "/dns4/node.example.org/tcp/60000",
        "/ip4/8.8.4.4/tcp/60000",
        "/dns4/node.example.org/tcp/8000/wss",
        BOUND[0],
    )
    named.map("8.8.4.4", {60000: 61000, 8000: 443})
    assert "/dns4/node.example.org/tcp/443/wss" in named.announced()
    assert not any(one.startswith("/ip") and one.endswith("/wss") for one in named.announced())
    nameless = OwnAddresses()
    nameless.bind(bound)
    assert nameless.announced() == bound


def test_only_what_the_operator_says() -> None:
    own = OwnAddresses(external=("/dns4/x.org/tcp/443/wss/p2p/me",), only_external=True, observing=True)
    own.bind(BOUND)
    for observer in "abcd":
        assert not own.observe(observer, "/ip4/8.8.8.8/tcp/5")
    assert own.announced() == ("/dns4/x.org/tcp/443/wss",)


def test_a_quorum_of_places_decides() -> None:
    own = OwnAddresses(observing=True)
    own.bind(BOUND)
    for _ in range(10):
        assert not own.observe("one", "/ip4/9.9.9.9/tcp/5"), "however often one of them says it"
    assert not own.observe("two", "/ip4/8.8.8.8/tcp/5")
    assert not own.observe("three", "/ip4/8.8.8.8/tcp/6")
    assert own.observe("four", "/ip4/8.8.8.8/tcp/7")
    assert own.for_record()[0] == "/ip4/8.8.8.8/tcp/60000"
    assert not own.observe("five", "/ip4/8.8.8.8/tcp/7"), "nothing new"
    assert own.agreed("9.9.9.9")
    assert not own.agreed("10.0.0.1")


def test_private_and_unreadable_observations_are_nothing() -> None:
    own = OwnAddresses(observing=True)
    for observer in "abcdef":
        assert not own.observe(observer, "/ip4/10.0.0.1/tcp/1")
        assert not own.observe(observer, "/dns4/evil.example/tcp/1")
        assert not own.observe(observer, "")
