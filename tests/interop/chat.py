"""The chat of docs/build-an-app.md in another language, with a Python app."""

from __future__ import annotations

import subprocess
from pathlib import Path

from logos_client import ChannelMessageReceived, MessagingClient
from tests.support.aio import asyncio_test
from tests.support.nodes import collect

CHAT_TOPIC = "/my-chat/1/room/plain"


def chat_with_a_python_app(command: list[str], run_dir: Path, nick: str, line: str) -> None:
    """Let the chat say a line under its nick, and hear one of a Python app; it ends with its input."""
    with subprocess.Popen(
        [*command, str(run_dir), nick], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as chat:
        try:
            assert chat.stdin is not None
            assert chat.stdout is not None
            chat.stdin.write(f"{line}\n")
            chat.stdin.flush()

            @asyncio_test()
            async def talk() -> None:
                async with MessagingClient.connect(run_dir, name="snake") as python:
                    await python.create_channel("room", CHAT_TOPIC, sender_id="snake")
                    await python.send_to_channel("room", b"hello from Python")
                    (heard,) = await collect(python, ChannelMessageReceived, 1)
                    assert (heard.sender_id, heard.payload) == (nick, line.encode())

            talk()
            while "snake: hello from Python" not in (printed := chat.stdout.readline()):
                assert printed
            chat.stdin.close()
            assert chat.wait(20) == 0
        finally:
            chat.kill()
