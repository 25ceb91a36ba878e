"""`python -m tests.simulation.plots [DIRECTORY]`: the scenarios' CSV files as pictures for docs/scale.md.

Needs matplotlib, which is with the packages that build the documentation (`make docs-env`).
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
STYLE: Any = {"svg.hashsalt": "logos", "svg.fonttype": "none", "axes.grid": True, "grid.alpha": 0.3}


def _rows(directory: Path, scenario: str) -> list[dict[str, Any]]:
    with (directory / f"{scenario}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _sweep(directory: Path) -> None:
    """Latency and traffic by D, size and rate."""
    rows = _rows(directory, "sweep")
    parts = (
        ("D", [row for row in rows if row["case"].startswith("D ")], "d"),
        ("message size, bytes", [row for row in rows if row["case"].endswith(" B")], "size"),
        ("messages/s", [row for row in rows if row["case"].endswith("msg/s")], "rate"),
    )
    figure, axes = plt.subplots(2, len(parts), figsize=(11, 5.5), layout="constrained")
    for column, (label, chosen, key) in enumerate(parts):
        at = [float(row[key]) for row in chosen]
        above, below = axes[0][column], axes[1][column]
        for name in ("p50", "p95", "p99"):
            above.plot(at, [float(row[name]) for row in chosen], marker="o", label=name)
        below.plot(at, [float(row["out_kbps"]) for row in chosen], marker="o", label="sent")
        below.plot(
            at,
            [float(row["out_kbps"]) * float(row["control_share"]) for row in chosen],
            marker="o",
            label="of that control",
        )
        for axis in (above, below):
            axis.set_xlabel(label)
            axis.set_ylim(bottom=0)
            if key != "d":
                axis.set_xscale("log", base=2)
        above.set_ylabel("s to arrive")
        below.set_ylabel("KB/s a node")
        above.legend()
        below.legend()
    _save(figure, "scale-sweep")


def _trouble(directory: Path) -> None:
    """What arrives, and how late, under churn, outages and hostile nodes."""
    rows = [row for name in ("churn", "outage", "hostile") for row in _rows(directory, name)]
    figure, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(11, 4.5), layout="constrained")
    names = [row["case"] for row in rows]
    left.barh(names, [100 * float(row["delivered"]) for row in rows])
    left.set_xlabel("% delivered")
    left.set_xlim(90, 100)
    left.invert_yaxis()
    right.barh(names, [float(row["p99"]) for row in rows])
    right.set_xlabel("p99, s")
    _save(figure, "scale-trouble")


def _save(figure: Any, name: str) -> None:
    path = IMAGES / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    sys.stdout.write(f"{path}\n")


def main() -> None:
    """Draw all of them."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("build/simulation")
    with mpl.rc_context(STYLE):
        _sweep(directory)
        _trouble(directory)


if __name__ == "__main__":
    main()
