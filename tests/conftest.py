"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.fork_server import allow_forks
from tests.support.ignored_signals import do_not_pass_on_ignored_signals
from tests.support.postgres import PostgresServer, require_postgres

# How long it takes to draw an example says how busy the machine is, not whether the code is right.
settings.register_profile("logos", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("logos")

do_not_pass_on_ignored_signals()
allow_forks()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for a module's tests."""
    with PostgresServer(require_postgres()) as server:
        yield server
