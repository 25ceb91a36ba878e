"""Run a module as a program with other values of some constants: what takes half a minute takes a second.

    python -m tests.support.with_constants mapi_proc.receive.catchup:DOUBT_NOTIFY_S=3 -- mapi_proc …

The values are set before the program is imported, so that every `from … import` gets them. A name that does
not exist is an error.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Mapping
from importlib import import_module


def command(constants: Mapping[str, float], module: str) -> list[str]:
    """The words after the interpreter that run `module` with `constants` (`module:NAME` to value)."""
    if not constants:
        return ["-m", module]
    settings = [f"{name}={json.dumps(value)}" for name, value in constants.items()]
    return ["-m", "tests.support.with_constants", *settings, "--", module]


def main() -> None:
    end = sys.argv.index("--")
    for setting in sys.argv[1:end]:
        place, _, value = setting.partition("=")
        module_name, _, name = place.partition(":")
        module = import_module(module_name)
        if not hasattr(module, name):
            sys.exit(f"{module_name} has no {name}")
        setattr(module, name, json.loads(value))
    program = sys.argv[end + 1]
    sys.argv[:] = [program, *sys.argv[end + 2 :]]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
