"""How long a reader waits: until the first token, and until the answer is there.

The median and the 95th percentile, not the mean: it is the slow answers that people remember.
"""

from collections.abc import Mapping

import numpy as np

from eval.statistics import Floats

# `replayed` are the seconds that an answer out of the cache took at first, which the others hold already.
# `read` lies within `generate` and ends at the first token, and a second search (`hop`) within that; what comes after
# the token the reader need not wait for.
_NOT_BEFORE_THE_FIRST_TOKEN = frozenset(
    {"generate", "read", "hop", "cite", "total", "replayed", "replayed_here", "replayed_cpu"}
)


def first_token_seconds(timings: Mapping[str, float | None]) -> float | None:
    """Return the seconds until the first token: every stage before the model, and the reading of the prompt.

    None where no token came, or where nobody timed it.
    """
    read = timings.get("read")
    if read is None:
        return None
    before = [seconds for stage, seconds in timings.items() if stage not in _NOT_BEFORE_THE_FIRST_TOKEN]
    return read + sum(seconds for seconds in before if seconds is not None)


def quantiles(seconds_n: Floats) -> dict[str, float | None]:
    """Return the median and the 95th percentile of what was timed, by linear interpolation."""
    timed = seconds_n[np.isfinite(seconds_n)]
    if not len(timed):
        return {"p50": None, "p95": None}
    p50, p95 = np.quantile(timed, [0.5, 0.95])
    return {"p50": float(p50), "p95": float(p95)}
