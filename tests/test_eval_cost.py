"""Cost worked by hand."""

from typing import Any

import pytest

from eval.cost import break_even, endpoint_prices, table_prices
from eval.system_row import SystemRow
from rag.build import build_costs
from rag.config import CostSettings
from rag.cost import Cost, Costs, Prices, question_cost
from rag.datatypes import Answer, Usage
from rag.errors import ConfigError

USAGE = Usage(prompt=1500, cached=500, completion=200)


def cost(prices: Prices, usage: Usage = USAGE, seconds: float = 9.0, generated: bool = True) -> float | None:
    return question_cost(prices, seconds=seconds, usage=usage, generated=generated)


def test_seconds_at_a_price_per_machine_hour() -> None:
    # 9 s are 1/400 of an hour.
    assert cost(Prices(per_hour=0.08)) == pytest.approx(0.0002)


def test_tokens_at_a_price_per_million() -> None:
    # 1000 x 2 + 500 x 0.5 + 200 x 8 = 3850 per million.
    prices = Prices(per_million_prompt=2.0, per_million_cached=0.5, per_million_completion=8.0)
    assert cost(prices) == pytest.approx(0.00385)


def test_cached_tokens_cost_like_others_unless_stated() -> None:
    assert cost(Prices(per_million_prompt=2.0, per_million_completion=8.0)) == pytest.approx(0.0046)


def test_machine_and_tokens_add_up() -> None:
    both = Prices(per_hour=0.08, per_million_prompt=2.0, per_million_completion=8.0)
    assert cost(both) == pytest.approx(0.0048)


def test_no_price_is_unknown_and_a_price_of_zero_is_zero() -> None:
    assert cost(Prices()) is None
    assert cost(Prices(per_hour=0.0)) == 0.0


def test_an_endpoint_that_tells_no_tokens_leaves_the_cost_unknown() -> None:
    prices = Prices(per_million_prompt=2.0, per_million_completion=8.0)
    assert cost(prices, Usage()) is None
    assert cost(prices, Usage(), generated=False) == 0.0  # abstained before the model was asked


def test_an_idle_machine_costs_as_much() -> None:
    # Busy a quarter of the time, a question carries four times its own seconds; tokens are not paid for idling.
    assert cost(Prices(per_hour=0.08, utilisation=0.25)) == pytest.approx(0.0008)
    both = Prices(per_hour=0.08, per_million_prompt=2.0, per_million_completion=8.0, utilisation=0.5)
    assert cost(both) == pytest.approx(0.0004 + 0.0046)


def test_an_answer_is_compared_with_its_tokens_at_another_price() -> None:
    # 9 s are 1/400 of an hour; 1500 x 30 + 200 x 60 = 57,000 per million.
    costs = Costs(Prices(per_hour=0.08), Prices(None, 30.0, None, 60.0), "large")
    answer = Answer("x", usage=USAGE, timings={"generate": 8.0, "total": 9.0}, passages_read=1)
    assert costs.of(answer) == Cost(pytest.approx(0.0002), pytest.approx(0.057), "large")
    # An endpoint that tells no tokens leaves the baseline unknown; where the model was not asked, it costs nothing.
    assert costs.of(Answer("x", passages_read=1)) == Cost(0.0, None, "large")
    assert costs.of(Answer("")) == Cost(0.0, 0.0, "large")


def test_costs_are_told_only_where_a_price_is_stated() -> None:
    assert build_costs(CostSettings(baseline="large")) is None
    here = build_costs(CostSettings(per_hour=1.0))
    assert here is not None
    assert here.of(Answer("", timings={"total": 36.0})) == Cost(pytest.approx(0.01), None, "baseline")
    for one in ("per_million_prompt", "baseline_per_million_completion"):
        with pytest.raises(ConfigError, match="only one of cost"):
            build_costs(CostSettings(**{one: 1.0}))


def test_the_price_table_knows_a_model_with_its_date() -> None:
    listed = table_prices("genai:openai/gpt-4")
    assert (listed.prompt, listed.cached, listed.completion) == (30.0, None, 60.0)
    assert listed.source.startswith("genai-prices ") and "openai/gpt-4, as of 20" in listed.source
    assert table_prices("genai:openai/gpt-4o").cached == 1.25
    with pytest.raises(ConfigError, match="no 'openai/no-such-model'"):
        table_prices("genai:openai/no-such-model")


def test_prices_in_tiers_count_by_their_lowest() -> None:
    # Prompts beyond 200,000 tokens cost twice as much, which no question here has.
    assert table_prices("genai:google/gemini-2.5-pro").prompt == 1.25


def test_only_the_providers_own_address_has_its_prices() -> None:
    listed = endpoint_prices("https://api.openai.com/v1", "gpt-4o")
    assert listed is not None and (listed.prompt, listed.completion) == (2.5, 10.0)
    assert endpoint_prices("http://localhost:8000/v1", "gpt-4o") is None
    assert endpoint_prices("https://api.openai.com/v1", "no-such-model") is None


def row(**fields: Any) -> SystemRow:
    return SystemRow.model_validate({"name": "gpt", "retrieval": False, **fields})


def test_a_row_takes_the_table_unless_it_states_a_price() -> None:
    endpoint = {"endpoint": "https://api.openai.com/v1", "model": "gpt-4o"}
    assert row(generator=endpoint).prices == Prices(None, 2.5, 1.25, 10.0)
    assert row(generator=endpoint, prices="genai:openai/gpt-4").prices == Prices(None, 30.0, None, 60.0)
    stated = row(generator=endpoint, price_per_million_prompt=1.0, price_per_million_completion=2.0)
    assert stated.prices == Prices(None, 1.0, None, 2.0) and stated.listed is None
    assert not row(generator=endpoint, price_per_hour=1.0).prices.by_token
    again = SystemRow.model_validate(row(generator=endpoint, prices="genai:openai/gpt-4").model_dump(exclude_none=True))
    assert again.price_table == "genai:openai/gpt-4"


def test_a_row_with_a_price_nobody_lists_is_refused() -> None:
    with pytest.raises(ValueError, match="no 'openai/none'"):
        row(generator="m", prices="genai:openai/none")
    for wrong in ("openai/gpt-4", "genai:gpt-4", "genai:a/b c"):
        with pytest.raises(ValueError, match="pattern"):
            row(generator="m", prices=wrong)
    for utilisation in (0.0, 1.5):
        with pytest.raises(ValueError, match="utilisation"):
            row(generator="m", utilisation=utilisation)
    with pytest.raises(ValueError, match="active must reach idle"):
        row(generator="m", watts={"idle": 5.0, "active": 4.0})


def test_break_even_by_hand() -> None:
    # 0.1 x 730 = 73 dollars a month, at 0.01 a question: 7,300. At 2 s a question the machine answers 1,314,000.
    even = break_even(0.1, 0.01, 2.0)
    assert even is not None
    assert even["monthly_price"] == pytest.approx(73.0)
    assert even["questions_a_month"] == pytest.approx(7300.0)
    assert even["capacity_a_month"] == pytest.approx(1_314_000)
    assert even["within_capacity"] is True
    slow = break_even(0.1, 0.01, 600.0)
    assert slow is not None and slow["within_capacity"] is False  # 4,380 a month
    assert break_even(0.1, 0.0, 2.0) is None
