"""A small model first, a large one where that pays: who is asked is decided by how sure the small one is.

The rule (Chow 1970; for cascades of models Varshney and Baral 2022): ask the large model where the chance that it is
right, less the chance that the small one is, times the price of an error exceeds what asking it costs. Both chances are
fitted to the small one's confidence by `smallhold eval cascade --write`, which also finds a plain threshold.

Both models answer the same question over the same passages, understood and retrieved once. A question that was handed
on is the large one's: its answer stands, and so does its abstention. Where it cannot be reached the small one answers
after all. Neither searches again (`evidence.hops`): where the passages do not suffice the small one is unsure, and the
question is handed on over the same passages.
"""

import logging
import math
import tomllib
from collections.abc import Generator as Stream
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rag.clock import Clock
from rag.datatypes import Answer, Asked, Delta, Message, ScoredChunk, Usage
from rag.errors import ConfigError, PromptTooLong, Unavailable
from rag.filter import EVERYTHING, View
from rag.finder import Found
from rag.options import AskOptions
from rag.pipeline import RagPipeline

logger = logging.getLogger(__name__)

MAX_FILE = 100_000

_AS_SET = AskOptions()

# Odds beyond these are no better known: the estimate of an abstention may be all but 0.
_SUREST = 1e-6


class Chance(BaseModel):
    """A chance of being right that follows from a confidence (Platt 1999): logistic in its log-odds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    intercept: float
    slope: float

    def at(self, confidence: float) -> float:
        """Return the chance, in (0, 1)."""
        z = self.intercept + self.slope * log_odds(confidence)
        return 1 / (1 + math.exp(-max(-500.0, min(500.0, z))))


class Gain(BaseModel):
    """What asking the large model brings, as fitted: the chance that each is right, by the small one's confidence.

    `cost` is what asking the large one adds, in US dollars a question, None where it is not known. Below `threshold`
    the large one was asked where that kept the share `kept` of its score for the least.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fitted_on: str
    small: str
    large: str
    cost: float | None = Field(None, ge=0)
    threshold: float
    kept: float = Field(ge=0, le=1)
    small_right: Chance
    large_right: Chance

    def at(self, confidence: float) -> float:
        """Return by how much likelier the large one is right; below 0 where it is the worse one."""
        return self.large_right.at(confidence) - self.small_right.at(confidence)


@dataclass(frozen=True, slots=True)
class Rule:
    """When to ask the large model: below a `threshold` of confidence, or where that pays at an `error_price`.

    The price is that of a wrong or missing answer, `cost` that of asking, both in US dollars.
    """

    threshold: float = 0.0
    gain: Gain | None = None
    error_price: float = 0.0
    cost: float = 0.0

    def pays(self, confidence: float) -> bool:
        """Whether to ask the large model after an answer of this confidence."""
        if self.gain is None:
            return confidence < self.threshold
        return self.gain.at(confidence) * self.error_price > self.cost


class Member(NamedTuple):
    """One model of a cascade: its name for the answer, and the pipeline around it."""

    name: str
    pipeline: RagPipeline


class Cascade:
    """A pipeline of two: the small model answers, and where the rule says that it pays, the large one instead.

    Nothing is shown before that is decided, on the first tokens of the small one's answer, so that nothing shown is
    taken back. A request with a risk target is the small model's alone, since only its answers were tested. The large
    one's own abstention, options and prompt are those of its pipeline; its retriever is not asked.
    """

    def __init__(self, small: Member, large: Member, rule: Rule) -> None:
        self._small = small
        self._large = large
        self._rule = rule

    def answer(self, question: str, history: Sequence[Message] = (), options: AskOptions = _AS_SET) -> Answer:
        """Answer one question; raises what `RagPipeline.answer` raises."""
        for delta in self.stream(question, history, options):
            if delta.answer is not None:
                return delta.answer
        raise AssertionError("a stream ends with an answer")

    def stream(
        self, question: str, history: Sequence[Message] = (), options: AskOptions = _AS_SET
    ) -> Stream[Delta, None, None]:
        """Answer one question piece by piece, as `RagPipeline.stream`; `usage` counts both models."""
        clock = Clock()
        found = yield from self._small.pipeline.find(question, history, options, clock)
        first = _Attempt(self._small, question, history, options, found)
        with closing(first):
            yield from first.undecided()
            if options.risk is not None or not self._rule.pays(first.confidence or 0.0):
                yield from first.rest(clock)
                return
        before, found = first.asked(), found._replace(spent=Usage())
        second = _Attempt(self._large, question, history, options, found)
        with closing(second):
            try:
                for delta in second.undecided():
                    yield replace(delta, usage=before.usage + (delta.usage or Usage()))
            except (Unavailable, PromptTooLong) as error:
                # What comes behind the colon may be the endpoint's own words, and quote what it was sent.
                why = error.message.partition(": ")[0]
                logger.warning("%s could not be asked, %s answers: %s", self._large.name, self._small.name, why)
                failed = second.asked(error.message)
            else:
                yield from second.rest(clock, before)
                return
        # What it read is still there, so that answering anew costs little; it happens where a model is down.
        again = _Attempt(self._small, question, history, options, found)
        with closing(again):
            yield from again.rest(clock, before, failed)

    def retrieve(self, question: str, history: Sequence[Message] = (), view: View = EVERYTHING) -> list[ScoredChunk]:
        """Return the ranked chunks alone, best first."""
        return self._small.pipeline.retrieve(question, history, view)


