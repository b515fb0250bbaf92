import math
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rag.abstain import Abstention, Signal
from rag.build import build_cascade, build_large, build_pipeline, cascade_rule, large_settings, model_store
from rag.cascade import Cascade, Chance, Gain, Member, Rule, load_gain, make_rule
from rag.config import Settings, load_settings
from rag.datatypes import Message, Piece, Sampling, Usage, Verdict
from rag.errors import ConfigError, EndpointFailed, ModelMissing, Unavailable
from rag.filter import View
from rag.lazy import LazyModel
from rag.options import AskOptions
from rag.pipeline import RagPipeline
from rag.promise import Promise, Rung
from rag.prompt import Prompt
from rag.rewrite import Rewriter, load_rewrite_prompt
from tests.conftest import ListRetriever, QueueGenerator, WordEmbedder, scored

PROMPT = Prompt(name="t", system="Quote.", passage="{text}", user="{passages}\nQ: {question}", closed_book="?")
MILL = scored("The mill was built in 1874. It burned in 1902.", document="mill.md", start=100)

# 0.73 for an answer whose words stand in the passage, 0.27 for another.
GROUNDED = Abstention(
    fitted_on="hand", threshold=0.0, intercept=-1.0, signals={"grounding": Signal(weight=2.0, best=1.0)}
)
HALF = Rule(threshold=0.5)


class Down(QueueGenerator):
    """A model that is out of reach."""

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        raise EndpointFailed("no connection")
        yield Piece("")


def cascade(
    small: QueueGenerator,
    large: QueueGenerator,
    retriever: ListRetriever,
    *,
    rule: Rule = HALF,
    rewrite: bool = False,
    small_estimate: Abstention = GROUNDED,
    large_estimate: Abstention | None = GROUNDED,
) -> Cascade:
    def pipeline(model: QueueGenerator, found: ListRetriever, estimate: Abstention | None) -> RagPipeline:
        return RagPipeline(
            generator=model,
            counter=model,
            prompt=PROMPT,
            retriever=found,
            rewriter=Rewriter(model, load_rewrite_prompt()) if rewrite else None,
            abstention=estimate,
            evidence_tokens=100,
        )

    return Cascade(
        Member("small", pipeline(small, retriever, small_estimate)),
        Member("large", pipeline(large, ListRetriever(), large_estimate)),
        rule,
    )


def test_a_sure_answer_is_the_small_models_and_the_large_one_is_never_asked() -> None:
    small, large = QueueGenerator("in 1902"), QueueGenerator()
    answer = cascade(small, large, ListRetriever(MILL)).answer("When did it burn?")
    assert (answer.text, answer.model, large.asked) == ("in 1902", "small", [])
    assert [asked.model for asked in answer.asked] == ["small"]
    assert answer.asked[0].confidence == answer.confidence == pytest.approx(0.731, abs=1e-3)
    assert answer.usage == answer.asked[0].usage
    assert [c.text for c in answer.citations] == ["It burned in 1902."]
    assert answer.retrieved == (MILL,)


def test_an_unsure_one_is_handed_on_with_the_same_passages_and_both_are_counted() -> None:
    small, large, retriever = QueueGenerator("Napoleon"), QueueGenerator("in 1874"), ListRetriever(MILL)
    answer = cascade(small, large, retriever).answer("When was it built?")
    assert (answer.text, answer.model) == ("in 1874", "large")
    assert retriever.questions == ["When was it built?"]
    assert large.asked == [small.asked[0]]
    first, second = answer.asked
    assert (first.model, first.usage.completion, first.confidence) == ("small", 1, pytest.approx(0.269, abs=1e-3))
    assert (second.model, second.usage.completion, second.confidence) == ("large", 2, pytest.approx(0.731, abs=1e-3))
    assert answer.usage == first.usage + second.usage == Usage(2 * first.usage.prompt, 0, 3)
    assert [c.text for c in answer.citations] == ["The mill was built in 1874."]


def test_a_follow_up_is_rewritten_once_and_both_models_answer_the_same_question() -> None:
    history = [Message("user", "When was the mill built?"), Message("assistant", "1874")]
    small, large = QueueGenerator("How was the fire in the mill put out?", "Napoleon"), QueueGenerator("in 1874")
    retriever = ListRetriever(MILL)
    made = cascade(small, large, retriever, rewrite=True)
    answer = made.answer("How was the fire put out?", history, AskOptions(owner="laptop"))
    assert retriever.questions == [answer.question] == ["How was the fire in the mill put out?"]
    assert large.asked == [small.asked[1]]
    assert [sampling.owner for sampling in small.samplings] == ["laptop", "laptop"]
    # Nine words of rewriting are the small model's, and counted once.
    assert [asked.usage.completion for asked in answer.asked] == [9 + 1, 2]
    assert answer.usage.completion == 9 + 1 + 2
    assert "rewrite" in answer.timings


