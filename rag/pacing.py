"""When to send the next request to an endpoint: turns under a rate limit, and pauses after a failure."""

import math
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Seconds: the first pause, doubled each time up to the longest, and how long an endpoint may ask us to wait.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 20.0
LONGEST_RETRY_AFTER = 60.0


class Pace:
    """Spaces the beginnings of requests evenly, so that no minute sees more than `per_minute`; 0 lets all pass.

    Threads share the turns; each has its own count of the seconds that it `waited`, as it tells them.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._interval = 60.0 / per_minute if per_minute > 0 else 0.0
        self._clock = clock
        self._lock = threading.Lock()
        self._next = -math.inf
        self._of_thread = threading.local()

    @property
    def waited(self) -> float:
        """Seconds that this thread has waited for its turns."""
        return float(getattr(self._of_thread, "waited", 0.0))

    def turn(self) -> float:
        """Take the next turn; return in how many seconds it comes."""
        if not self._interval:
            return 0.0
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + self._interval
        return turn - now

    def slept(self, seconds: float) -> None:
        """Note that this thread has waited so long for its turn."""
        self._of_thread.waited = self.waited + seconds


def pause(failed: int, retry_after: str) -> float:
    """Return seconds to wait after the failed attempt of that number, from 0.

    They double, with jitter so that clients spread out, and are no less than the endpoint asks for, within bounds.
    """
    doubling: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**failed) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
    return max(doubling, min(LONGEST_RETRY_AFTER, _retry_after_seconds(retry_after)))


def _retry_after_seconds(value: str) -> float:
    """Read a Retry-After header, seconds or a date; 0 where it is neither."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
