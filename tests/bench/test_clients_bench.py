"""The bench of the clients runs, at a size that takes seconds. Nothing here is timed."""

from __future__ import annotations

import pytest

from conformance.ours import Unavailable
from tests.bench.clients.driver import COUNTS, PROGRAMS, clients
from tests.bench.harness import Options
from tests.support.client_languages import languages


@pytest.mark.integration
@pytest.mark.parametrize("language", languages(PROGRAMS))
def test_each_role_of_a_language(language: str) -> None:
    try:
        PROGRAMS[language]()
    except Unavailable as why:
        pytest.skip(str(why))
    lines = list(clients(Options(runs=1, scale=0.005, only=f"{language}:")))
    assert [line["case"] for line in lines] == [f"{language}: {role}" for role in COUNTS]
    assert all(line["ours"] > 0 < line["reference"] for line in lines)
