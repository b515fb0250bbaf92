"""What an estimate of being right can promise: a share of wrong answers among those it gives.

The thresholds of a promise were tested one after the other, from the strictest on, against answers that the estimate
had not been fitted to (`eval/promise.py`). Each is kept with the counts of its test, so that any target can be looked
up later, without the answers.
"""

from collections.abc import Mapping
from itertools import pairwise, takewhile
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

# What decides which answers are given: a promise made with other values of these says nothing. How documents were cut
# belongs to the index, not to the settings that ask it.
_SECTIONS: Mapping[str, frozenset[str] | None] = {
    "retrieval": None,
    "evidence": None,
    "answer": None,
    "deliberation": frozenset({"samples", "phrasings", "temperature", "reason_tokens"}),
    "embedder": frozenset({"model"}),
    "generator": frozenset({"model", "endpoint", "prompt", "max_tokens"}),
}

# What a file says nothing of that was made before there was any, or with none.
_UNTOLD: Mapping[str, int | float] = {
    "deliberation.samples": 1,
    "deliberation.phrasings": 1,
    "deliberation.reason_tokens": 0,
}

Value = str | int | float | bool


class Rung(BaseModel):
    """A threshold that was tested: of the `answered` answers that reach it, `wrong` were wrong.

    `bound` is the upper limit of the share of wrong answers at the promise's confidence (Clopper and Pearson 1934).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(ge=0, le=1)
    answered: int = Field(ge=0)
    wrong: int = Field(ge=0)
    bound: float = Field(ge=0, le=1)


class Promise(BaseModel):
    """The tested thresholds, strictest first, in the order in which they were tested.

    `questions` were asked for the test, those that got no answer included. `settings` are those that the answers were
    given with. The confidence is that of one target, chosen without looking at the counts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    confidence: float = Field(gt=0, lt=1)
    questions: int = Field(ge=0)
    settings: Mapping[str, Value] = {}
    rungs: tuple[Rung, ...] = ()

    @model_validator(mode="after")
    def _goes_down(self) -> "Promise":
        thresholds = [rung.threshold for rung in self.rungs]
        if any(below >= above for above, below in pairwise(thresholds)):
            raise ValueError("the thresholds of a promise must fall: they are tested from the strictest on")
        return self

    def rung(self, risk: float) -> Rung | None:
        """Return the rung that keeps the risk and answers most, None where the risk cannot be promised.

        Testing stops at the first threshold that fails, and what comes after it counts no more, however good it looks:
        that is what keeps the confidence of many tests that of one (fixed-sequence testing).
        """
        return next(reversed([*takewhile(lambda rung: rung.bound <= risk, self.rungs)]), None)

    def coverage(self, rung: Rung) -> float:
        """Return the share of the test's questions that a threshold answers."""
        return rung.answered / self.questions if self.questions else 0.0

    def broken_by(self, settings: Mapping[str, Mapping[str, Any]]) -> str:
        """Return which setting is not as it was when the promise was made, "" where all are."""
        now = answer_settings(settings)
        told = {**{key: was for key, was in _UNTOLD.items() if key in now}, **self.settings}
        changed = [f"{key} is {now.get(key)!r}, not {was!r}" for key, was in told.items() if now.get(key) != was]
        return "; ".join(changed)


def answer_settings(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Value]:
    """Return those of all settings, given as plain values by section, on which answers depend: `evidence.passages`."""
    return {
        f"{section}.{key}": value
        for section, wanted in _SECTIONS.items()
        for key, value in settings.get(section, {}).items()
        if (wanted is None or key in wanted) and isinstance(value, Value)
    }
