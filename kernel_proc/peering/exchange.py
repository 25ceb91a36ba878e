"""Ask peers for peers (34/WAKU2-PEER-EXCHANGE) while there are too few, rotating through them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import trio

from kernel_proc.peering.pace import ASK_ALONE, ExchangePace
from kernel_proc.protocols.peer_exchange import PeerExchangeClient
from kernel_proc.protocols.requests import AllFailed
from logos_process.logs import fields

log = logging.getLogger(__name__)

COUNT: Final = 30
SECONDS: Final = 12.0
MAX_ASKED: Final = 64


class PeerAsking:
    """`is_short` returns whether peers are wanted, `arrived` how many peers the store has ever added."""

    def __init__(
        self, client: PeerExchangeClient, is_short: Callable[[], bool], arrived: Callable[[], int]
    ) -> None:
        self._client = client
        self._is_short = is_short
        self._arrived = arrived
        self._pace = ExchangePace()
        self._asked: dict[str, None] = {}
        """Peers are asked in turn; otherwise the one that answers best would be our only source."""

    async def run(self) -> None:
        """Ask for peers whenever there are too few, until cancelled."""
        pause = ASK_ALONE
        while True:
            await trio.sleep(pause)
            pause = await self._ask() if self._is_short() else ASK_ALONE

    async def _ask(self) -> float:
        before = self._arrived()
        deadline = trio.current_time() + SECONDS
        try:
            answered = await self._client.request(COUNT, exclude=tuple(self._asked), deadline=deadline)
        except AllFailed as error:
            log.debug("peer exchange failed", extra=fields(reason=str(error)))
            if error.attempts:
                return self._pace.answered(news=False)
            all_had_a_turn = bool(self._asked)
            self._asked.clear()
            return 0.0 if all_had_a_turn else self._pace.no_peer_to_ask()
        self._asked[answered.peer_id] = None
        if len(self._asked) > MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        return self._pace.answered(news=self._arrived() > before)
