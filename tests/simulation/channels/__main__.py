"""Run many seeds on all cores: `python -m tests.simulation.channels --seeds 100000`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from multiprocessing import Pool

from tests.simulation.channels.run import Failure, simulate


def _run(seed: int) -> tuple[int, str]:
    try:
        simulate(seed)
    except Failure as failure:
        return seed, str(failure)
    except Exception as error:
        return seed, repr(error)
    return seed, ""


def main() -> int:
    """Run the seeds; 1 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    started, failed = time.monotonic(), 0
    seeds = range(options.first, options.first + options.seeds)
    with Pool(options.processes) as pool:
        for done, (seed, error) in enumerate(pool.imap_unordered(_run, seeds, chunksize=20), start=1):
            if error:
                failed += 1
                print(f"seed {seed}: {error}", flush=True)
            if done % 1000 == 0:
                print(f"{done} seeds, {failed} failed, {time.monotonic() - started:.0f} s", flush=True)
    print(f"{len(seeds)} seeds, {failed} failed, {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
