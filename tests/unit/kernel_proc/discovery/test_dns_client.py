"""Reading lists from a DNS server on loopback, good ones and hostile ones."""

from __future__ import annotations

from random import Random

import pytest
import trio

from ipc_schema.config.discovery import NameServer
from kernel_proc.discovery.dns_client import TreeClient, TreeLimits
from kernel_proc.discovery.dns_lists import DnsLists
from kernel_proc.discovery.dns_resolver import DnsFailure, DnsTxtResolver
from kernel_proc.discovery.dns_tree import TreeFormatError, TreeSignatureError, hash_of, parse_url
from kernel_proc.discovery.enr import Enr, sign_record
from kernel_proc.discovery.enr_identity import Identity
from tests.support.aio import trio_test
from tests.support.dns_server import DnsServer, SignedList, dns_server


def records(count: int, first: int = 1) -> list[Enr]:
    return [
        sign_record(Identity((first + number).to_bytes(32, "big")), 1, {b"waku2": b"\x01"})
        for number in range(count)
    ]


def resolver(server: DnsServer) -> DnsTxtResolver:
    return DnsTxtResolver((NameServer("127.0.0.1", server.port),), lifetime=3.0)


def client(server: DnsServer, limits: TreeLimits | None = None) -> TreeClient:
    return TreeClient(resolver(server), limits)


def listing(domain: str, given: list[Enr], *, links: list[str] | None = None, seq: int = 1) -> SignedList:
    one = SignedList(domain)
    one.root(one.branch([record.text for record in given]), one.branch(links or []), seq)
    return one


@trio_test()
async def test_every_record_is_found_and_only_what_changed_is_asked_for_again() -> None:
    given = records(30)
    one = listing("nodes.example.org", given)
    with dns_server(one) as server:
        reader = client(server)
        came: list[Enr] = []
        reading = await reader.read(parse_url(one.url), came.append)
        assert reading.complete
        assert {record.text for record in reading.records} == {record.text for record in given}
        assert len(came) == len(given)
        asked = len(server.asked)
        again = await reader.read(parse_url(one.url))
        assert len(again.records) == len(given)
        assert len(server.asked) == asked + 1
        newer = listing("nodes.example.org", [*given, *records(1, 500)], seq=2)
        server.publish(newer)
        assert len((await reader.read(parse_url(one.url))).records) == 31
        assert len(server.asked) < asked + 12


@trio_test()
async def test_links_are_followed_and_loops_end() -> None:
    three = SignedList("three.example.org")
    one = listing("one.example.org", records(2), links=[three.url])
    top = three.branch([record.text for record in records(2, 100)])
    three.root(top, three.branch([one.url, three.url]))
    with dns_server(one, three) as server:
        reading = await client(server).read(parse_url(one.url))
        assert reading.complete
        assert len(reading.records) == 4


@trio_test()
async def test_a_forged_root_and_an_older_one_are_refused() -> None:
    good = listing("nodes.example.org", records(1), seq=5)
    forged = SignedList("nodes.example.org", secret=b"\x08" * 32)
    forged.root(forged.branch([records(1, 9)[0].text]), seq=9)
    with dns_server(forged) as server:
        reader = client(server)
        with pytest.raises(TreeSignatureError):
            await reader.read(parse_url(good.url))
        server.publish(good)
        await reader.read(parse_url(good.url))
        server.publish(listing("nodes.example.org", records(1), seq=4))
        with pytest.raises(TreeFormatError, match="older"):
            await reader.read(parse_url(good.url))
        server.zone[good.domain] = "v=spf1 -all"
        with pytest.raises(TreeFormatError, match="no list root"):
            await reader.read(parse_url(good.url))


@trio_test()
async def test_wrong_entries_cost_only_themselves() -> None:
    given = records(6)
    one = listing("nodes.example.org", given)
    names = [f"{hash_of(record.text)}.nodes.example.org".lower() for record in given]
    with dns_server(one) as server:
        server.zone[names[0]] = given[1].text
        server.zone[names[1]] = "enr:-nonsense"
        del server.zone[names[2]]
        reading = await client(server).read(parse_url(one.url))
        assert not reading.complete
        assert len(reading.records) == 3
        assert len(reading.errors) == 3


@pytest.mark.parametrize(
    ("limits", "note"),
    [
        (TreeLimits(entries=10), "more than 10 entries"),
        (TreeLimits(records=5, at_once=4), "more than 5 records"),
        (TreeLimits(depth=1), "deeper than 1 levels"),
        (TreeLimits(lists=1), "other lists"),
    ],
)
def test_a_list_is_read_within_limits(limits: TreeLimits, note: str) -> None:
    @trio_test()
    async def reading_it() -> None:
        one = listing("nodes.example.org", records(40), links=[listing("b.example.org", []).url])
        with dns_server(one) as server:
            reading = await client(server, limits).read(parse_url(one.url))
            assert any(note in error for error in reading.errors)
            assert len(reading.records) <= max(5, limits.records)
            assert reading.entries <= limits.entries

    reading_it()


@trio_test()
async def test_a_list_of_which_most_is_missing_is_left() -> None:
    one = listing("nodes.example.org", records(40))
    with dns_server(one) as server:
        for name, text in list(server.zone.items()):
            if text.startswith("enr:"):
                del server.zone[name]
        reading = await client(server, TreeLimits(failures=5)).read(parse_url(one.url))
        assert any("missing or invalid" in error for error in reading.errors)
        assert len(server.asked) < 45


@trio_test()
async def test_a_server_that_is_silent_costs_no_more_than_the_time_allowed() -> None:
    one = listing("nodes.example.org", records(3))
    with dns_server(one) as server:
        reader = client(server, TreeLimits(seconds=0.2))
        root = await reader.root(parse_url(one.url))
        server.silent = True
        assert root.seq == 1
        with trio.fail_after(15):
            with pytest.raises(DnsFailure):
                await reader.read(parse_url(one.url))


@trio_test()
async def test_what_does_not_fit_into_a_datagram_comes_by_tcp() -> None:
    with dns_server(zone={"big.example.org": "x" * 3000}) as server:
        assert await resolver(server).txt("big.example.org") == ["x" * 3000]
        assert server.tcp_answers == 1


@trio_test()
async def test_a_list_that_cannot_be_read_is_tried_again() -> None:
    one = listing("nodes.example.org", records(3))
    with dns_server() as server:
        found: list[Enr] = []
        lists = DnsLists(
            [one.url], lambda: resolver(server), lambda record, _url: found.append(record), Random(1)
        )
        (state,) = lists.lists
        assert not await lists.read(state)
        assert "nodes.example.org" in state.error
        server.publish(one)
        assert await lists.read(state)
        assert (state.records, state.seq, state.error, lists.failures) == (3, 1, "", 1)
        assert len(found) == 3
