"""`logos forget`: delete named apps, with their streams and subscriptions."""

from __future__ import annotations

import argparse
from typing import Final

from logos_client.messaging import MessagingClient
from logos_deploy.commands.output import print_json
from logos_deploy.commands.where import NodePlace, add_query_options, where
from logos_deploy.exits import Exit
from logos_deploy.session import run_interruptible

HELP: Final = "delete a named app: its waiting events, subscriptions and channels"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="the app (logos apps shows them)")
    add_query_options(parser)


def run(arguments: argparse.Namespace) -> int:
    return run_interruptible(_forget(where(arguments), arguments))


async def _forget(place: NodePlace, arguments: argparse.Namespace) -> int:
    # Over an unnamed connection: one by its name would be the app.
    async with MessagingClient.connect(place.mapi.apps, timeout=arguments.timeout) as client:
        for name in arguments.names:
            await client.forget(name, timeout=arguments.timeout)
            if not arguments.json:
                print(f"{name} is forgotten")  # at once: the next one may be refused
    if arguments.json:
        print_json({"forgotten": arguments.names})
    return Exit.OK
