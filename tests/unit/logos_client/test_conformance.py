"""The conformance kit: its sentences are SPEC.md's, our clients pass, a wrong one learns what it breaks."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from conformance import runner, table
from conformance.ours import OURS, Unavailable
from conformance.runner import Scenario, run, scenarios, sentences, uncovered
from tests.support.client_languages import languages

KIT = Path(runner.__file__).parent
SPEC = KIT.parents[1] / "ipc_schema" / "SPEC.md"
PYTHON = [sys.executable, str(KIT / "adapters" / "python_client.py")]
SHORT = [scenario for scenario in scenarios() if scenario.short]
#: A client with one fault, put into the adapter's process before it starts.
FAULTS = {
    "repeats are dropped": (
        "from logos_client._stream import AppStream\n"
        "usual = AppStream.receive\n"
        "def receive(self, frames):\n"
        "    self.last_seq = min(self.last_seq, 0)\n"
        "    return usual(self, frames)\n"
        "AppStream.receive = receive\n"
    ),
    "no more requests under way than the server takes": (
        "from logos_client._turnstile import Turnstile\nTurnstile.resize = lambda self, limit: None\n"
    ),
    "closing acknowledges what was handled and says goodbye": (
        "from logos_client._session import AppSession\n"
        "async def close(self, *, done):\n"
        "    await self.connection.close()\n"
        "AppSession.close = close\n"
    ),
    "an event is acknowledged when it is handled, not when it is given out": (
        "from logos_client._stream import AppStream\n"
        "usual = AppStream.take\n"
        "def take(self):\n"
        "    event = usual(self)\n"
        "    self.handled()\n"
        "    return event\n"
        "AppStream.take = take\n"
    ),
}


def scenario(name: str) -> Scenario:
    (found,) = [one for one in scenarios() if one.name == name]
    return found


def test_the_sentences_stand_in_the_contract() -> None:
    spec = re.sub(r"\s+", " ", SPEC.read_text(encoding="utf-8"))
    missing = [key for key, sentence in sentences().items() if sentence not in spec]
    assert missing == []


def test_scenarios_cover_sentences_and_have_names_of_their_own() -> None:
    names = [one.name for one in scenarios()]
    assert len(set(names)) == len(names)
    assert {key for one in scenarios() for key in one.covers} <= sentences().keys()
    assert uncovered(scenarios()) == {}
    assert "hello-first" in uncovered([])


@pytest.mark.parametrize("one", SHORT, ids=lambda one: one.name)
def test_the_python_client(one: Scenario) -> None:
    assert run(one, PYTHON).reason == ""


@pytest.mark.interop
@pytest.mark.parametrize("client", languages(client for client in OURS if client != "python"))
def test_the_client(client: str) -> None:
    try:
        command = OURS[client]()
    except Unavailable as why:
        pytest.skip(str(why))
    assert {one.name: run(one, command).reason for one in SHORT} == {one.name: "" for one in SHORT}


def test_the_table_of_the_clients_is_what_the_kit_found() -> None:
    """`python client/conformance --record` writes it."""
    assert table.main(["--check"]) == 0
    assert {key for keys in table.FEATURES.values() for key in keys} <= sentences().keys()
    found = json.loads(table.RESULTS.read_text(encoding="utf-8"))
    needed = {one.name for one in scenarios() if not one.optional}
    assert {client: [name for name in needed if not found[client].get(name)] for client in OURS} == {
        client: [] for client in OURS
    }


@pytest.mark.parametrize("name", FAULTS)
def test_a_client_with_a_fault_learns_which_sentence_it_breaks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "STEP_SECONDS", 5.0)  # what it waits for will not come
    adapter = tmp_path / "adapter.py"
    adapter.write_text(
        f"import sys, runpy\nsys.path[:0] = {[str(KIT.parent), str(SPEC.parents[1])]!r}\n"
        f"{FAULTS[name]}runpy.run_path({PYTHON[1]!r}, run_name='__main__')\n",
        encoding="utf-8",
    )
    outcome = run(scenario(name), [sys.executable, str(adapter)])
    assert outcome.reason.startswith("step ")
    assert outcome.sentences == [sentences()[key] for key in scenario(name).covers]


def test_a_client_that_lacks_something_optional_does_not_fail(tmp_path: Path) -> None:
    name = "a channel with hooks: the app encrypts each segment, and the segments go out as they came out"
    adapter = tmp_path / "adapter.py"
    adapter.write_text(
        f"import sys, runpy\nsys.path[:0] = {[str(KIT.parent), str(SPEC.parents[1])]!r}\n"
        "from logos_client import ErrorCode, MessagingClient, UnknownMethodError\n"
        "async def lacking(*arguments, **options):\n"
        "    raise UnknownMethodError(ErrorCode.UNKNOWN_METHOD, 'there are no hooks')\n"
        "MessagingClient.create_channel = lacking\n"
        f"runpy.run_path({PYTHON[1]!r}, run_name='__main__')\n",
        encoding="utf-8",
    )
    outcome = run(scenario(name), [sys.executable, str(adapter)])
    assert "there are no hooks" in outcome.reason
    assert not outcome.failed


def test_an_adapter_that_ends_is_reported() -> None:
    outcome = run(SHORT[0], [sys.executable, "-c", "raise SystemExit(3)"])
    assert "the adapter has ended" in outcome.reason
