"""What a question costs: machine time at a price per machine-hour, tokens at a price per million, or both.

An endpoint is billed by the token, a local model by the time it occupies the machine; an endpoint behind local
retrieval may state both prices, and they add up. A machine is paid for while it idles too: its time costs as many times
more as `utilisation` is below 1. A price that nobody stated makes the cost unknown, not zero.
"""

from dataclasses import dataclass

from rag.datatypes import Answer, Usage


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars per machine-hour and per million tokens. Cached prompt tokens cost like others unless stated.

    `utilisation`, in (0, 1], is the share of its paid time in which the machine has something to do.
    """

    per_hour: float | None = None
    per_million_prompt: float | None = None
    per_million_cached: float | None = None
    per_million_completion: float | None = None
    utilisation: float = 1.0

    @property
    def by_token(self) -> bool:
        """Whether tokens are paid for."""
        return self.per_million_prompt is not None and self.per_million_completion is not None

    @property
    def stated(self) -> bool:
        """Whether anything is known about the price."""
        return self.by_token or self.per_hour is not None


def question_cost(prices: Prices, *, seconds: float, usage: Usage, generated: bool) -> float | None:
    """Return US dollars for one question; None where it cannot be known.

    `seconds` are those for which the question has the machine to itself. `generated` says that the model ran: an
    endpoint that then reports no tokens leaves the cost unknown.
    """
    if not prices.stated:
        return None
    by_time = seconds * (prices.per_hour or 0.0) / 3600 / prices.utilisation
    if not prices.by_token:
        return by_time
    if generated and usage == Usage():
        return None
    return by_time + _token_cost(prices, usage)


@dataclass(frozen=True, slots=True)
class Cost:
    """US dollars that an answer cost, and what the same tokens had cost at the baseline's prices; None is unknown."""

    dollars: float | None
    baseline_dollars: float | None
    baseline: str


@dataclass(frozen=True, slots=True)
class Costs:
    """What answers are paid for with, and the model that they are compared with, such as a large one behind an API.

    The comparison is by the same tokens, prompt and answer, as if that model had been given the same passages.
    """

    prices: Prices
    baseline_prices: Prices
    baseline: str

    def of(self, answer: Answer) -> Cost:
        """Return what an answer cost. Answers that run at the same time count the machine's seconds each in full."""
        seconds = answer.timings.get("total", 0.0)
        generated = answer.passages_read > 0 or answer.usage != Usage()

        def cost(prices: Prices) -> float | None:
            return question_cost(prices, seconds=seconds, usage=answer.usage, generated=generated)

        return Cost(cost(self.prices), cost(self.baseline_prices), self.baseline)


def _token_cost(prices: Prices, usage: Usage) -> float:
    assert prices.per_million_prompt is not None and prices.per_million_completion is not None
    cached_price = prices.per_million_prompt if prices.per_million_cached is None else prices.per_million_cached
    dollars = (
        (usage.prompt - usage.cached) * prices.per_million_prompt
        + usage.cached * cached_price
        + usage.completion * prices.per_million_completion
    )
    return dollars / 1_000_000