class _Attempt:
    """One model's answering, held back until it is known how sure it is."""

    def __init__(
        self,
        member: Member,
        question: str,
        history: Sequence[Message],
        options: AskOptions,
        found: Found,
    ) -> None:
        self._member = member
        self._clock = Clock()
        self._deltas = member.pipeline.stream(question, history, options, found)
        self._held: Delta | None = None
        self.usage = Usage()
        self.confidence: float | None = None

    def undecided(self) -> Iterator[Delta]:
        """Yield the deltas before the first that shows something, which is held; then `confidence` is known."""
        for delta in self._deltas:
            self._note(delta)
            if delta.text or delta.answer is not None:
                self._held = delta
                return
            yield delta

    def rest(self, clock: Clock, *before: Asked) -> Iterator[Delta]:
        """Yield what is left, with what the models that were asked `before` used, and the answer with all of them."""
        spent = sum((asked.usage for asked in before), Usage())
        waited = sum(asked.seconds for asked in before)
        held = () if self._held is None else (self._held,)
        for part in (held, self._deltas):
            for delta in part:
                self._note(delta)
                told = replace(delta, usage=spent + self.usage)
                if delta.answer is not None:
                    asked = (*before, self.asked())
                    timings = _timings(delta.answer.timings, clock.timings(), waited)
                    answer = replace(
                        delta.answer, usage=spent + self.usage, timings=timings, model=self._member.name, asked=asked
                    )
                    told = replace(told, answer=answer)
                yield told

    def asked(self, error: str = "") -> Asked:
        """Return what this attempt took, up to now."""
        seconds = self._clock.timings()["total"]
        return Asked(self._member.name, self.usage, seconds, self.confidence, error)

    def close(self) -> None:
        """Free the model."""
        self._deltas.close()

    def _note(self, delta: Delta) -> None:
        if delta.answer is not None:
            self.usage = delta.answer.usage
            self.confidence = delta.answer.confidence
        else:
            self.usage = delta.usage or self.usage
            self.confidence = self.confidence if delta.confidence is None else delta.confidence


def _timings(own: Mapping[str, float], whole: Mapping[str, float], waited: float) -> dict[str, float]:
    """Return the stages of the model that answered, with those before any was asked, all models' seconds, and the wait.

    A reader waits for the first token as long as the models before took: their seconds count as reading, too.
    """
    shifted = {name: seconds + waited for name, seconds in own.items() if name in {"read", "generate"}}
    return {**own, **shifted, **whole}


def log_odds(confidence: float) -> float:
    """Return the natural-log odds of a confidence, kept finite."""
    kept = min(max(confidence, _SUREST), 1 - _SUREST)
    return math.log(kept / (1 - kept))


def load_gain(file: Path) -> Gain:
    """Read a file that `smallhold eval cascade --write` made. Raises `ConfigError`."""
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise ConfigError(f"{file} is larger than {MAX_FILE:,} bytes")
        return Gain.model_validate(tomllib.loads(content.decode("utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(
            f"the cascade file {file} cannot be used: {error}",
            hint="Write one with `smallhold eval cascade RUN --small NAME --large NAME --write FILE`.",
        ) from error


def make_rule(*, small: str, large: str, file: Path | None, threshold: float | None, error_price: float | None) -> Rule:
    """Return the rule for two models: a threshold, or a fitted file with or without a price of an error.

    Raises `ConfigError` where the settings give none, or do not fit together.
    """
    if threshold is not None and error_price is not None:
        raise ConfigError("cascade.threshold and cascade.error_price are both set", hint="Set one of them.")
    if threshold is not None:
        return Rule(threshold=threshold)
    if file is None:
        raise ConfigError(
            "nothing says when the large model is asked: cascade.file is not set",
            hint="Set it to what `smallhold eval cascade --write` made, or set cascade.threshold to a confidence.",
        )
    gain = load_gain(file)
    if (gain.small, gain.large) != (small, large):
        raise ConfigError(
            f"{file} was fitted to {gain.small} before {gain.large}, not to {small} before {large}",
            hint="Run both models with `smallhold eval run`, then `smallhold eval cascade --write`.",
        )
    if error_price is None:
        return Rule(threshold=gain.threshold)
    if gain.cost is None:
        raise ConfigError(
            f"{file} does not say what the large model costs, so that no price of an error can be weighed",
            hint="State prices for both systems and write it again, or set cascade.threshold.",
        )
    return Rule(gain=gain, error_price=error_price, cost=gain.cost)
