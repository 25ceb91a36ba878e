"""Send one message and wait for what becomes of it: publish.py <run directory> <content topic> <text>."""

from __future__ import annotations

import sys

from logos_client import MessageError, MessagePropagated
from logos_client.blocking import MessagingClient


def main(run_dir: str, topic: str, text: str) -> int:
    with MessagingClient.connect(run_dir) as app:
        request_id = app.send(topic, text.encode())
        for event in app:
            match event:
                case MessagePropagated() if event.request_id == request_id:
                    print("propagated", event.message_hash.hex())
                    return 0
                case MessageError() if event.request_id == request_id:
                    print("given up:", event.text)
                    return 1
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
