"""What a question costs: seconds at a price per machine-hour, tokens at a price per million, or both.

An endpoint is billed by the token, a local model by the time it occupies the machine; an endpoint behind local
retrieval may state both prices, and they add up. A price that nobody stated makes the cost unknown, not zero.
"""

from dataclasses import dataclass

from rag.datatypes import Usage


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars per machine-hour and per million tokens. Cached prompt tokens cost like others unless stated."""

    per_hour: float | None = None
    per_million_prompt: float | None = None
    per_million_cached: float | None = None
    per_million_completion: float | None = None

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

    `generated` says that the model ran: an endpoint that then reports no tokens leaves the cost unknown.
    """
    if not prices.stated:
        return None
    by_time = seconds * (prices.per_hour or 0.0) / 3600
    if not prices.by_token:
        return by_time
    if generated and usage == Usage():
        return None
    return by_time + _token_cost(prices, usage)


def _token_cost(prices: Prices, usage: Usage) -> float:
    assert prices.per_million_prompt is not None and prices.per_million_completion is not None
    cached_price = prices.per_million_prompt if prices.per_million_cached is None else prices.per_million_cached
    dollars = (
        (usage.prompt - usage.cached) * prices.per_million_prompt
        + usage.cached * cached_price
        + usage.completion * prices.per_million_completion
    )
    return dollars / 1_000_000
