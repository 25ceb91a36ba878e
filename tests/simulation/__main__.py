"""`python -m tests.simulation [SCENARIO …]`: relay networks in simulated time; see docs/scale.md.

Each run is a line of JSON, and a row of `build/simulation/SCENARIO.csv`.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.simulation.relay.network import Network, Settings
from tests.simulation.relay.report import report
from tests.simulation.relay.scenarios import SCENARIOS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("names", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; none: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="simulated seconds of traffic (60)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/simulation"), help="where the CSV files go")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in SCENARIOS]
    if unknown:
        parser.error(f"unknown scenario: {', '.join(unknown)}")
    base = Settings(nodes=0, seconds=arguments.seconds, seed=arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or SCENARIOS:
        rows = []
        for case, settings in SCENARIOS[name](base):
            row = _run(name, case, settings)
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
            rows.append(row)
        with (arguments.out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return 0


def _run(scenario: str, case: str, settings: Settings) -> dict[str, Any]:
    started = time.process_time()
    network = Network(settings)
    network.run()
    return {
        "scenario": scenario,
        "case": case,
        **report(network).row(),
        "cpu_s": round(time.process_time() - started, 1),
    }


if __name__ == "__main__":
    raise SystemExit(main())
