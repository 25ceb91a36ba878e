"""Checks of a host on which a node is to run.

Each looks at one thing and reports what it found; none changes anything.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Final

from cryptography import x509

from ipc_schema.config.options import ConfigError, PortUse
from logos_deploy.node.ports import refuse_taken_ports
from logos_deploy.text import count, size
from logos_process.descriptors import LEAST

_DISTRIBUTION: Final = "logos-mapi"
_REINSTALL: Final = f"pip install --upgrade {_DISTRIBUTION}"
_DISK_LOW: Final = 1 << 30
_DISK_OUT: Final = 100 << 20
_FILES_LOW: Final = 1000
_CLOCK_BACK: Final = 60.0
_CERTIFICATE_DAYS: Final = 14
"""Those who renew certificates of 90 days do it a month before the end: something is wrong by then."""
_TIME_ERROR: Final = 5
"""Return value of adjtimex(2) while the clock is not synchronised."""
_TIMEX_BYTES: Final = 512


class Level(StrEnum):
    """Severity of a finding."""

    OK = "ok"
    WARN = "warn"
    """A node would run, but not as well as it could, or not for long."""
    FAIL = "fail"
    """No node can run in this state."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. `advice`: what to do about it; empty if nothing has to be done."""

    level: Level
    subject: str
    text: str
    advice: str = ""


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    """Require Python 3.11 or newer."""
    text = ".".join(map(str, version))
    if version < (3, 11):
        return Finding(Level.FAIL, "python", f"{text} is too old", "install Python 3.11 or newer")
    return Finding(Level.OK, "python", f"{text}, {sys.executable}")


# --- packages ---------------------------------------------------------------------------------------------

_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*([^;]*)(?:;\s*(.*))?")
_BOUND: Final = re.compile(r"(>=|<=|==|<|>)\s*([0-9.]+)")


def check_packages(
    requirements: Iterable[str] | None = None, installed: Callable[[str], str] = metadata.version
) -> Iterator[Finding]:
    """Check that every package this distribution requires is installed in an allowed version."""
    if requirements is None:
        try:
            requirements = metadata.requires(_DISTRIBUTION) or ()
        except metadata.PackageNotFoundError:
            yield Finding(Level.WARN, "packages", f"{_DISTRIBUTION} is not installed as a package")
            return
    good: list[str] = []
    for line in requirements:
        match = _REQUIREMENT.match(line)
        if match is None or "extra" in (match[3] or ""):
            continue
        name, bounds = match[1], match[2]
        try:
            version = installed(name)
        except metadata.PackageNotFoundError:
            yield Finding(Level.FAIL, "packages", f"{name} is not installed", _REINSTALL)
            continue
        if allowed(version, bounds):
            good.append(f"{name} {version}")
        else:
            text = f"{name} {version} is installed, {bounds} is needed"
            yield Finding(Level.FAIL, "packages", text, _REINSTALL)
    if good:
        yield Finding(Level.OK, "packages", ", ".join(good))


def allowed(version: str, bounds: str) -> bool:
    """Return whether a released version is within bounds such as `>=27.0,<28`.

    Pre-releases compare by their numbers.
    """
    mine = _numbers(version)
    for operator, text in _BOUND.findall(bounds):
        bound = _numbers(text)
        width = max(len(mine), len(bound))
        one, other = (numbers + (0,) * (width - len(numbers)) for numbers in (mine, bound))
        held = {
            ">=": one >= other,
            "<=": one <= other,
            "==": one == other,
            "<": one < other,
            ">": one > other,
        }
        if not held[operator]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


# --- directories and disk ---------------------------------------------------------------------------------


def check_directory(subject: str, path: Path) -> Finding:
    """Check that the directory is usable or can be created: owned by us alone, and writable."""
    existing = _existing(path)
    if existing is None or not existing.is_dir():
        return Finding(Level.FAIL, subject, f"{existing or path} is not a directory", "choose another one")
    if existing != path:
        if not os.access(existing, os.W_OK | os.X_OK):
            return Finding(
                Level.FAIL,
                subject,
                f"{path} cannot be made: no right to write in {existing}",
                _owner_advice(path),
            )
        return Finding(Level.OK, subject, f"{path} does not exist yet and can be made")
    status = path.stat()
    if status.st_uid != os.geteuid():
        return Finding(
            Level.FAIL,
            subject,
            f"{path} belongs to uid {status.st_uid}, this is uid {os.geteuid()}",
            _owner_advice(path),
        )
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return Finding(Level.FAIL, subject, f"no right to write in {path}", f"chmod u+rwx {path}")
    if status.st_mode & 0o022:
        return Finding(
            Level.WARN,
            subject,
            f"{path} can be written by others ({stat.filemode(status.st_mode)})",
            f"chmod go-w {path}",
        )
    return Finding(Level.OK, subject, f"{path} ({stat.filemode(status.st_mode)})")


def _owner_advice(path: Path) -> str:
    return f"run as its owner, or choose another directory than {path}"


def _existing(path: Path) -> Path | None:
    """Return the path itself, or its nearest existing parent."""
    return next((above for above in (path, *path.parents) if above.exists()), None)


