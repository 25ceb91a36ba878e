from __future__ import annotations

from kernel_proc.p2p.admission import Admission
from kernel_proc.p2p.limits import HostLimits


def establish(admission: Admission, peer: str, ip: str) -> str | None:
    refused = admission.admit(ip)
    if refused is None:
        admission.settle(ip)
        refused = admission.establish(peer, ip, inbound=True)
    return refused


def test_half_open_connections_are_capped_per_ip_and_in_all() -> None:
    admission = Admission(HostLimits(max_half_open=3, max_half_open_per_ip=2))
    assert [admission.admit("10.0.0.1") for _ in range(3)] == [None, None, "refused_half_open_ip"]
    assert admission.admit("10.0.0.2") is None
    assert admission.admit("10.0.0.3") == "refused_half_open"
    admission.settle("10.0.0.1")
    assert admission.admit("10.0.0.3") is None


def test_established_and_half_open_ones_of_an_ip_count_together() -> None:
    admission = Admission(HostLimits(max_per_ip=2, max_half_open_per_ip=9))
    assert establish(admission, "a", "10.0.0.1") is None
    assert admission.admit("10.0.0.1") is None
    assert admission.admit("10.0.0.1") == "refused_ip"
    assert admission.admit("10.0.0.2") is None


def test_those_we_dialled_count_at_their_address_but_are_never_refused_for_it() -> None:
    admission = Admission(HostLimits(max_per_ip=2))
    assert admission.establish("a", "10.0.0.1", inbound=False) is None
    assert establish(admission, "b", "10.0.0.1") is None
    assert admission.admit("10.0.0.1") == "refused_ip"
    assert admission.establish("c", "10.0.0.1", inbound=False) is None
    for peer in "ac":
        admission.release(peer, "10.0.0.1", inbound=False)
    assert admission.admit("10.0.0.1") is None


def test_a_dial_in_progress_keeps_its_slot() -> None:
    admission = Admission(HostLimits(max_per_ip=1))
    with admission.dialling("10.0.0.1"):
        assert admission.admit("10.0.0.1") == "refused_ip"
        assert admission.admit("10.0.0.2") is None
    assert admission.admit("10.0.0.1") is None
    with admission.dialling("10.0.0.1"):  # started while the other is in its handshake
        admission.settle("10.0.0.1")
        assert admission.establish("a", "10.0.0.1", inbound=True) == "refused_ip"
    assert admission.established == 0


def test_inbound_ones_leave_room_for_dialling() -> None:
    admission = Admission(HostLimits(max_connections=3, max_inbound=2, max_per_ip=0))
    assert [establish(admission, str(n), "10.0.0.1") for n in range(3)] == [None, None, "refused_total"]
    assert admission.can_dial()
    assert admission.establish("x", "10.0.0.9", inbound=False) is None
    assert not admission.can_dial()
    assert admission.establish("y", "10.0.0.9", inbound=False) == "refused_total"


def test_a_flood_of_handshakes_finished_at_once_stays_in_bounds() -> None:
    admission = Admission(HostLimits(max_connections=2, max_inbound=2, max_per_ip=0, max_half_open_per_ip=0))
    assert [admission.admit("10.0.0.1") for _ in range(4)] == [None] * 4
    assert [admission.establish(str(n), "10.0.0.1", inbound=True) for n in range(4)] == [
        None,
        None,
        "refused_total",
        "refused_total",
    ]


def test_connections_of_one_peer_are_capped() -> None:
    admission = Admission(HostLimits(max_per_peer=2))
    assert [admission.establish("a", "10.0.0.1", inbound=False) for _ in range(3)] == [
        None,
        None,
        "refused_peer",
    ]
    admission.release("a", "10.0.0.1", inbound=False)
    assert admission.establish("a", "10.0.0.1", inbound=True) is None


def test_disconnected_peers_leave_nothing_behind() -> None:
    admission = Admission(HostLimits())
    for n in range(300):
        ip = f"10.0.{n % 250}.{n // 250}"
        assert establish(admission, str(n), ip) is None
        admission.release(str(n), ip, inbound=True)
    assert (admission.established, admission.half_open) == (0, 0)
    assert not any((admission._half_open, admission._per_ip, admission._dialling, admission._per_peer))
