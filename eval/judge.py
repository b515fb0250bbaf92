"""A language model as a judge: a yes/no question, and the probability of yes from the first word's log-probability.

A judge that says neither, or an endpoint that fails, leaves its question unscored: that is neither yes nor no.
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from eval.system_row import SystemRow
from rag.config import Settings
from rag.datatypes import Message, Sampling
from rag.errors import EndpointFailed, InvalidRequest, PromptTooLong
from rag.protocols import Generator

_SYSTEM = "You judge answers strictly by what is given. You reply with one word, yes or no."
_RIGHT = "Question: {question}\nRight answer: {gold}\nAnswer of a student: {answer}\n\nIs the student's answer right?"
_GROUNDED = "Text: {text}\n\nQuestion: {question}\nAnswer: {answer}\n\nDoes the text say that this is the answer?"

# One token is the verdict; some models begin with white space.
_SAMPLING = Sampling(max_tokens=3)

# Bounds on what goes into one judgement, in characters, so that it fits a small context.
_MAX_ANSWER = 1_500
_MAX_TEXT = 4_000
_MAX_GOLD = 10

_VERDICT = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


class ModelJudge:
    """Yes/no questions to a generator about an answer. Greedy, so that the same question gets the same verdict.

    `name` tells its verdicts from those of another model.
    """

    def __init__(self, generator: Generator, name: str = "") -> None:
        self.name = name
        self._generator = generator

    def right(self, question: str, answer: str, gold: Sequence[str]) -> float | None:
        """Return the probability that the answer is right by the gold answers; None where the model does not say."""
        golden = " or ".join(gold[:_MAX_GOLD])[:_MAX_ANSWER]
        return self._ask(_fill(_RIGHT, question=question, gold=golden, answer=answer[:_MAX_ANSWER]))

    def grounded(self, question: str, answer: str, cited: Sequence[str]) -> float | None:
        """Return the probability that the cited text supports the answer; 0 where none is cited."""
        text = "\n\n".join(cited)[:_MAX_TEXT]
        if not text.strip():
            return 0.0
        return self._ask(_fill(_GROUNDED, question=question, text=text, answer=answer[:_MAX_ANSWER]))

    def _ask(self, content: str) -> float | None:
        said, logprob = "", None
        try:
            with closing(
                self._generator.stream([Message("system", _SYSTEM), Message("user", content)], _SAMPLING)
            ) as s:
                for piece in s:
                    # The verdict's own token: the first that is not blank.
                    if not said.strip() and piece.text.strip():
                        logprob = piece.logprob
                    said += piece.text
        except (EndpointFailed, PromptTooLong):
            return None
        return yes_probability(said, logprob)


def yes_probability(said: str, logprob: float | None) -> float | None:
    """Return P(yes) from what was said and the natural-log probability of its first token.

    What is not said shares the rest: P(yes) = 1 - P(no). Without a log-probability it is 1 or 0; None where neither
    was said.
    """
    verdict = _VERDICT.match(said)
    if verdict is None:
        return None
    chosen = 1.0 if logprob is None else min(1.0, math.exp(min(0.0, logprob)))
    return chosen if verdict[1].lower() == "yes" else 1.0 - chosen


@contextmanager
def open_judge(row: SystemRow, settings: Settings) -> Iterator[ModelJudge]:
    """Yield a judge over the generator of a system row. Raises `InvalidRequest` where the row has none."""
    from rag.build import build_generator, model_store

    if not row.generator:
        raise InvalidRequest(f"{row.name} has no generator to judge with", hint="Name another system by --judge.")
    own = row.apply(settings)
    with closing(build_generator(own, model_store(own))) as generator:
        yield ModelJudge(generator, " ".join(filter(None, (own.generator.endpoint, own.generator.model))))


def _fill(template: str, **parts: str) -> str:
    """Put the parts in; braces within them stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda name: parts[name[1]], template)