def check_disk(path: Path) -> Finding:
    """Check free space and inodes where the directory is or will be."""
    place = _existing(path) or Path("/")
    try:
        free = shutil.disk_usage(place).free
        files = os.statvfs(place)
    except OSError as error:
        return Finding(Level.WARN, "disk", f"{place}: {error.strerror}")
    if free < _DISK_OUT:
        return Finding(Level.FAIL, "disk", f"{size(free)} left at {place}", "make room: the outbox must grow")
    if files.f_files and files.f_favail < _FILES_LOW:
        return Finding(Level.WARN, "disk", f"room for {files.f_favail} files at {place}", "remove some")
    if free < _DISK_LOW:
        return Finding(
            Level.WARN, "disk", f"{size(free)} left at {place}", "journals alone may take journal-total-bytes"
        )
    return Finding(Level.OK, "disk", f"{size(free)} left at {place}")


# --- sockets ----------------------------------------------------------------------------------------------


def check_sockets(subject: str, directory: Path, holder: int | None, answers: bool) -> Finding:
    """Check the sockets of one process.

    `holder`: the process that holds the lock beside them; `answers`: whether its control socket does.
    """
    if holder is not None:
        who = f"process {holder}" if holder else "a process"
        if answers:
            return Finding(Level.OK, subject, f"{who} is running and answers")
        return Finding(
            Level.FAIL, subject, f"{who} is running but does not answer", "see its log; logos down --kill"
        )
    try:
        left = sorted(path.name for path in directory.iterdir() if stat.S_ISSOCK(path.lstat().st_mode))
    except FileNotFoundError:
        left = []
    except OSError as error:
        return Finding(Level.FAIL, subject, f"{directory}: {error.strerror}")
    if left:
        # the lock is free, so they are stale: the next start replaces them
        return Finding(Level.OK, subject, f"not running; left over from a killed process: {', '.join(left)}")
    return Finding(Level.OK, subject, "not running")


def check_ports(uses: Iterable[PortUse], *, udp: bool = False) -> Iterator[Finding]:
    """Check that each TCP (or UDP) port is free."""
    for use in uses:
        try:
            refuse_taken_ports([use], udp=udp)
        except ConfigError as error:
            yield Finding(Level.FAIL, "ports", str(error), f"give another {use.key}, or ports-shift")
        else:
            text = f"{use.key}: {use.port} on {use.address} is free ({'UDP' if udp else 'TCP'})"
            yield Finding(Level.OK, "ports", text)


def check_certificate(path: Path, now: float | None = None) -> Finding:
    """Check that the certificate of secure WebSockets can be read, and is valid for some time yet."""
    subject, advice = "websocket certificate", "renew it; a running node takes the new files by itself"
    try:
        own = x509.load_pem_x509_certificate(path.read_bytes())  # the first of the chain
    except OSError as error:
        return Finding(Level.FAIL, subject, f"{path}: {error.strerror}")
    except ValueError:
        return Finding(Level.FAIL, subject, f"{path} is not a certificate in PEM")
    end = own.not_valid_after_utc
    left = end.timestamp() - (time.time() if now is None else now)
    text = f"{path}: {'expired' if left <= 0 else 'expires'} on {end:%Y-%m-%d}"
    if left <= 0:
        return Finding(Level.WARN, subject, f"{text}: browsers do not connect", advice)
    days = int(left // 86400)
    text = f"{text}, in {count(days, 'day')}"
    if days < _CERTIFICATE_DAYS:
        return Finding(Level.WARN, subject, text, advice)
    return Finding(Level.OK, subject, text)


# --- limits and the clock ---------------------------------------------------------------------------------


def check_descriptors(wanted: int, hard: int | None = None) -> Finding:
    """Check the limit of open files. `hard`: the hard limit that applies, this process's by default."""
    if hard is None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        return Finding(Level.OK, "open files", "no limit")
    if hard < wanted:
        level = Level.FAIL if hard < LEAST else Level.WARN
        advice = f"raise it to {wanted} (ulimit -Hn, LimitNOFILE= of systemd)"
        if level is Level.WARN:
            advice += ", or lower max-connections"
        return Finding(level, "open files", f"at most {hard}, {wanted} are wanted", advice)
    return Finding(Level.OK, "open files", f"{hard} possible, {wanted} wanted")


def check_clock(data_dir: Path, now: float | None = None, synchronised: bool | None = None) -> Finding:
    """Check the clock: messages carry their sender's time and are refused if it is far off."""
    now = time.time() if now is None else now
    newest = max((_mtime(path) for path in data_dir.glob("*")), default=0.0) if data_dir.is_dir() else 0.0
    if newest > now + _CLOCK_BACK:
        return Finding(
            Level.FAIL,
            "clock",
            f"files in {data_dir} are {newest - now:.0f} s younger than now: the clock was set back",
            "set the clock; run a time service",
        )
    known = _clock_synchronised() if synchronised is None else synchronised
    if known is False:
        return Finding(
            Level.WARN, "clock", "not synchronised, says the system", "run a time service (chrony, timesyncd)"
        )
    return Finding(Level.OK, "clock", "synchronised" if known else "runs; whether it is right is not known")


def _mtime(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _clock_synchronised() -> bool | None:
    """Ask adjtimex(2). None if the call is missing or not permitted."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    # struct timex, oversized for any architecture; all zero means read only
    answer = int(adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    return None if answer < 0 else answer != _TIME_ERROR
