"""kill -9 of gateway, Messaging API and kernel under REST sends and a reader of server-sent events."""

from __future__ import annotations

import pytest

from tests.integration.logos_node import short_directory
from tests.support.gateway_kills import EACH, ORDER, run

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]


def test_each_accepted_send_has_one_fate_and_every_event_comes() -> None:
    with short_directory() as directory:
        ledger = run(directory, rounds=1)
    assert len(ledger.events) >= EACH * (len(ORDER) + 1)
    assert ledger.accepted
