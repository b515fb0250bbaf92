"""Prices of endpoints from the table that the library genai-prices carries, and what a machine must do to be cheaper.

The table has list prices; of a price in tiers its lowest is taken. What a question costs is in `rag.cost`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from rag.errors import ConfigError

TABLE = "genai:"

HOURS_A_MONTH = 730
_SECONDS_A_MONTH = HOURS_A_MONTH * 3600


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
