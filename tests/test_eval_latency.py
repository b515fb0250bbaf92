"""Waiting by hand."""

import numpy as np
import pytest

from eval.latency import first_token_seconds, quantiles


def test_the_first_token_comes_after_every_stage_before_it() -> None:
    timings = {"retrieve": 0.1, "evidence": 0.02, "prompt": 0.01, "generate": 2.0, "read": 0.5, "cite": 0.3, "total": 3}
    assert first_token_seconds(timings) == pytest.approx(0.63)
    # Out of the cache: the corrected stages hold those seconds already.
    assert first_token_seconds({**timings, "replayed": 1.9}) == pytest.approx(0.63)
    assert first_token_seconds({"read": 0.5, "retrieve": None}) == 0.5
    assert first_token_seconds({"generate": 2.0, "hop": 0.3, "read": 0.5}) == 0.5  # read lasts till after the hop


def test_no_first_token_is_no_time() -> None:
    assert first_token_seconds({"retrieve": 0.1, "total": 0.2}) is None
    assert first_token_seconds({}) is None


def test_quantiles_leave_out_what_was_not_timed() -> None:
    assert quantiles(np.array([3.0, 1.0, np.nan, 2.0])) == {"p50": 2.0, "p95": pytest.approx(2.9)}
    assert quantiles(np.array([np.nan])) == {"p50": None, "p95": None}
