"""Cost worked by hand."""

import pytest

from eval.cost import Prices, question_cost
from rag.datatypes import Usage

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
