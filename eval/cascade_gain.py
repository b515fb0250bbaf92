"""The file that the query path takes, made of a run: how much likelier the large model is right, and its cost."""

from pathlib import Path
from typing import Any

from eval.cascade_choice import fit_gain
from eval.cascade_pairs import Pairs
from eval.files import quoted, write_text
from eval.results import read_run
from rag.cascade import Gain
from rag.errors import DataError


def gain_of(pairs: Pairs, out: Path, *, metric: str, keep: float) -> Gain:
    """Return what the query path needs to hand questions on, fitted on all of them.

    Raises `DataError` where one of the systems has no model that the setting `cascade.generator` could name.
    """
    run = read_run(out)
    names = [_model(run.systems[name].row.get("generator"), name) for name in (pairs.small, pairs.large)]
    told = f"{pairs.n} questions of {run.data.get('name', '')}"
    return fit_gain(pairs, metric, keep, models=(names[0], names[1]), fitted_on=told)


def write_gain(file: Path, gain: Gain) -> None:
    """Write the readable file for the setting `cascade.file`, atomically."""
    lines = [
        "# Fitted by `smallhold eval cascade`: of an answer of the confidence c each model is right with a chance of",
        "# 1 / (1 + exp(-(intercept + slope x ln(c / (1 - c))))). With a price of an error the large model is asked",
        "# where the difference times that price is above the cost, otherwise where c is below the threshold, which",
        "# kept the share `kept` of its score.",
        f"fitted_on = {quoted(gain.fitted_on)}",
        f"small = {quoted(gain.small)}",
        f"large = {quoted(gain.large)}",
        *([] if gain.cost is None else [f"cost = {gain.cost:.6g}"]),
        f"threshold = {gain.threshold}",
        f"kept = {gain.kept}",
    ]
    for name, chance in (("small_right", gain.small_right), ("large_right", gain.large_right)):
        lines += ["", f"[{name}]", f"intercept = {chance.intercept}", f"slope = {chance.slope}"]
    write_text(file, "\n".join(lines) + "\n")


def _model(generator: Any, system: str) -> str:
    if isinstance(generator, dict):
        return str(generator.get("model"))
    if not generator:
        raise DataError(f"{system} has recorded answers, and nobody can ask it", hint="Leave --write out.")
    return str(generator)
