"""This machine, as far as figures measured on it depend on it."""

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


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
