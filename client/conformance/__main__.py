"""`python client/conformance [--short] [--only TEXT] [--record] [-- command …]`: hold clients to SPEC.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "client")]

from conformance import table  # noqa: E402
from conformance.ours import OURS, Unavailable  # noqa: E402
from conformance.runner import ScenarioResult, run, scenarios, uncovered  # noqa: E402


def say(text: str) -> None:
    """Print one line of the report."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run the kit. Return 0 if everything passed."""
    parser = argparse.ArgumentParser(description="Hold a client to the contract.")
    parser.add_argument("--short", action="store_true", help="a subset that takes seconds")
    parser.add_argument("--only", default="", metavar="TEXT", help="scenarios whose name has this text")
    parser.add_argument("--client", choices=sorted(OURS), action="append", help="one of ours (default: all)")
    parser.add_argument(
        "--record", action="store_true", help="keep the results, for the table in docs/clients.md"
    )
    parser.add_argument("command", nargs="*", help="the adapter of another client, behind --")
    arguments = parser.parse_args()
    if arguments.record and (arguments.short or arguments.only or arguments.command):
        parser.error("--record is for all scenarios, and for our own clients")
    chosen = [
        scenario
        for scenario in scenarios()
        if arguments.only in scenario.name and (not arguments.short or scenario.short)
    ]
    failed = 0
    for name in [Path(arguments.command[0]).name] if arguments.command else arguments.client or OURS:
        try:
            command = arguments.command or OURS[name]()
        except Unavailable as why:
            say(f"{name}: skipped, {why}")
            continue
        passed = {}
        for scenario in chosen:
            outcome = run(scenario, command)
            passed[scenario.name] = not outcome.reason
            failed += outcome.failed
            report(name, outcome)
        if arguments.record:
            table.record(name, passed)
    if arguments.record:
        table.main([])
    say("\nSentences of SPEC.md about clients that no scenario covers yet:")
    for key, text in uncovered(scenarios()).items():
        say(f"  {key}: {text}")
    return 1 if failed else 0


def report(name: str, outcome: ScenarioResult) -> None:
    """Report the result of a scenario."""
    word = "FAILED" if outcome.failed else "lacks " if outcome.lacking else "ok    "
    say(f"{word} {name}: {outcome.scenario.name}")
    if outcome.failed:
        say(f"       {outcome.reason}")
        for sentence in outcome.sentences:
            say(f"       SPEC: {sentence}")


if __name__ == "__main__":
    raise SystemExit(main())
