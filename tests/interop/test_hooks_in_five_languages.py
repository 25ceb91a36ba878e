"""A channel whose segments each app encrypts in its own language, through a kill of the Messaging API."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack

import pytest

from conformance.adapter import Adapter
from conformance.ours import OURS, Unavailable
from ipc_schema.paths import mapi_endpoints
from tests.integration.test_conformance_live import ask
from tests.support.kernel_process import KernelProcess, short_directory
from tests.support.mapi_process import MapiProcess

pytestmark = [pytest.mark.compiled_client, pytest.mark.integration]

CHANNEL = "sealed"
TOPIC = "/five-languages/1/sealed/plain"
SECONDS = 60.0


def _take(adapter: Adapter, wanted: set[str]) -> None:
    """Take events until these payloads have come, as they were before they were encrypted."""
    end = time.monotonic() + SECONDS
    missing = set(wanted)
    while missing:
        assert time.monotonic() < end, missing
        event = ask(adapter, "next")
        assert event["event"] not in ("channel_segment_received", "channel_message_lost"), event
        if event["event"] == "channel_message_received":
            missing.discard(event["payload"])


def test_apps_in_five_languages_read_what_the_others_encrypted() -> None:
    with ExitStack() as stack:
        path = stack.enter_context(short_directory())
        stack.enter_context(KernelProcess(path))
        mapi = stack.enter_context(MapiProcess(path))
        asyncio.run(_ready(mapi))
        apps: dict[str, Adapter] = {}
        missing: list[str] = []
        for language, command in OURS.items():
            try:
                adapter = Adapter(command(), None)
            except Unavailable as why:  # in continuous integration this is a failure
                missing.append(f"{language} ({why})")
                continue
            stack.callback(adapter.close)
            ask(adapter, "connect", endpoint=mapi_endpoints(mapi.run_dir).apps, name=language)
            ask(adapter, "channel_create", channel=CHANNEL, topic=TOPIC)
            apps[language] = adapter
        for when in ("before", "after"):
            if when == "after":
                mapi.kill()
                mapi.start()
            payloads = {language: f"{language} {when} the kill".encode().hex() for language in apps}
            for language, adapter in apps.items():
                ask(adapter, "channel_send", channel=CHANNEL, payload=payloads[language])
            for language, adapter in apps.items():
                _take(adapter, set(payloads.values()) - {payloads[language]})
    if missing:
        pytest.skip(f"passed without {', '.join(missing)}")


async def _ready(mapi: MapiProcess) -> None:
    await mapi.ready()
