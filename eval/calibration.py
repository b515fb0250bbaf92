"""Fit the estimate of an answer's being right that the abstention uses, from answers that were given and scored.

The rows come from runs with abstention switched off, so that every question has an answer and its signals. An answer
is right where its question is answerable and the scorer `right` says so (see `eval/right.py`); an answer to an
unanswerable question is wrong.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eval.files import write_text
from eval.results import read_rows
from rag.abstain import Abstention, Signal
from rag.errors import DataError

Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Signals and the value that speaks most for an answer: what an unknown one counts as. Fitted on those that every row
# has: only a model that was taught to decline tells the last one.
BEST = {"cosine": 1.0, "coverage": 1.0, "grounding": 1.0, "echo": 0.0, "first_logprob": 0.0, "mean_logprob": 0.0}
DECLINE = {"decline": -12.0}
FEWEST_ROWS = 50
FOLDS = 5


class Calibration(NamedTuple):
    """A fitted estimate and how it does on rows that its folds had not seen.

    `auc` is the area under the ROC curve, `refused_wrong` the share of wrong answers below the threshold.
    """

    abstention: Abstention
    rows: int
    right: int
    auc: float
    refused_wrong: float


def calibrate(runs: Sequence[Path], *, keep_right: float) -> Calibration:
    """Fit a logistic regression on the rows of runs; the threshold keeps the share `keep_right` of right answers.

    The threshold is set on cross-validated estimates. Raises `DataError` where there are too few rows of each kind.
    """
    rows = [row for run in runs for row in read_rows(run) if all(row.signals.get(name) is not None for name in BEST)]
    right_n = np.array([row.answerable and row.scores.get("right") == 1 for row in rows])
    best = BEST | (DECLINE if all(row.signals.get("decline") is not None for row in rows) else {})
    if len(rows) < FEWEST_ROWS or min(right_n.sum(), (~right_n).sum()) < FOLDS:
        raise DataError(
            f"{len(rows)} answers with signals are too few to fit on ({int(right_n.sum())} of them right)",
            hint="Run `smallhold eval run --no-abstain` on more questions, some of them unanswerable.",
        )
    signals_nd = np.array([[row.signals[name] for name in best] for row in rows], np.float64)
    unseen_n = _cross_validated(signals_nd, right_n)
    threshold = float(np.quantile(unseen_n[right_n], 1 - keep_right))
    intercept, weights = _fit(signals_nd, right_n)
    named = zip(best.items(), weights, strict=True)
    fitted = Abstention(
        fitted_on=f"{len(rows)} answers of {', '.join(run.name for run in runs)}",
        threshold=round(threshold, 4),
        intercept=intercept,
        signals={name: Signal(weight=weight, best=best) for (name, best), weight in named},
    )
    refused_wrong = float((unseen_n[~right_n] < threshold).mean())
    return Calibration(fitted, len(rows), int(right_n.sum()), _auc(unseen_n, right_n), refused_wrong)


def write_abstention(file: Path, calibration: Calibration) -> None:
    """Write the readable file that `rag.abstain` loads, atomically."""
    fitted = calibration.abstention
    lines = [
        "# Fitted by `smallhold eval calibrate`: the estimate that an answer is right is",
        "# 1 / (1 + exp(-(intercept + sum of weight x signal))); below the threshold it is not given.",
        f'fitted_on = "{fitted.fitted_on}"',
        f"threshold = {fitted.threshold}",
        f"intercept = {fitted.intercept}",
    ]
    for name, signal in fitted.signals.items():
        lines += ["", f"[signals.{name}]", f"weight = {signal.weight}", f"best = {signal.best}"]
    write_text(file, "\n".join(lines) + "\n")


def _fit(signals_nd: Array, right_n: BoolArray) -> tuple[float, list[float]]:
    """Return intercept and weights on the signals' own scales; the penalty acts on standardized ones."""
    from sklearn.linear_model import LogisticRegression

    mean_d, deviation_d = signals_nd.mean(axis=0), signals_nd.std(axis=0)
    deviation_d[deviation_d == 0] = 1.0
    model = LogisticRegression(C=1.0).fit((signals_nd - mean_d) / deviation_d, right_n)
    weights_d = model.coef_[0] / deviation_d
    return round(float(model.intercept_[0] - weights_d @ mean_d), 4), [round(float(w), 4) for w in weights_d]


def _cross_validated(signals_nd: Array, right_n: BoolArray) -> Array:
    """Return for each row the estimate of a fit that has not seen it."""
    from sklearn.model_selection import StratifiedKFold

    estimates_n = np.empty(len(right_n))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for seen, unseen in folds.split(signals_nd, right_n):
        intercept, weights = _fit(signals_nd[seen], right_n[seen])
        estimates_n[unseen] = 1 / (1 + np.exp(-(intercept + signals_nd[unseen] @ np.array(weights))))
    return estimates_n


def _auc(estimates_n: Array, right_n: BoolArray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(right_n, estimates_n))
