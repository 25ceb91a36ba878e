"""`logos node -- --flag=value …`: run a node from the command line of the reference's node.

The reference's variables and its file are understood too, here and by `logos up`.
"""

from __future__ import annotations

import argparse
from typing import Final

from logos_deploy.commands import up

HELP: Final = "run a node from the command line, variables and file of the reference's node"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    up.add_start(parser)
    parser.add_argument(
        "reference_flags", nargs="*", metavar="-- --option=value", help="options of the reference's node"
    )
    parser.set_defaults(
        preset=None, mode=None, kernel_only=False, data_dir=None, config_file=None, overrides=None
    )


run: Final = up.run