def test_nothing_of_an_answer_that_is_handed_on_is_shown() -> None:
    deltas = list(cascade(QueueGenerator("Napoleon"), QueueGenerator("in 1874"), ListRetriever(MILL)).stream("When?"))
    assert "".join(delta.text for delta in deltas) == "in 1874"
    assert [delta.answer is not None for delta in deltas] == [False] * (len(deltas) - 1) + [True]
    told = [delta.usage.completion for delta in deltas if delta.usage is not None]
    assert told == sorted(told)  # what a client that leaves is charged with never falls
    assert told[-1] == 3


def test_the_seconds_are_those_of_both_and_a_reader_waits_for_the_first_one() -> None:
    timings = cascade(QueueGenerator("Napoleon"), QueueGenerator("in 1874"), ListRetriever(MILL)).answer("When?")
    first, second = timings.asked
    assert first.seconds > 0
    assert timings.timings["total"] >= first.seconds + second.seconds
    assert timings.timings["read"] >= first.seconds
    assert timings.timings["retrieve"] <= timings.timings["total"]


def test_the_model_is_free_before_the_next_one_is_asked() -> None:
    small = QueueGenerator("nonsense " * 40)
    answer = cascade(small, QueueGenerator("in 1874"), ListRetriever(MILL)).answer("When?")
    assert (answer.model, small.closed_early) == ("large", 1)
    assert answer.asked[0].usage.completion == 16


def test_the_large_models_abstention_stands() -> None:
    strict = GROUNDED.model_copy(update={"threshold": 0.5})
    made = cascade(QueueGenerator("Napoleon"), QueueGenerator("Caesar"), ListRetriever(MILL), large_estimate=strict)
    answer = made.answer("Who?")
    assert (answer.verdict, answer.model, answer.text) == (Verdict.ABSTAINED, "large", "")
    assert len(answer.asked) == 2


def test_a_large_model_that_is_down_leaves_the_question_to_the_small_one() -> None:
    small = QueueGenerator("Napoleon", "Napoleon")
    deltas = list(cascade(small, Down(), ListRetriever(MILL)).stream("Who?"))
    answer = deltas[-1].answer
    assert answer is not None
    assert (answer.text, answer.model) == ("Napoleon", "small")
    assert [(asked.model, asked.error) for asked in answer.asked] == [
        ("small", ""),
        ("large", "no connection"),
        ("small", ""),
    ]
    assert answer.usage == answer.asked[0].usage + answer.asked[2].usage


def test_the_log_has_no_words_of_the_endpoints_which_may_quote_the_passage(caplog: pytest.LogCaptureFixture) -> None:
    class Quoting(Down):
        def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
            raise EndpointFailed("https://large.example/v1 answered 422: bad input 'The mill was built in 1874.'")
            yield Piece("")

    answer = cascade(QueueGenerator("Napoleon", "Napoleon"), Quoting(), ListRetriever(MILL)).answer("Who?")
    assert "https://large.example/v1 answered 422" in caplog.text
    assert "mill" not in caplog.text
    assert "mill" in answer.asked[1].error  # whoever asked is told all of it


def test_a_promise_is_about_the_small_models_answers_alone() -> None:
    tested = Promise(confidence=0.95, questions=10, rungs=(Rung(threshold=0.1, answered=10, wrong=1, bound=0.15),))
    small, large = QueueGenerator("Napoleon"), QueueGenerator()
    made = cascade(small, large, ListRetriever(MILL), small_estimate=GROUNDED.model_copy(update={"promise": tested}))
    answer = made.answer("Who?", options=AskOptions(risk=0.2))
    assert (answer.text, answer.model, len(answer.asked)) == ("Napoleon", "small", 1)
    assert answer.target is not None
    assert answer.target.risk == 0.2
    assert large.asked == []


def test_closing_the_stream_frees_whichever_model_is_at_it() -> None:
    small, large = QueueGenerator("Napoleon"), QueueGenerator("in " * 30)
    stream = cascade(small, large, ListRetriever(MILL)).stream("When?")
    while not next(stream).text:
        pass
    stream.close()
    assert large.closed_early == 1


