"""The default verdict "right": a small rule learnt from people's judgements, without any language model.

A logistic regression over what a person looks at (`eval.match`), and two limits beyond which an answer lists whatever
may be right. The rule lies in `configs/right.toml`; `eval.judged` learns it and says how far it agrees with people.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, field_validator

from eval.files import quoted, write_text
from eval.match import Match, match
from rag.errors import ConfigError, DataError
from rag.toml import read_toml

FEWEST_ANSWERS = 50

# In the order of the file. The counts of `Match` are no terms but limits: people who judge have hardly seen an answer
# that lists everything, so a regression cannot learn from them what to think of it.
WEIGHED = ("whole", "found", "exact", "refused")


class Right(BaseModel):
    """The rule: right where the estimate reaches `threshold` and neither limit is passed.

    `thresholds` are for other scorers, by name: from which score on they agree best with people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fitted_on: str
    threshold: float
    intercept: float
    most_options: int
    most_strays: int
    weights: Mapping[str, float]
    thresholds: Mapping[str, float] = {}

    @field_validator("weights")
    @classmethod
    def _are_all_there(cls, weights: Mapping[str, float]) -> Mapping[str, float]:
        if set(weights) != set(WEIGHED):
            raise ValueError(f"wanted are weights for {', '.join(WEIGHED)}")
        return weights

    def probability(self, found: Match) -> float:
        """Return the estimated probability that a person would call the answer right, limits aside."""
        z = self.intercept + sum(weight * getattr(found, name) for name, weight in self.weights.items())
        return 1 / (1 + math.exp(-max(-500.0, min(500.0, z))))

    def accepts(self, found: Match) -> bool:
        """Whether the answer is right."""
        commits = found.options <= self.most_options and found.strays <= self.most_strays
        return commits and self.probability(found) >= self.threshold


def right(question: str, answer: str, gold: Sequence[str], rule: Right | None = None) -> float:
    """1 where a person would call the answer right by one of the gold answers, as far as the rule can tell; else 0."""
    return float((rule or shipped_rule()).accepts(match(question, answer, gold)))


@cache
def shipped_rule() -> Right:
    """Return the rule of `configs/right.toml`, read once."""
    return load_rule()


def load_rule(file: Path | None = None) -> Right:
    """Read a rule, by default the shipped one. Raises `ConfigError`."""
    source = file or resources.files("configs") / "right.toml"
    try:
        return Right.model_validate(read_toml(source))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the rule {source} cannot be used: {error}", hint="Make one with `smallhold eval judged --fit --out FILE`."
        ) from error


def fit_rule(
    matches: Sequence[Match], judged_right: Sequence[bool], *, fitted_on: str, most_options: int, most_strays: int
) -> Right:
    """Learn the weights from people's verdicts. Raises `DataError` where there are too few of either kind."""
    from sklearn.linear_model import LogisticRegression

    right_n = np.array(judged_right, dtype=bool)
    if len(right_n) < FEWEST_ANSWERS or right_n.all() or not right_n.any():
        raise DataError(
            f"{len(right_n)} judged answers, {int(right_n.sum())} of them right, are too few to learn from",
            hint=f"At least {FEWEST_ANSWERS} are wanted, right ones and wrong ones.",
        )
    table_nd = np.array([[getattr(found, name) for name in WEIGHED] for found in matches], dtype=np.float64)
    # The penalty acts on standardised columns; the weights are written for the columns as they are.
    mean_d, deviation_d = table_nd.mean(axis=0), table_nd.std(axis=0)
    deviation_d[deviation_d == 0] = 1.0
    model = LogisticRegression(C=1.0).fit((table_nd - mean_d) / deviation_d, right_n)
    weights_d: npt.NDArray[np.float64] = model.coef_[0] / deviation_d
    return Right(
        fitted_on=fitted_on,
        threshold=0.5,
        intercept=round(float(model.intercept_[0] - weights_d @ mean_d), 4),
        most_options=most_options,
        most_strays=most_strays,
        weights={name: round(float(weight), 4) for name, weight in zip(WEIGHED, weights_d, strict=True)},
    )


def write_rule(file: Path, rule: Right) -> None:
    """Write the readable file that `load_rule` reads, atomically."""
    lines = [
        "# Learnt by `smallhold eval judged --fit`. An answer is right where 1 / (1 + exp(-(intercept + sum of weight",
        "# x number))) reaches the threshold and neither limit is passed; docs/evaluation.md explains the numbers.",
        f"fitted_on = {quoted(rule.fitted_on)}",
        f"threshold = {rule.threshold}",
        f"intercept = {rule.intercept}",
        "",
        "# More other things of its kind in the list that holds the right answer, or more sentences about something",
        "# else, and the answer lists whatever may be right.",
        f"most_options = {rule.most_options}",
        f"most_strays = {rule.most_strays}",
        "",
        "[weights]",
        *(f"{name} = {weight}" for name, weight in rule.weights.items()),
        "",
        "# From which score on other scorers agree best with people, on the same answers.",
        "[thresholds]",
        *(f"{name} = {score}" for name, score in rule.thresholds.items()),
    ]
    write_text(file, "\n".join(lines) + "\n")
