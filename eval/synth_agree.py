"""Whether a synthetic set ranks systems as a human set does: Kendall's rank correlation of the systems' scores.

Tau is (concordant - discordant pairs) / all pairs, in the form tau-b that allows for ties (Kendall 1945). With few
systems it says little: n systems can be in n! orders, so that even perfect agreement comes by chance once in n!.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.measurements import COLUMNS, Measured, measure
from eval.metrics import METRICS
from rag.errors import DataError

# Below this many systems a tau of 0.6 is not significant at the 5% level (two-sided).
FEW_SYSTEMS = 10


class Agreement(NamedTuple):
    """Kendall's tau-b of the systems' means in one metric, over the systems that were scored in both runs.

    `tau` and `p` (two-sided) are None where one set sees no difference between any systems, or there is one system.
    """

    metric: str
    systems: dict[str, tuple[float, float]]
    tau: float | None
    p: float | None

    @property
    def warning(self) -> str:
        """What to mind before believing it, empty where there is nothing."""
        n = len(self.systems)
        if self.tau is None:
            return f"{n} systems, or equal scores in one set: there is no order to compare"
        if n < FEW_SYSTEMS:
            return (
                f"{n} systems are few: even perfect agreement of {n} comes by chance once in {math.factorial(n):,}, "
                f"and one swapped pair moves tau by {2 / (n * (n - 1) / 2):.2f}"
            )
        return ""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        systems = {name: {"synthetic": a, "human": b} for name, (a, b) in self.systems.items()}
        return {
            "metric": self.metric,
            "n": len(self.systems),
            "tau": self.tau,
            "p": self.p,
            "warning": self.warning,
            "systems": systems,
        }


def agreement(run_synthetic: Path, run_human: Path, metrics: tuple[str, ...] = ()) -> list[Agreement]:
    """Compare the rankings of the systems of the same name in two runs; without `metrics`, in all that both scored.

    Raises `DataError` where a folder holds no run, there is no such metric, or the runs have no system in common.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise DataError(f"there is no metric {metric!r}", hint=f"There are {', '.join(METRICS)}.")
    synthetic, human = measure(run_synthetic), measure(run_human)
    common = [name for name in synthetic.systems if name in human.systems]
    if not common:
        raise DataError(
            f"{run_synthetic} and {run_human} have no system in common",
            hint="Run the same --system names on both sets.",
        )
    found = [_agree(metric, synthetic, human, common) for metric in metrics or METRICS]
    return [one for one in found if one.systems or one.metric in metrics]


def _agree(metric: str, synthetic: Measured, human: Measured, names: list[str]) -> Agreement:
    pairs = {name: (_mean(synthetic, name, metric), _mean(human, name, metric)) for name in names}
    scored = {name: (a, b) for name, (a, b) in pairs.items() if a is not None and b is not None}
    return Agreement(metric, scored, *kendall([a for a, _ in scored.values()], [b for _, b in scored.values()]))


def _mean(measured: Measured, name: str, metric: str) -> float | None:
    column = measured.systems[name].values[:, COLUMNS.index(metric)]
    scored = column[np.isfinite(column)]
    return float(scored.mean()) if len(scored) else None


def kendall(a: list[float], b: list[float]) -> tuple[float | None, float | None]:
    """Return tau-b and its two-sided p; None twice where either list has no two different values."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None, None
    from scipy.stats import kendalltau

    result = kendalltau(a, b)
    return float(result.statistic), float(result.pvalue)
