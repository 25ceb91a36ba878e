"""Costs that must not grow with what is already held: the same work beside 10², 10⁴ and 10⁶ entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any, Final

from tests.bench.harness import Case, Options, Round, alternate, result

SIZES: Final = (100, 10_000, 1_000_000)
FLAT: Final = 2.0
FLAT_US: Final = 2.0
"""Beside a million entries memory is out of the processor's caches: so much more is flat in any case."""

Make = Callable[[int], AbstractContextManager[Callable[[], float]]]


def flat_lines(bench: str, cases: dict[str, tuple[str, Make]], options: Options) -> Iterator[dict[str, Any]]:
    """Lines of cases: name -> (unit, make). `make(size)` gives, as a context, what runs one round beside
    `size` entries and returns its figure. The reference of each size is the smallest one, in turn with it.
    """
    for name, (unit, make) in cases.items():
        wanted = [size for size in SIZES[1:] if options.wants(f"{name} beside {size:,}")]
        if not wanted:
            continue
        with ExitStack() as stack:
            small = stack.enter_context(make(SIZES[0]))
            small()
            for size in wanted:
                with make(size) as large:
                    large()
                    rounds = alternate(options.runs, partial(_round, large), partial(_round, small))
                case = Case(
                    bench,
                    f"{name} beside {size:,}",
                    unit,
                    f"the same beside {SIZES[0]}",
                    target=f"flat: at most {FLAT:g} times, or {FLAT_US:g} µs more",
                    reached=_flat,
                )
                yield result(case, *rounds)


def _round(work: Callable[[], float]) -> Round:
    return Round(work(), {})


def _flat(line: dict[str, Any]) -> bool:
    more = line["ours"] - line["reference"]
    return bool(line["ratio"] <= FLAT or (line["unit"].startswith("µs") and more <= FLAT_US))