GAIN = Gain(
    fitted_on="hand",
    small="s",
    large="l",
    cost=0.001,
    threshold=0.4,
    kept=0.98,
    small_right=Chance(intercept=0.0, slope=1.0),
    large_right=Chance(intercept=1.0, slope=0.5),
)


def test_asking_pays_where_the_gain_at_the_price_of_an_error_exceeds_the_cost() -> None:
    # At 0.5 the small one is right with 0.5, the large one with 1 / (1 + e^-1) = 0.7311: 0.2311 of an error's price.
    assert GAIN.at(0.5) == pytest.approx(1 / (1 + math.exp(-1)) - 0.5)
    assert Rule(gain=GAIN, error_price=0.0044, cost=0.001).pays(0.5)
    assert not Rule(gain=GAIN, error_price=0.0043, cost=0.001).pays(0.5)
    # Where the small one is the better one no price makes it pay.
    assert GAIN.at(0.99) < 0
    assert not Rule(gain=GAIN, error_price=1e6, cost=0.0).pays(0.99)
    assert math.isfinite(GAIN.at(0.0))
    assert math.isfinite(GAIN.at(1.0))


def gain_file(folder: Path, **changes: Any) -> Path:
    fields = {"fitted_on": '"hand"', "small": '"s"', "large": '"l"', "cost": "0.001", "threshold": "0.4"} | changes
    lines = [f"{key} = {value}" for key, value in fields.items() if value]
    chances = "[small_right]\nintercept = 0.0\nslope = 1.0\n[large_right]\nintercept = 1.0\nslope = 0.5\n"
    file = folder / "gain.toml"
    file.write_text("\n".join(["kept = 0.98", *lines, chances]))
    return file


