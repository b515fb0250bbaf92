"""This machine, as far as figures measured on it depend on it, and how much of it this process may use.

A container or a service may be given less time of the processors, and less memory, than the machine has: by control
groups, whose files say how much (cgroups(7); v2, and v1 where that is in use).
"""

import math
import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
_UNLIMITED = 2**60  # bytes; version 1 says "no limit" as the largest number of pages


def cpu_model() -> str:
    """Return the processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def free_bytes(directory: Path) -> int:
    """Return the free bytes of the disk on which a directory is, or would be made."""
    return shutil.disk_usage(next(place for place in (directory, *directory.parents) if place.exists())).free


def installed(package: str) -> str | None:
    """Return the version of an installed package, None where it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def available_cores(groups: Path = GROUPS, own: Path = OWN_GROUPS) -> int:
    """Return how many threads can be at work at once: one for each core that this process may use, and not more than
    its control groups allow time for (`docker run --cpus 2`). With more, all of them stand still for most of the time.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min([cores, *map(math.ceil, _quotas(groups, own))]))


def memory_limit(groups: Path = GROUPS, own: Path = OWN_GROUPS) -> int | None:
    """Return the bytes of memory that the control groups of this process allow it, None where they set no limit."""
    names = ("memory.max", "memory.limit_in_bytes")
    told = [_word(folder / name) for folder in _folders("memory", groups, own) for name in names]
    limits = [int(limit) for limit in told if limit.isdecimal()]
    return min((limit for limit in limits if limit < _UNLIMITED), default=None)


def _quotas(groups: Path, own: Path) -> Iterator[float]:
    """Yield how many processors' time each group allows."""
    for folder in _folders("cpu", groups, own):
        for quota, period in (
            (_word(folder / "cpu.max"), _word(folder / "cpu.max", 1)),
            (_word(folder / "cpu.cfs_quota_us"), _word(folder / "cpu.cfs_period_us")),
        ):
            if quota.isdecimal() and period.isdecimal() and int(period):  # else "max", or -1: no limit
                yield int(quota) / int(period)


def _folders(controller: str, groups: Path, own: Path) -> Iterator[Path]:
    """Yield the folders of the groups that this process is in, from its own up to the outermost that can be seen."""
    try:
        lines = own.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        base = groups / controller if controllers else groups
        folder = base / path.lstrip("/")
        yield from (group for group in (folder, *folder.parents) if group.is_relative_to(base))


def _word(file: Path, number: int = 0) -> str:
    """Return a word of a file, "" where there is none."""
    try:
        return file.read_text(encoding="ascii").split()[number]
    except (OSError, ValueError, IndexError):
        return ""
