"""Run many seeds on all cores: `python -m tests.simulation.channels --first 1000 --seeds 100000`.

With `--resume FILE` the file remembers, for the code as it stands, how far the range has been run and which
seeds failed; a run that was stopped goes on there. `make chaos` does so.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from hashlib import sha256
from multiprocessing import Pool
from pathlib import Path

import mapi_proc.channels
from tests.simulation.channels.run import Failure, simulate

_CHUNK = 20


def _run(seed: int) -> tuple[int, str]:
    try:
        simulate(seed)
    except Failure as failure:
        return seed, str(failure)
    except Exception as error:
        return seed, repr(error)
    return seed, ""


class Progress:
    """How far a range of seeds has been run, kept in a file if there is one."""

    def __init__(self, path: Path | None, first: int) -> None:
        self._path = path
        self._first = first
        self._code = _fingerprint()
        self.next = first
        self.failed: dict[int, str] = {}
        if path is not None and path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if (kept["code"], kept["first"]) == (self._code, first):
                self.next = kept["next"]
                self.failed = {int(seed): error for seed, error in kept["failed"].items()}

    def done(self, seed: int, error: str) -> None:
        """Note a seed's end. Seeds end in ascending order."""
        self.next = seed + 1
        if error:
            self.failed[seed] = error

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self._path is None:
            return
        kept = {"code": self._code, "first": self._first, "next": self.next, "failed": self.failed}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        new.replace(self._path)


def _fingerprint() -> str:
    """The code that a result holds for: the channels and their simulation."""
    digest = sha256()
    for directory in (Path(mapi_proc.channels.__file__).parent, Path(__file__).parent):
        for path in sorted(directory.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Run the seeds; 1 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--resume", type=Path, metavar="FILE", help="go on where FILE says, and keep it")
    options = parser.parse_args(arguments)
    started, end = time.monotonic(), options.first + options.seeds
    progress = Progress(options.resume, options.first)
    if progress.next > options.first:
        print(f"going on at seed {progress.next}", flush=True)
    with Pool(options.processes) as pool:
        for seed, error in pool.imap(_run, range(progress.next, end), chunksize=_CHUNK):
            progress.done(seed, error)
            if error:
                print(f"seed {seed}: {error}", flush=True)
            if progress.next % _CHUNK == 0 or progress.next == end:
                progress.save()
            if progress.next % 1000 == 0:
                spent = time.monotonic() - started
                print(f"up to seed {seed}, {len(progress.failed)} failed, {spent:.0f} s", flush=True)
    failed = sorted(progress.failed)
    print(f"seeds {options.first} to {end - 1}: {len(failed)} failed {failed or ''}".rstrip())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
