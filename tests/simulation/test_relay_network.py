"""Relay networks in simulated time. All follows from the seed: no outcome hangs on load or on a clock."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kernel_proc.relay.params import GossipParams, RelayParams
from tests.simulation.relay.adversaries import Censor, Eclipser, IwantFlooder, Mute, Spammer
from tests.simulation.relay.events import EventQueue
from tests.simulation.relay.links import wire_size
from tests.simulation.relay.network import Network, NodeClass, Settings
from tests.simulation.relay.report import Report, report

SMALL = Settings(60, seconds=10, settle=15, drain=8)


def run(settings: Settings) -> tuple[Network, Report]:
    network = Network(settings)
    network.run()
    return network, report(network)


def test_two_hundred_nodes_get_every_message_within_a_few_hops() -> None:
    _, seen = run(Settings(200, seconds=15, settle=15, drain=8))
    assert (seen.messages, seen.delivered, seen.healthy) == (15, 1.0, 1.0)
    assert seen.hops_most <= 8
    assert 4 <= seen.mesh_mean <= 8
    # A mesh of D peers brings about D copies; IDONTWANT saves some of them.
    assert seen.duplicates <= 7
    assert seen.most < 1.0


def test_a_seed_gives_the_same_run_again() -> None:
    assert run(SMALL)[1] == run(SMALL)[1]
    assert run(SMALL)[1] != run(replace(SMALL, seed=2))[1]


@pytest.mark.simulation
def test_a_larger_mesh_brings_fewer_hops_and_more_copies() -> None:
    def mesh(d: int) -> Report:
        gossip = GossipParams(d=d, d_low=d - 2, d_high=d + 2, d_score=d // 2, d_out=1, flood_publish=False)
        return run(replace(SMALL, params=RelayParams(gossip=gossip)))[1]

    thin, thick = mesh(4), mesh(10)
    assert thin.delivered == thick.delivered == 1.0
    assert thick.hops_mean < thin.hops_mean
    assert thick.duplicates > thin.duplicates


@pytest.mark.simulation
def test_a_network_that_loses_half_its_nodes_mends_its_meshes() -> None:
    _, seen = run(replace(SMALL, nodes=80, outage=0.5, seconds=30))
    assert seen.recovered is not None
    assert seen.healthy == 1.0
    assert seen.delivered >= 0.99  # a message under way may have been with the nodes that went


@pytest.mark.simulation
def test_nodes_that_come_and_go_cost_little() -> None:
    _, seen = run(replace(SMALL, session=60.0, seconds=30))
    assert seen.delivered >= 0.97


@pytest.mark.simulation
@pytest.mark.parametrize(
    ("kind", "publisher"), [(Mute, None), (IwantFlooder, None), (Censor, 0), (Eclipser, None)]
)
def test_a_third_of_hostile_nodes_keeps_nothing_from_the_others(
    kind: NodeClass, publisher: int | None
) -> None:
    _, seen = run(replace(SMALL, others=((kind, 30),), publisher=publisher))
    assert seen.delivered == seen.victim == 1.0


@pytest.mark.simulation
def test_nodes_that_send_invalid_messages_are_cut_off() -> None:
    base = replace(SMALL, nodes=30)
    spammed, quiet = (run(replace(base, others=((kind, 10),)))[1] for kind in (Spammer, Mute))
    assert spammed.delivered == 1.0
    assert spammed.dishonest_linked < quiet.dishonest_linked / 2


@pytest.mark.simulation
def test_what_is_asked_for_again_and_again_is_served_a_bounded_number_of_times() -> None:
    network, _ = run(replace(SMALL, others=((IwantFlooder, 10),)))
    honest = [node for node in network.nodes if node.honest]
    served = sum(node.router.counters()["iwant_served"] for node in honest)
    refused = sum(node.router.counters()["iwant_refused"] for node in honest)
    askers = sum(not network.node(peer).honest for node in honest for peer in node.linked)
    most = network.settings.params.gossip.iwant_retransmissions
    assert 0 < served <= len(network.sent) * most * (askers + len(honest))
    assert refused > served


def test_events_fall_in_order_and_ties_in_the_order_of_arrival() -> None:
    events, seen = EventQueue(), list[str]()
    events.at(2.0, seen.append, "late")
    events.at(1.0, seen.append, "first")
    events.at(1.0, seen.append, "second")
    events.run_until(1.5)
    assert (seen, events.now) == (["first", "second"], 1.5)
    events.at(0.5, seen.append, "overdue")
    events.run_until(3.0)
    assert seen == ["first", "second", "overdue", "late"]


def test_a_frame_costs_its_headers_by_the_segment() -> None:
    assert wire_size(100) == 100 + 30 + 78
    assert wire_size(1448) == 1448 + 30 + 2 * 78
