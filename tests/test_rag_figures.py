"""Rates and quantiles of two readings of Prometheus's text format, worked by hand."""

import math

import pytest

from rag.errors import DataError
from rag.figures import Reading, Span, read_figures, stages

HISTOGRAM = """
# TYPE smallhold_first_text_seconds histogram
smallhold_first_text_seconds_bucket{{le="0.1"}} {0}
smallhold_first_text_seconds_bucket{{le="0.5"}} {1}
smallhold_first_text_seconds_bucket{{le="1.0"}} {2}
smallhold_first_text_seconds_bucket{{le="+Inf"}} {3}
smallhold_first_text_seconds_count {3}
smallhold_first_text_seconds_sum {4}
"""
REQUESTS = """
# TYPE smallhold_requests counter
smallhold_requests_total{{route="/v1/search",status="200"}} {0}
smallhold_requests_total{{route="/v1/search",status="429"}} {1}
smallhold_requests_total{{route="/health",status="200"}} {2}
"""


def span(before: str, now: str, seconds: float = 10) -> Span:
    return Span(read_figures(before, 1000), read_figures(now, 1000 + seconds))


def test_counters_grow_by_labels_and_by_the_second() -> None:
    grown = span(REQUESTS.format(10, 1, 5), REQUESTS.format(30, 4, 6))
    assert grown.increase("smallhold_requests_total") == 24
    assert grown.increase("smallhold_requests_total", route="/v1/search") == 23
    assert grown.rate("smallhold_requests_total", status="429") == pytest.approx(0.3)
    assert grown.by("status", "smallhold_requests_total") == {"200": 21, "429": 3}
    assert grown.increase("smallhold_none_total") == 0


def test_a_counter_that_began_anew_grew_by_what_it_shows() -> None:
    assert span(REQUESTS.format(10, 1, 5), REQUESTS.format(2, 0, 0)).increase("smallhold_requests_total") == 2


def test_a_label_that_was_not_there_before_began_at_0() -> None:
    before = read_figures(REQUESTS.format(1, 1, 1), 0)
    assert Span(Reading(0, {}), before).increase("smallhold_requests_total") == 3


def test_quantiles_lie_within_their_bucket_as_prometheus_has_them() -> None:
    grown = span(HISTOGRAM.format(1, 1, 1, 1, 0.05), HISTOGRAM.format(3, 11, 21, 21, 10.05))
    # 2 in (0, 0.1], 8 in (0.1, 0.5], 10 in (0.5, 1]: the median is the 10th, the 95th percentile the 19th.
    assert grown.quantile(0.5, "smallhold_first_text_seconds") == pytest.approx(0.5)
    assert grown.quantile(0.95, "smallhold_first_text_seconds") == pytest.approx(0.5 + 0.5 * 9 / 10)
    assert grown.quantile(0.05, "smallhold_first_text_seconds") == pytest.approx(0.05)
    assert grown.mean("smallhold_first_text_seconds") == pytest.approx(0.5)


def test_a_quantile_beyond_the_last_bound_is_that_bound_and_of_nothing_none() -> None:
    beyond = span(HISTOGRAM.format(0, 0, 0, 0, 0), HISTOGRAM.format(0, 0, 1, 10, 90))
    assert beyond.quantile(0.95, "smallhold_first_text_seconds") == 1.0
    nothing = span(HISTOGRAM.format(0, 0, 1, 10, 90), HISTOGRAM.format(0, 0, 1, 10, 90))
    assert nothing.quantile(0.5, "smallhold_first_text_seconds") is None
    assert nothing.mean("smallhold_first_text_seconds") is None
    assert nothing.quantile(0.5, "smallhold_other_seconds") is None
    assert math.isfinite(nothing.seconds)


def test_stages_come_with_their_mean_the_longest_first() -> None:
    text = "# TYPE smallhold_stage_seconds histogram\n" + "".join(
        f'smallhold_stage_seconds_{kind}{{stage="{stage}"}} {value}\n'
        for stage, count, total in (("retrieve", 4, 1.0), ("generate", 2, 3.0), ("cite", 0, 0.0))
        for kind, value in (("count", count), ("sum", total))
    )
    now = read_figures(text, 5)
    assert list(stages(Span(now.started(), now))) == [("generate", 1.5), ("retrieve", 0.25)]


def test_a_server_that_tells_its_start_has_a_beginning() -> None:
    now = read_figures("process_start_time_seconds 40\n" + REQUESTS.format(6, 0, 0), 100)
    assert Span(now.started(), now).rate("smallhold_requests_total", route="/v1/search") == pytest.approx(0.1)


@pytest.mark.parametrize("text", ["<html>", "smallhold_ready{", "up 1\n", "smallhold_ready one\n", ""])
def test_what_is_no_exposition_of_ours_is_an_error(text: str) -> None:
    with pytest.raises(DataError):
        read_figures(text, 0)
