"""What a question costs: machine time at a price per machine-hour, tokens at a price per million, or both.

An endpoint is billed by the token, a local model by the time it occupies the machine; an endpoint behind local
retrieval may state both prices, and they add up. A machine is paid for while it idles too: its time costs as many times
more as `utilisation` is below 1. A price that nobody stated makes the cost unknown, not zero.

Prices of endpoints may come from the table that the library genai-prices carries: list prices, its lowest tier.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from rag.datatypes import Usage
from rag.errors import ConfigError

TABLE = "genai:"

HOURS_A_MONTH = 730
_SECONDS_A_MONTH = HOURS_A_MONTH * 3600


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
class TablePrices:
    """US dollars per million tokens as a table has them; `source` names table, its version and the day of asking."""

    prompt: float
    cached: float | None
    completion: float
    source: str


def table_prices(reference: str) -> TablePrices:
    """Look up `genai:PROVIDER/MODEL`. Raises `ConfigError` where the table does not have it."""
    provider, _, model = reference.removeprefix(TABLE).partition("/")
    found = _lookup(model, provider_id=provider)
    if found is None:
        raise ConfigError(
            f"the price table of genai-prices has no {reference.removeprefix(TABLE)!r}",
            hint="State price_per_million_prompt and price_per_million_completion instead.",
        )
    return found


def endpoint_prices(url: str, model: str) -> TablePrices | None:
    """Look up what the provider behind a URL asks for a model; None where either is unknown.

    The URL must be the provider's: the same open weights on a machine of one's own cost something else.
    """
    return _lookup(model, provider_api_url=url)


def break_even(price_per_hour: float, price_per_question: float, seconds_per_question: float) -> dict[str, Any] | None:
    """From how many questions a month a machine (paid for 730 hours) costs less than paying by the question.

    `within_capacity` says whether one machine can answer that many; if not, it never is cheaper, nor are several.
    None where a question costs nothing.
    """
    if price_per_question <= 0:
        return None
    monthly = price_per_hour * HOURS_A_MONTH
    questions = monthly / price_per_question
    capacity = _SECONDS_A_MONTH / seconds_per_question if seconds_per_question > 0 else float("inf")
    return {
        "monthly_price": monthly,
        "price_per_question": price_per_question,
        "questions_a_month": questions,
        "capacity_a_month": capacity,
        "within_capacity": questions <= capacity,
    }


def _token_cost(prices: Prices, usage: Usage) -> float:
    assert prices.per_million_prompt is not None and prices.per_million_completion is not None
    cached_price = prices.per_million_prompt if prices.per_million_cached is None else prices.per_million_cached
    dollars = (
        (usage.prompt - usage.cached) * prices.per_million_prompt
        + usage.cached * cached_price
        + usage.completion * prices.per_million_completion
    )
    return dollars / 1_000_000


def _lookup(model: str, **provider: str) -> TablePrices | None:
    import genai_prices
    from genai_prices.data_snapshot import get_snapshot

    now = datetime.now(UTC)
    try:
        found = get_snapshot().find_provider_model(
            model, None, provider.get("provider_id"), provider.get("provider_api_url")
        )
    except LookupError:
        return None
    table = vars(found[1].get_prices(now))
    prompt, completion = _base(table, "input_mtok"), _base(table, "output_mtok")
    if prompt is None or completion is None:
        return None
    source = f"genai-prices {genai_prices.__version__}, {found[0].id}/{found[1].id}, as of {now.date().isoformat()}"
    return TablePrices(prompt, _base(table, "cache_read_mtok"), completion, source)


def _base(table: Mapping[str, Any], key: str) -> float | None:
    """One price; of a price in tiers the lowest, which long prompts alone leave."""
    price = table.get(key)
    price = getattr(price, "base", price)
    return float(price) if isinstance(price, Decimal) else None
