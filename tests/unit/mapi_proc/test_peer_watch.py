"""Who is notified when service peers appear."""

from __future__ import annotations

import asyncio
from typing import cast

from ipc_schema.frames import Reply
from ipc_schema.kernel.methods import PeersListReply
from ipc_schema.kernel.records import PeerRecord
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.peer_watch import PeerWatch
from mapi_proc.peers import STORE, ServicePeers
from tests.support.aio import asyncio_test


class Link:
    """A kernel that lists the stores that the test names."""

    up = True

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.listed = 0

    async def request(self, method: str) -> Reply:
        self.listed += 1
        peers = tuple(PeerRecord(peer_id=name, protocols=STORE) for name in self.names)
        body = PeersListReply(peers=peers, total=len(peers)).to_body()
        return Reply(bytes(16), 0, bytes(16), body, ())


@asyncio_test()
async def test_a_store_that_takes_the_place_of_another_one_has_appeared() -> None:
    link, appeared, up = Link(), [], []
    peers = ServicePeers(lambda: 0.0, lambda: 0.5)

    async def kernel_up() -> None:
        up.append(link.listed)

    watch = PeerWatch(
        cast("KernelLink", link),
        peers,
        appeared=kernel_up,
        changed=lambda: None,
        grown={STORE: (lambda: appeared.append(sorted(peers.serving(STORE))),)},
    )
    task = asyncio.create_task(watch.run())
    for names in (("a", "b"), ("a",), ("c",), ("c",)):
        link.names, listed = names, link.listed
        watch.look()
        while link.listed == listed:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert appeared == [["a", "b"], ["c"]]
    assert up == [1], "once a kernel, before its first list counts"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
