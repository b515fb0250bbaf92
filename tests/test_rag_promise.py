"""What a file promises and under which settings, and what becomes of a question whose target is not attainable."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from rag.abstain import NEVER, Abstention, Signal, load_abstention
from rag.build import build_abstention, build_prompt
from rag.config import Settings, load_settings
from rag.errors import ConfigError
from rag.promise import Promise, Rung, answer_settings

# Bounds as they may come: the third is better than the second, and counts for no target that the second fails.
LADDER = Promise(
    confidence=0.95,
    questions=100,
    rungs=(
        Rung(threshold=0.8, answered=30, wrong=0, bound=0.095),
        Rung(threshold=0.6, answered=50, wrong=6, bound=0.223),
        Rung(threshold=0.4, answered=80, wrong=9, bound=0.188),
        Rung(threshold=0.0, answered=100, wrong=40, bound=0.487),
    ),
)
ESTIMATE = Abstention(
    fitted_on="hand",
    threshold=0.5,
    intercept=0.0,
    signals={"cosine": Signal(weight=1.0, best=1.0)},
    promise=LADDER,
)


@pytest.mark.parametrize(
    ("risk", "threshold"),
    [(0.05, None), (0.09, None), (0.095, 0.8), (0.2, 0.8), (0.223, 0.4), (0.3, 0.4), (0.486, 0.4), (0.5, 0.0)],
)
def test_a_target_takes_the_last_threshold_before_the_first_that_fails(risk: float, threshold: float | None) -> None:
    rung = LADDER.rung(risk)
    assert (None if rung is None else rung.threshold) == threshold


def test_a_larger_risk_never_answers_less() -> None:
    answered = [rung.answered if (rung := LADDER.rung(risk / 100)) else 0 for risk in range(1, 100)]
    assert answered == sorted(answered)
    assert LADDER.coverage(LADDER.rungs[2]) == 0.8


def test_thresholds_out_of_the_order_of_testing_are_refused() -> None:
    with pytest.raises(ValidationError, match="tested from the strictest on"):
        Promise(confidence=0.95, questions=9, rungs=tuple(reversed(LADDER.rungs)))


def test_an_estimate_at_a_risk_has_its_threshold_or_gives_nothing() -> None:
    assert ESTIMATE.at_risk(0.25).threshold == 0.4
    never = ESTIMATE.at_risk(0.01)
    assert (never.threshold, never.attainable) == (NEVER, False)
    assert not never.trusts({"cosine": 1e9})
    assert ESTIMATE.attainable


def test_without_a_test_the_command_that_makes_one_is_named() -> None:
    untested = ESTIMATE.model_copy(update={"promise": None})
    with pytest.raises(ConfigError, match=r"a risk of 0\.2 cannot be promised") as caught:
        untested.at_risk(0.2)
    assert "smallhold calibrate --data QA_SET --out abstention.toml" in caught.value.hint


def test_the_shipped_files_load_and_promise_nothing_they_were_not_tested_for() -> None:
    for name in ("extractive", "reader"):
        shipped = load_abstention(name)
        if shipped.promise is None:
            with pytest.raises(ConfigError, match="smallhold calibrate"):
                shipped.at_risk(0.2)


def written(folder: Path, *settings: str) -> Path:
    """A file as `smallhold calibrate` writes it, by hand."""
    file = folder / "a.toml"
    file.write_text(
        'fitted_on = "hand"\nthreshold = 0.5\nintercept = 0.0\n[signals.cosine]\nweight = 1.0\nbest = 1.0\n'
        "[promise]\nconfidence = 0.95\nquestions = 40\n[promise.settings]\n" + "\n".join(settings) + "\n"
        "[[promise.rungs]]\nthreshold = 0.0\nanswered = 40\nwrong = 2\nbound = 0.15\n"
    )
    return file


def built(file: Path, flags: dict[str, dict[str, object]]) -> Abstention:
    settings = load_settings(None, {**flags, "abstention": {"file": file, **flags.get("abstention", {})}})
    return build_abstention(settings, build_prompt(settings))


def test_a_file_counts_while_the_settings_are_those_of_its_test(tmp_path: Path) -> None:
    file = written(tmp_path, '"evidence.passages" = 3', '"generator.model" = "qwen2.5-coder-0.5b-reader"')
    assert built(file, {}).at_risk(0.2).threshold == 0.0
    other = built(file, {"evidence": {"passages": 5}})
    with pytest.raises(ConfigError, match=r"a\.toml was tested with other settings: evidence\.passages is 5, not 3"):
        other.at_risk(0.2)
    assert other.trusts({"cosine": 1.0})  # its own threshold still holds what it did
    with pytest.raises(ConfigError, match=r"generator\.model is 'smollm2-135m-instruct'"):
        built(file, {"generator": {"model": "smollm2-135m-instruct"}, "abstention": {"risk": 0.2}})


def test_a_file_of_before_promises_nothing_of_answers_that_are_thought_over(tmp_path: Path) -> None:
    other = built(written(tmp_path), {"deliberation": {"samples": 3}})
    with pytest.raises(ConfigError, match=r"deliberation\.samples is 3, not 1"):
        other.at_risk(0.2)
    tested = built(written(tmp_path, '"deliberation.samples" = 3'), {"deliberation": {"samples": 3}})
    assert tested.at_risk(0.2).threshold == 0.0


def test_settings_ask_for_a_risk_or_a_threshold_and_are_told_at_once(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert built(file, {"abstention": {"risk": 0.2}}).promise is not None
    with pytest.raises(ConfigError, match="both set"):
        built(file, {"abstention": {"risk": 0.2, "threshold": 0.5}})
    with pytest.raises(ConfigError, match=r"abstention\.risk"):
        load_settings(None, {"abstention": {"risk": 1.0}})
    # Nothing is withheld, so nothing is promised, whatever a settings file says.
    untested = load_settings(None, {"abstention": {"enabled": False, "risk": 0.2, "file": "reader"}})
    assert untested.abstention.risk == 0.2


def test_what_answers_depend_on_is_told_apart_from_what_they_do_not() -> None:
    told = answer_settings(Settings().model_dump(mode="json"))
    assert {"evidence.passages", "retrieval.dense_weight", "generator.model", "embedder.model"} <= told.keys()
    assert not {"generator.threads", "server.port", "index.dir", "abstention.threshold", "embedder.batch"} & told.keys()
