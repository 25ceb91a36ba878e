"""`python -m tests.soak [pair|network] [--minutes 30] …`: steady load for a long time.

Both parts share the time when none is named. Exit code 1 when a message was lost or doubled, a send failed, a
process ended, or a figure grew beyond its bound. The first quarter of a part's time, at most five minutes, is
warm-up, and its figures are not compared.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from typing import Final

from tests.soak import network, pair

SHORTEST: Final = 0.25


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Steady load for a long time.")
    parser.add_argument("part", nargs="?", choices=("pair", "network"), help="one of both (both)")
    parser.add_argument("--minutes", type=float, default=30.0, help="length of the run (30)")
    parser.add_argument(
        "--rate",
        type=float,
        help=f"messages a second: of each app of the pair ({pair.RATE:g}), of the network ({network.RATE:g})",
    )
    parser.add_argument("--nodes", type=int, default=network.NODES, help="kernels in the network (20)")
    parser.add_argument("--seed", type=int, help="of what happens in the network; by chance without")
    given = parser.parse_args()
    parts = (given.part,) if given.part else ("pair", "network")
    seconds = given.minutes * 60 / len(parts)
    if seconds < SHORTEST * 60 or (given.rate is not None and given.rate <= 0):
        parser.error("at least a quarter of a minute for each part, and a rate above 0")
    if given.nodes < network.FEWEST:
        parser.error(f"a network has at least {network.FEWEST} nodes")
    seed = secrets.randbelow(1 << 32) if given.seed is None else given.seed
    good = True
    if "pair" in parts:
        good = pair.run_pair(seconds, given.rate or pair.RATE)
    if "network" in parts:
        good = network.run_network(seconds, given.nodes, given.rate or network.RATE, seed) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
