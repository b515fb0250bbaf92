"""Whether to give an answer: an estimate of its being right, from signals of retrieval and generation.

A small model's own word is no signal (told to say "unanswerable" it does so on 2% of right and 10% of wrong
passages), so the estimate is a logistic regression over measured signals. Its coefficients lie in
`configs/abstention`, fitted by `eval/calibration.py`. From which estimate on answers are given is a threshold, or
follows from a risk target where the file holds a promise (`rag/promise.py`).
"""

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from rag.cite import grounding
from rag.datatypes import ScoredChunk
from rag.errors import ConfigError
from rag.promise import Promise
from rag.text import content_words, words
from rag.toml import read_toml

# What is said where there is no answer.
ABSTENTION_TEXT = "The documents do not say."
UNATTAINABLE_TEXT = "No answer here would be sure enough."


class Signal(BaseModel):
    """One term of the regression: its weight, and the value of the signal that speaks most for an answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    weight: float
    best: float


# A threshold that no estimate reaches.
NEVER = math.inf


class Abstention(BaseModel):
    """A fitted estimate of an answer's being right, and the least estimate at which it is given.

    `promise` has what was tested of it, where that was done. `no_promise` says why it does not count here, "" where it
    does; it is found out when settings are at hand and stands in no file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fitted_on: str
    threshold: float
    intercept: float = Field(allow_inf_nan=False)
    signals: Mapping[str, Signal]
    promise: Promise | None = None
    no_promise: str = Field("", exclude=True)

    @property
    def attainable(self) -> bool:
        """Whether any answer can be given."""
        return self.threshold < NEVER

    def at_risk(self, risk: float) -> "Abstention":
        """Return the estimate with the threshold that keeps a risk target; where none does it gives no answer.

        Raises `ConfigError` where nothing was tested that the target could be looked up in.
        """
        if self.promise is None or self.no_promise:
            why = self.no_promise or f"the estimate fitted on {self.fitted_on} was not tested for what it keeps"
            raise ConfigError(
                f"a risk of {risk:g} cannot be promised: {why}",
                hint="Fit one to questions of your own, with the --config, --model and --index that you ask with:\n"
                "    smallhold calibrate --data QA_SET --out abstention.toml\n"
                "Then name the file in the setting abstention.file (SMALLHOLD_ABSTENTION__FILE=abstention.toml).",
            )
        rung = self.promise.rung(risk)
        return self.model_copy(update={"threshold": NEVER if rung is None else rung.threshold})

    def confidence(self, signals: Mapping[str, float]) -> float:
        """Return the estimated probability that the answer is right. Signals not yet known count as their best."""
        z = self.intercept + sum(s.weight * signals.get(name, s.best) for name, s in self.signals.items())
        return 1 / (1 + math.exp(-max(-500.0, min(500.0, z))))

    def trusts(self, signals: Mapping[str, float]) -> bool:
        """Whether an answer with these signals is, or may still turn out, sure enough to be given."""
        return self.confidence(signals) >= self.threshold


def retrieval_signals(question: str, passages: Sequence[ScoredChunk]) -> dict[str, float]:
    """Return what retrieval says about the passages to be read; known before a token is read.

    `cosine`: best cosine similarity; `coverage`: share of the question's content words that stand in the passages.
    """
    asked = set(content_words(question))
    known = {w for p in passages for w in words(p.chunk.context_text)}
    return {
        "cosine": max((p.dense for p in passages if p.dense is not None), default=0.0),
        "coverage": len(asked & known) / len(asked) if asked else 0.0,
    }


def decline_signal(decline: float | None) -> dict[str, float]:
    """Return what the model's first token says of the passages: the natural-log odds that it would decline.

    Absent where the model cannot tell; kept within 12 either way, so that certainty in one signal leaves others a say.
    """
    if decline is None:
        return {}
    odds = math.log(max(decline, 1e-9)) - math.log(max(1 - decline, 1e-9))
    return {"decline": max(-12.0, min(12.0, odds))}


def generation_signals(
    question: str, answer: str, passages: Sequence[ScoredChunk], logprobs: Sequence[float]
) -> dict[str, float]:
    """Return what the answer says about itself.

    `grounding`: share of its words that stand in the passages; `echo`: share that only repeats the question (a small
    model that finds no answer likes to hand back the question's own words); `first_logprob`, `mean_logprob`,
    `least_logprob`: natural-log probabilities of its tokens (absent where the backend does not tell them).
    """
    signals = {
        "grounding": grounding(answer, " ".join(p.chunk.context_text for p in passages)),
        "echo": grounding(answer, question),
    }
    if logprobs:
        signals["first_logprob"] = logprobs[0]
        signals["mean_logprob"] = sum(logprobs) / len(logprobs)
        signals["least_logprob"] = min(logprobs)
    return signals


def load_abstention(file: Path | str = "extractive", threshold: float | None = None) -> Abstention:
    """Read a fitted estimate: a file, or by name one of those shipped in `configs/abstention`. Raises `ConfigError`."""
    source = file if isinstance(file, Path) else resources.files("configs") / "abstention" / f"{file}.toml"
    try:
        fitted = Abstention.model_validate(read_toml(source))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the abstention file {source} cannot be used: {error}",
            hint="Make one with `smallhold calibrate`, or unset abstention.file.",
        ) from error
    return fitted if threshold is None else fitted.model_copy(update={"threshold": threshold})