def test_a_rule_of_a_file(tmp_path: Path) -> None:
    file = gain_file(tmp_path)
    assert load_gain(file) == GAIN
    by_file = make_rule(small="s", large="l", file=file, threshold=None, error_price=None)
    assert by_file == Rule(threshold=0.4)
    priced = make_rule(small="s", large="l", file=file, threshold=None, error_price=2.0)
    assert priced == Rule(gain=GAIN, error_price=2.0, cost=0.001)
    assert make_rule(small="s", large="l", file=None, threshold=0.3, error_price=None) == Rule(threshold=0.3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "cascade.file is not set"),
        ({"threshold": 0.1, "error_price": 1.0}, "both set"),
        ({"file": {"small": '"other"'}, "error_price": 1.0}, "was fitted to other before l"),
        ({"file": {"cost": ""}, "error_price": 1.0}, "does not say what the large model costs"),
        ({"file": {"slope": "1.0"}}, "cannot be used"),
        ({"file": {"threshold": "]"}}, "cannot be used"),
    ],
)
def test_a_rule_that_nothing_can_be_made_of(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    file = gain_file(tmp_path, **given["file"]) if "file" in given else None
    with pytest.raises(ConfigError, match=said):
        make_rule(
            small="s", large="l", file=file, threshold=given.get("threshold"), error_price=given.get("error_price")
        )


def test_a_file_that_is_not_there_and_one_without_end(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        load_gain(tmp_path / "none.toml")
    (tmp_path / "long.toml").write_text("#" * 200_000)
    with pytest.raises(ConfigError, match="larger than"):
        load_gain(tmp_path / "long.toml")


def test_the_large_models_settings_are_the_small_ones_with_its_own_name_and_prompt(tmp_path: Path) -> None:
    flags = {
        "abstention": {"threshold": 0.3, "file": tmp_path / "a.toml"},
        "generator": {"prompt": "reader", "max_tokens": 7},
        "cascade": {"generator": "big", "endpoint": "https://host/v1", "api_key_env": "BIG_KEY"},
    }
    own = large_settings(load_settings(None, flags))
    assert (own.generator.model, own.generator.endpoint, own.generator.api_key_env) == (
        "big",
        "https://host/v1",
        "BIG_KEY",
    )
    assert (own.generator.prompt, own.generator.max_tokens) == ("", 7)
    assert (own.abstention.file, own.abstention.threshold) == (None, None)


def test_a_promise_and_a_cascade_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="a promise is one about a single model"):
        cascade_rule(
            load_settings(None, {"cascade": {"generator": "l", "threshold": 0.5}, "abstention": {"risk": 0.2}})
        )


def test_weights_that_are_not_there_are_told_before_anybody_asks(tmp_path: Path) -> None:
    made = load_settings(
        None,
        {"cascade": {"threshold": 0.5, "generator": "gemma-3-270m"}, "models": {"dir": tmp_path}},
    )
    with pytest.raises(ModelMissing, match="gemma-3-270m"):
        build_large(made, model_store(made))


def test_a_local_large_model_is_loaded_when_it_is_first_asked_and_only_once(tmp_path: Path) -> None:
    loaded: list[str] = []

    class Model(QueueGenerator):
        def close(self) -> None:
            loaded.append("closed")

    def load(own: Settings, store: object) -> Model:
        loaded.append(own.generator.model)
        return Model("in 1874", "in 1902")

    wanted = load_settings(
        None,
        {"cascade": {"threshold": 0.5, "generator": "big", "endpoint": "https://h/v1"}, "models": {"dir": tmp_path}},
    )
    large = build_large(wanted, model_store(wanted), load)
    small = QueueGenerator("in 1902", "Napoleon", "Caesar")
    estimate = Abstention(
        fitted_on="hand", threshold=0.0, intercept=-1.0, signals={"grounding": Signal(weight=2.0, best=1.0)}
    )
    first = RagPipeline(
        generator=small, counter=small, prompt=PROMPT, retriever=ListRetriever(MILL), abstention=estimate
    )
    made = build_cascade(wanted, first, large)
    assert made.answer("When did it burn?").model == "qwen2.5-coder-0.5b-reader"
    assert loaded == []
    unwilling = AskOptions(abstain=False)
    assert [made.answer("When?", options=unwilling).text for _ in range(2)] == ["in 1874", "in 1902"]
    assert loaded == ["big"]
    large.close()
    large.close()
    assert loaded == ["big", "closed"]


def test_a_long_answer_that_is_handed_on_stays_a_long_one() -> None:
    wanted = load_settings(None, {"cascade": {"threshold": 0.9, "generator": "big", "endpoint": "https://h/v1"}})
    embedder, small, large = WordEmbedder(), QueueGenerator("in 1874"), QueueGenerator("in 1874")
    first = RagPipeline(
        generator=small, counter=small, prompt=PROMPT, retriever=ListRetriever(MILL), abstention=GROUNDED,
        embedder=embedder,
    )  # fmt: skip
    made = build_cascade(wanted, first, large, embedder)
    answer = made.answer("What of the mill?", options=AskOptions(words=30, abstain=False))
    assert (answer.model, answer.text) == ("big", "The mill was built in 1874.")


def test_a_loading_that_failed_is_tried_again() -> None:
    attempts: list[int] = []

    class Model(QueueGenerator):
        def close(self) -> None:
            pass

    def load() -> Model:
        attempts.append(1)
        if len(attempts) == 1:
            raise EndpointFailed("not yet")
        return Model("yes")

    lazy = LazyModel(load)
    with pytest.raises(EndpointFailed):
        lazy.count("a b")
    assert lazy.loaded is None
    assert lazy.count("a b") == 2
    assert len(attempts) == 2
    lazy.close()


def test_an_end_does_not_wait_for_a_model_that_is_being_loaded() -> None:
    loading, go, closed = threading.Event(), threading.Event(), threading.Event()

    class Model(QueueGenerator):
        def close(self) -> None:
            closed.set()

    def load() -> Model:
        loading.set()
        assert go.wait(20)
        return Model("yes")

    lazy = LazyModel(load)
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(lazy.count, "a b")
        assert loading.wait(20)
        try:
            pool.submit(lazy.close).result(timeout=5)
        finally:
            go.set()
        with pytest.raises(Unavailable, match="closed"):
            asked.result(timeout=20)
    assert closed.is_set()
    assert lazy.loaded is None
    with pytest.raises(Unavailable, match="closed"):
        lazy.count("a b")


def test_without_a_large_model_the_pipeline_is_as_it_was() -> None:
    plain = build_pipeline(load_settings(), QueueGenerator("1874"), ListRetriever(MILL))
    answer = plain.answer("When?", options=AskOptions(abstain=False))
    assert (answer.model, answer.asked) == ("", ())


def test_neither_model_reads_what_the_one_who_asks_may_not() -> None:
    retriever, view = ListRetriever(MILL), View(labels=frozenset({"hr"}))
    made = cascade(QueueGenerator("Napoleon"), QueueGenerator("in 1874"), retriever)
    made.answer("When was it built?", options=AskOptions(view=view))
    made.retrieve("When was it built?", view=view)
    assert retriever.views == [view, view]
