"""Energy and processor time of a question: read from the machine's counters where it has them, else by a power model.

Measured: RAPL, the counters of Intel and AMD processors under /sys/class/powercap (David et al. 2010). They count the
whole package and its memory, so whatever else ran then is in them.

Estimated: every core draws its idle power all the time and the difference to its full power while it computes. The
defaults are what Cloud Carbon Footprint takes for an average virtual CPU in a large data centre (its AWS figures,
without cooling): 0.74 W idle, 3.5 W at full load. A desktop draws several times as much; `watts` of a system says so.
"""

import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

IDLE_WATTS = 0.74
ACTIVE_WATTS = 3.5

POWERCAP = Path("/sys/class/powercap")

# psys holds the whole platform, packages included; core and uncore are parts of their package. Memory is apart.
_COUNTED = ("package", "dram")
_ZONES = 64


class Reading(NamedTuple):
    """What the counters say at a moment: CPU seconds of this process with its threads, and microjoules per zone."""

    cpu_seconds: float
    microjoules: tuple[int, ...]


class Spent(NamedTuple):
    """What lies between two readings; `joules` is None where the machine has no counters that can be read."""

    cpu_seconds: float
    cores: int
    joules: float | None


class Meter:
    """Reads the counters. The trap: of questions asked at the same time, each span holds the work of all of them; for
    these there is `Laps`.
    """

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._zones = _zones(powercap)
        self._ranges = tuple(_number(zone / "max_energy_range_uj") or 0 for zone in self._zones)
        self._cores = usable_cores()

    def read(self) -> Reading:
        """Return the counters of now."""
        found = [_number(zone / "energy_uj") for zone in self._zones]
        return Reading(time.process_time(), tuple(value for value in found if value is not None))

    def since(self, earlier: Reading) -> Spent:
        """Return what was spent since an earlier reading."""
        now = self.read()
        joules = None
        if self._zones and len(now.microjoules) == len(earlier.microjoules) == len(self._zones):
            joules = sum(map(_advanced, earlier.microjoules, now.microjoules, self._ranges)) / 1e6
        return Spent(now.cpu_seconds - earlier.cpu_seconds, self._cores, joules)


class Laps(Meter):
    """Counters for questions that are asked at the same time: each gets what was spent since the last one ended.

    So every second is counted once, and the mean over the questions is right; of a single one the figure says little.
    """

    def __init__(self, powercap: Path = POWERCAP) -> None:
        super().__init__(powercap)
        self._lock = threading.Lock()
        self._ended = self.read()

    def since(self, earlier: Reading) -> Spent:
        """Return what was spent since this was last asked, by whatever thread."""
        del earlier
        with self._lock:
            spent = super().since(self._ended)
            self._ended = self.read()
        return spent


def estimated_joules(
    *, seconds: float, cpu_seconds: float | None, cores: int, idle: float = IDLE_WATTS, active: float = ACTIVE_WATTS
) -> float:
    """Return joules by the power model: watts per core, `cores` of them for `seconds`, computing for `cpu_seconds`.

    Where nobody measured CPU seconds all cores are taken to have computed all the time.
    """
    busy = cores * seconds if cpu_seconds is None else min(cpu_seconds, cores * seconds)
    return cores * seconds * idle + busy * (active - idle)


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _zones(powercap: Path) -> tuple[Path, ...]:
    """Return the zones that can be read and do not overlap; none is more common than some: mostly root alone may."""
    try:
        folders = sorted(powercap.glob("intel-rapl:*"))[:_ZONES]
    except OSError:
        return ()
    return tuple(
        zone for zone in folders if _name(zone).startswith(_COUNTED) and _number(zone / "energy_uj") is not None
    )


def _name(zone: Path) -> str:
    try:
        return (zone / "name").read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii", errors="replace"))
    except (OSError, ValueError):
        return None


def _advanced(earlier: int, now: int, limit: int) -> int:
    """How far a counter that starts again after `limit` has come."""
    return now - earlier if now >= earlier else now + limit - earlier
