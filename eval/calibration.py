"""Fit the estimate of an answer's being right that the abstention uses, and test which risk targets it keeps.

The rows come from runs of one system with abstention switched off, so that every question has an answer and its
signals. An answer is right where its question is answerable and the scorer `right` says so (see `eval/right.py`); an
answer to an unanswerable question is wrong.

Half of the questions are fitted on; thresholds are tested on the other half (`eval/promise.py`). The halves are drawn
by lot among the different questions, and not evened out by right and wrong answers: then the wrong ones in the one
half would tell how many there are in the other, which a test must not know beforehand.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from eval.calibration_answers import Answers, read_answers
from eval.files import quoted, write_text
from eval.promise import CONFIDENCE, Judged, fewest_answers, ladder
from eval.rows import Row
from eval.statistics import SEED, Floats
from rag.abstain import Abstention, Signal
from rag.errors import DataError
from rag.promise import Promise, Value

BoolArray = npt.NDArray[np.bool_]

# Signals and the value that speaks most for an answer: what an unknown one counts as. Fitted on those that every row
# has: only a model that was taught to decline tells the last one.
BEST = {"cosine": 1.0, "coverage": 1.0, "grounding": 1.0, "echo": 0.0, "first_logprob": 0.0, "mean_logprob": 0.0}
DECLINE = {"decline": -12.0}
# These speak against an answer where they are high, the others for it.
AGAINST = frozenset({"echo", "decline"})

FEWEST_ROWS = 50
FEWEST_OF_A_KIND = 5  # right answers, and wrong ones, to fit on; one of each to test with

# The targets that a person is told of. The file answers any other one as well.
TOLD = (0.05, 0.1, 0.2, 0.3)


class Calibration(NamedTuple):
    """A fitted and tested estimate, and how it does on the answers that it was not fitted to.

    `rows` answers were there, `right` of them right. `auc` is the area under the ROC curve, `refused_wrong` the share
    of wrong answers below the threshold that keeps the share `kept_right` of the right ones.
    """

    abstention: Abstention
    promise: Promise
    rows: int
    right: int
    auc: float
    kept_right: float
    refused_wrong: float


def calibrate(runs: Sequence[Path], *, keep_right: float, system: str = "") -> Calibration:
    """Fit and test an estimate on the rows of runs; its own threshold keeps the share `keep_right` of right answers.

    `system` names one of several in a run. Raises `DataError` where a run does not suit, or has too few answers.
    """
    return calibrate_answers(read_answers(runs, system), keep_right=keep_right)


def calibrate_answers(answers: Answers, *, keep_right: float) -> Calibration:
    """Fit and test an estimate on answers; see `calibrate`."""
    rows = _distinct(answers.rows)
    seen_n = _drawn(rows)
    seen = [row for row, drawn in zip(rows, seen_n, strict=True) if drawn and _answered(row)]
    unseen = [row for row, drawn in zip(rows, seen_n, strict=True) if not drawn and _answered(row)]
    _check_enough(seen, unseen)
    tells_declining = all(row.signals.get("decline") is not None for row in (*seen, *unseen))
    estimate = _fit(seen, BEST | (DECLINE if tells_declining else {}))
    tested = _judged(estimate, unseen)
    promise = Promise(
        confidence=CONFIDENCE,
        questions=int((~seen_n).sum()),
        settings=answers.settings,
        rungs=ladder(_judged(estimate, seen), tested),
    )
    right_n = tested.wrong_n == 0
    threshold = _keeping(keep_right, tested.confidence_n[right_n])
    fitted = estimate.model_copy(
        update={
            "fitted_on": f"{len(seen)} answers of {', '.join(answers.names)}",
            "threshold": threshold,
            "promise": promise,
        }
    )
    return Calibration(
        abstention=fitted,
        promise=promise,
        rows=len(seen) + len(unseen),
        right=sum(map(_right, (*seen, *unseen))),
        auc=_auc(tested.confidence_n, right_n),
        kept_right=keep_right,
        refused_wrong=float((tested.confidence_n[~right_n] < threshold).mean()),
    )


def _keeping(share: float, right_n: Floats) -> float:
    """Return the threshold, in four digits, below which no more than the rest of the right answers lies.

    Of those that keep the same right answers it is the middle one: at the upper end of the gap (0.11 to 0.22 in what
    the reader was fitted with) one answer would decide how many more are withheld from new questions.
    """
    least = float(np.quantile(right_n, 1 - share, method="lower"))
    next_below = float(right_n[right_n < least].max(initial=0.0))
    return math.floor((least + next_below) / 2 * 10_000) / 10_000


def described(found: Calibration, told: Sequence[float] = TOLD) -> str:
    """Return in words what was fitted and which of the targets `told` can be promised."""
    fitted, promise = found.abstention, found.promise
    lines = [
        f"fitted on {fitted.fitted_on}, tested on {promise.rungs[-1].answered:,} others, to {promise.questions:,} "
        f"questions; of all {found.rows:,} answers {found.right:,} are right",
        f"without a target: {found.kept_right:.0%} of the right answers are given and {found.refused_wrong:.0%} of the "
        f"wrong ones refused (AUC {found.auc:.3f})",
        f"with a target chosen beforehand, at {promise.confidence:.0%} confidence, on new questions like these:",
    ]
    return "\n".join([*lines, *(f"  {_sentence(promise, risk)}" for risk in told)])


def calibration_json(found: Calibration, told: Sequence[float] = TOLD) -> dict[str, Any]:
    """Return the same as plain values."""
    promise = found.promise
    rungs = {risk: promise.rung(risk) for risk in told}
    return {
        "answers": found.rows,
        "right": found.right,
        "auc": found.auc,
        "threshold": found.abstention.threshold,
        "kept_right": found.kept_right,
        "refused_wrong": found.refused_wrong,
        "confidence": promise.confidence,
        "questions": promise.questions,
        "targets": [
            {"risk": risk, "attainable": rung is not None}
            | ({} if rung is None else {**rung.model_dump(), "coverage": promise.coverage(rung)})
            for risk, rung in rungs.items()
        ],
    }


def _sentence(promise: Promise, risk: float) -> str:
    rung = promise.rung(risk)
    if rung is not None:
        counts = f"{rung.wrong:,} of {rung.answered:,} were wrong"
        return f"at most {risk:.0%} wrong while answering {promise.coverage(rung):.0%} of the questions ({counts})"
    answered, fewest = promise.rungs[-1].answered, fewest_answers(risk, promise.confidence)
    few = f": it takes {fewest:,} tested answers without a mistake, and there were {answered:,}"
    return f"at most {risk:.0%} wrong: not attainable{few if answered < fewest else ''}"


def write_abstention(file: Path, calibration: Calibration) -> None:
    """Write the readable file that `rag.abstain` loads, atomically."""
    fitted = calibration.abstention
    lines = [
        "# Fitted by `smallhold calibrate`: the estimate that an answer is right is",
        "# 1 / (1 + exp(-(intercept + sum of weight x signal))); below the threshold it is not given.",
        f"fitted_on = {quoted(fitted.fitted_on)}",
        f"threshold = {fitted.threshold}",
        f"intercept = {fitted.intercept}",
    ]
    for name, signal in fitted.signals.items():
        lines += ["", f"[signals.{name}]", f"weight = {signal.weight}", f"best = {signal.best}"]
    lines += ["", *_promise_lines(calibration.promise)]
    write_text(file, "\n".join(lines) + "\n")


def _promise_lines(promise: Promise) -> list[str]:
    lines = [
        "# What it keeps, tested on answers that it was not fitted to. A risk target takes the last threshold before",
        "# the first whose bound is above it; where the very first is above it, the target is not attainable. The",
        "# confidence is that of one target, chosen without looking here; it holds while the settings below do.",
        "[promise]",
        f"confidence = {promise.confidence}",
        f"questions = {promise.questions}",
        "",
        "[promise.settings]",
        *(f"{quoted(key)} = {_toml(value)}" for key, value in promise.settings.items()),
    ]
    for rung in promise.rungs:
        lines += [
            "",
            "[[promise.rungs]]",
            f"threshold = {rung.threshold}",
            f"answered = {rung.answered}",
            f"wrong = {rung.wrong}",
            f"bound = {rung.bound}",
        ]
    return lines


def _toml(value: Value) -> str:
    return quoted(value) if isinstance(value, str) else str(value).lower()


def _distinct(rows: Sequence[Row]) -> list[Row]:
    """Return the rows without repetitions: a question asked twice of the same documents tells nothing more.

    Asked of other documents, or in another conversation, it has other signals.
    """
    first: dict[tuple[object, ...], Row] = {}
    for row in rows:
        first.setdefault((row.question, row.answerable, row.gold, row.answer, *sorted(row.signals.items())), row)
    return list(first.values())


def _drawn(rows: Sequence[Row]) -> BoolArray:
    """Draw half of the different questions; the rows of one question, in whatever runs, are on one side."""
    questions = sorted({row.question for row in rows})
    order = np.random.default_rng(SEED).permutation(len(questions))
    drawn = {questions[place] for place in order[: len(questions) // 2]}
    return np.array([row.question in drawn for row in rows], dtype=bool)


def _answered(row: Row) -> bool:
    return not row.abstained and not row.failed and bool(row.signals)


def _right(row: Row) -> bool:
    return row.answerable and row.scores.get("right") == 1


def _check_enough(seen: Sequence[Row], unseen: Sequence[Row]) -> None:
    """Raise `DataError` where there are too few answers, or too few of them right, or wrong, in either half."""
    rows, right, tested = len(seen) + len(unseen), sum(map(_right, seen)), sum(map(_right, unseen))
    told = f"of {rows} answers with signals {right + tested} are right"
    if rows < FEWEST_ROWS:
        raise DataError(
            f"{told}: it takes {FEWEST_ROWS} answers to fit and to test on",
            hint="Ask more questions with nothing withheld, some of them unanswerable.",
        )
    if right < FEWEST_OF_A_KIND or not tested:
        raise DataError(
            f"{told}: too few to tell them from the wrong ones",
            hint="Ask questions that the documents answer, and see in the rows of the run what was said to them.",
        )
    if len(seen) - right < FEWEST_OF_A_KIND or tested == len(unseen):
        raise DataError(
            f"{told}: too few are wrong to tell which should be withheld",
            hint="Ask questions that the documents do not answer, too: `smallhold eval convert withheld` makes such.",
        )


def _judged(estimate: Abstention, rows: Sequence[Row]) -> Judged:
    """Return how sure the query path would be of the answers, by its own computation, and which are wrong."""
    known = ({name: value for name, value in row.signals.items() if value is not None} for row in rows)
    return Judged(
        np.array([estimate.confidence(signals) for signals in known]),
        np.array([float(not _right(row)) for row in rows]),
    )


def _fit(rows: Sequence[Row], best: Mapping[str, float]) -> Abstention:
    """Fit a logistic regression, unknown signals at their best, as when a question is asked.

    No weight may speak for an answer where its signal is worse. Only then is an unknown signal at its best the most
    that may still come of an answer, and what is refused early would be refused in the end: the answers that are given
    are those of the test.
    """
    signals_nd = np.array(
        [
            [value if (value := row.signals.get(name)) is not None else good for name, good in best.items()]
            for row in rows
        ]
    )
    right_n = np.array([_right(row) for row in rows])
    signs_d = np.array([-1.0 if name in AGAINST else 1.0 for name in best])
    intercept, weights_d = signed_logistic(signals_nd, right_n, signs_d)
    return Abstention(
        fitted_on="",
        threshold=0.5,
        intercept=round(intercept, 4),
        signals={
            name: Signal(weight=round(float(weight), 4) + 0.0, best=good)
            for (name, good), weight in zip(best.items(), weights_d, strict=True)
        },
    )


def signed_logistic(signals_nd: Floats, right_n: BoolArray, signs_d: Floats) -> tuple[float, Floats]:
    """Return intercept and weights on the signals' own scales, each weight of its sign or 0.

    The penalty, half the sum of squares against the sum of log losses, acts on the weights of standardized signals.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    mean_d, deviation_d = signals_nd.mean(axis=0), signals_nd.std(axis=0)
    deviation_d[deviation_d < 1e-12] = 1.0
    table_nd = np.hstack([np.ones((len(right_n), 1)), (signals_nd - mean_d) / deviation_d])

    def loss(weights: Floats) -> tuple[float, Floats]:
        z_n = table_nd @ weights
        penalized = np.concatenate([[0.0], weights[1:]])
        value = float(np.logaddexp(0.0, z_n).sum() - z_n[right_n].sum() + penalized @ penalized / 2)
        return value, table_nd.T @ (expit(z_n) - right_n) + penalized

    bounds = [(None, None), *((0.0, None) if sign > 0 else (None, 0.0) for sign in signs_d)]
    found = minimize(loss, np.zeros(len(bounds)), jac=True, bounds=bounds, method="L-BFGS-B")
    weights_d: Floats = found.x[1:] / deviation_d
    return float(found.x[0] - weights_d @ mean_d), weights_d


def _auc(estimates_n: Floats, right_n: BoolArray) -> float:
    """Return the chance that a right answer has the higher estimate of a pair; ties count half."""
    from scipy.stats import rankdata

    right = int(right_n.sum())
    above = rankdata(estimates_n)[right_n].sum() - right * (right + 1) / 2
    return float(above / (right * (len(right_n) - right)))
