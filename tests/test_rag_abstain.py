import pytest

from rag.abstain import Abstention, Signal, generation_signals, load_abstention, retrieval_signals
from rag.errors import ConfigError
from tests.conftest import scored

FITTED = Abstention(
    fitted_on="hand",
    threshold=0.5,
    intercept=-1.0,
    signals={"cosine": Signal(weight=2.0, best=1.0), "mean_logprob": Signal(weight=0.5, best=0.0)},
)


def test_confidence_is_the_logistic_of_the_weighted_signals() -> None:
    assert FITTED.confidence({"cosine": 0.5, "mean_logprob": 0.0}) == pytest.approx(0.5)
    assert FITTED.confidence({"cosine": 1.0, "mean_logprob": -2.0}) == pytest.approx(0.5)
    assert FITTED.confidence({"cosine": 1.0, "mean_logprob": 0.0}) == pytest.approx(0.7311, abs=1e-4)


def test_a_signal_not_known_yet_counts_as_its_best() -> None:
    assert FITTED.confidence({"cosine": 0.5}) == pytest.approx(0.5)
    assert FITTED.trusts({"cosine": 0.5})
    assert not FITTED.trusts({"cosine": 0.49})


def test_extreme_signals_do_not_overflow() -> None:
    assert FITTED.confidence({"cosine": -1e9}) == pytest.approx(0.0)
    assert FITTED.confidence({"cosine": 1e9}) == pytest.approx(1.0)


def test_retrieval_signals_by_hand() -> None:
    passages = [scored("The mill burned down.", dense=0.4), scored("A lake.", dense=0.6)]
    # Content words of the question: mill, burn, 1902; only "mill" stands there.
    assert retrieval_signals("When did the mill burn in 1902?", passages) == {
        "cosine": 0.6,
        "coverage": pytest.approx(1 / 3),
    }
    assert retrieval_signals("", []) == {"cosine": 0.0, "coverage": 0.0}


def test_generation_signals_by_hand() -> None:
    passage = scored("The mill burned in 1902.")
    assert generation_signals("When did the mill burn?", "the mill 1902", [passage], [-0.5, -0.1]) == {
        "grounding": 1.0,
        "echo": 0.5,
        "first_logprob": -0.5,
        "mean_logprob": pytest.approx(-0.3),
        "least_logprob": -0.5,
    }
    assert generation_signals("Who?", "x", [], []) == {"grounding": 0.0, "echo": 0.0}


def test_the_shipped_file_is_fitted_and_takes_another_threshold() -> None:
    shipped = load_abstention()
    assert 0 < shipped.threshold < 1
    assert load_abstention(threshold=0.9).threshold == 0.9


def test_a_malformed_file_is_named(tmp_path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("threshold = 2\n")
    with pytest.raises(ConfigError, match=r"a\.toml"):
        load_abstention(file)


@pytest.mark.parametrize("content", [b"fitted_on = '\xff'", b"#" * 200_000, b"intercept = nan"])
def test_a_file_that_holds_no_estimate_is_named(tmp_path, content: bytes) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(b"fitted_on = 'x'\nthreshold = 0.5\nsignals = {}\n" + content if b"nan" in content else content)
    with pytest.raises(ConfigError, match=r"a\.toml cannot be used"):
        load_abstention(file)
