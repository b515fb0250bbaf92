"""Scores against values worked by hand."""

import math
from dataclasses import replace

import pytest

from eval.metrics import CITATION_METRICS, COUNTERFACTUAL_METRICS, DEAR_METRICS, METRICS, Sample, judge, mean
from eval.retrieval_metrics import RETRIEVAL_METRICS
from eval.scorers import contains, exact_match, f1, normalize_answer


def sample(**changes: object) -> Sample:
    fields: dict[str, object] = {
        "answerable": True,
        "gold": ("the Lisbon Treaty",),
        "relevant": ("d1",),
        "generates": True,
        "retrieves": True,
        "question": "What was signed?",
        "answer": "Lisbon Treaty",
        "cited": ("d1",),
        "cited_texts": ("It was the Lisbon Treaty.",),
        "ranked": ("d1", "d2"),
    }
    return Sample(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Lisbon  Treaty.", "lisbon treaty"),
        ("a an the", ""),
        ("theatre and anthem", "theatre and anthem"),  # articles only as whole words
        ("U.S.-led", "usled"),  # punctuation vanishes, it does not split
        ("the-end", "theend"),  # punctuation goes first, so this article is none
        ("«Été»", "«été»"),  # only ASCII punctuation, as in the official script
        ("tab\tand\nline", "tab and line"),
    ],
)
def test_normalisation_is_that_of_squad(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


def test_exact_match_takes_the_best_gold_answer() -> None:
    assert exact_match("Final vote!", ["final", "the final vote"]) == 1.0
    assert exact_match("final votes", ["final", "the final vote"]) == 0.0


def test_f1_by_hand() -> None:
    # Two of three answer tokens stand in a gold answer of four: p = 2/3, r = 2/4, f = 4/7.
    assert f1("red green blue", ["red green yellow black"]) == pytest.approx(4 / 7)
    # Repeats count as often as they stand on both sides: p = 1/2, r = 1/1.
    assert f1("red red", ["red"]) == pytest.approx(2 / 3)
    # The best of several: 0 against the first, 1 against the second.
    assert f1("final vote", ["last", "a final vote"]) == 1.0
    assert f1("blue", ["red"]) == 0.0


def test_empty_answers_follow_the_official_script() -> None:
    assert f1("", ["red"]) == exact_match("", ["red"]) == 0.0
    assert f1("the", ["red"]) == 0.0  # nothing is left of the answer
    # Gold answers of which nothing is left are passed over; where none stays, nothing is the right answer.
    assert f1("the", ["a", "an"]) == exact_match("the", ["a"]) == 1.0
    assert f1("red", ["a", "red"]) == 1.0
    assert f1("", ["a", "red"]) == 0.0


def test_contains_wants_whole_tokens_in_a_row() -> None:
    assert contains("It was the Lisbon Treaty, in 2009.", ["lisbon treaty"]) == 1.0
    assert contains("of Lisbon, a treaty", ["Lisbon Treaty"]) == 1.0  # the article is dropped
    assert contains("Lisbon's new treaty", ["Lisbon Treaty"]) == 0.0
    assert contains("12009", ["2009"]) == 0.0
    assert contains("anything", ["the"]) == 0.0  # nothing is left of the gold answer


def test_every_metric_is_judged_and_a_good_answer_scores_one() -> None:
    scores = judge(sample())
    assert tuple(scores) == METRICS
    unscored = {"abstention_precision", "abstention_recall", *COUNTERFACTUAL_METRICS, *DEAR_METRICS}
    assert {name for name, score in scores.items() if score is None} == unscored
    assert {score for name, score in scores.items() if name not in unscored} == {1.0}


def test_an_abstention_on_an_answerable_question_counts_zero() -> None:
    scores = judge(sample(answer="", abstained=True, cited=()))
    assert (scores["exact_match"], scores["f1"], scores["contains"], scores["coverage"]) == (0.0, 0.0, 0.0, 0.0)
    assert (scores["abstention_precision"], scores["abstention_recall"]) == (0.0, None)
    assert (scores["citation_precision"], scores["citation_recall"]) == (None, None)
    assert scores["recall@1"] == 1.0  # retrieval is judged all the same


def test_an_unanswerable_question_asks_for_an_abstention() -> None:
    declined = judge(sample(answerable=False, gold=(), relevant=(), answer="", abstained=True, cited=()))
    answered = judge(sample(answerable=False, gold=(), relevant=()))
    assert (declined["abstention_precision"], declined["abstention_recall"]) == (1.0, 1.0)
    assert (answered["abstention_precision"], answered["abstention_recall"]) == (None, 0.0)
    for scores in (declined, answered):
        assert {scores[name] for name in ("f1", "coverage", "citation_recall", "ndcg@10")} == {None}


def test_a_failure_never_helps() -> None:
    answerable = judge(sample(answer="", failed=True, cited=(), ranked=()))
    assert {answerable[name] for name in ("exact_match", "f1", "contains", "coverage", "recall@10", "ndcg@10")} == {0.0}
    assert answerable["abstention_precision"] is None
    unanswerable = judge(sample(answerable=False, gold=(), relevant=(), answer="", failed=True, cited=(), ranked=()))
    assert (unanswerable["abstention_precision"], unanswerable["abstention_recall"]) == (None, 0.0)


def test_citations_against_relevant_documents() -> None:
    scores = judge(sample(relevant=("d1", "d2", "d3"), cited=("d1", "d9", "d1"), cited_texts=("a", "b", "c")))
    assert (scores["citation_precision"], scores["citation_recall"]) == (pytest.approx(1 / 2), pytest.approx(1 / 3))
    nothing_cited = judge(sample(cited=(), cited_texts=()))
    assert {nothing_cited[name] for name in CITATION_METRICS} == {0.0}
    unanswerable = judge(sample(answerable=False, gold=()))
    assert {unanswerable[name] for name in CITATION_METRICS} == {None}


def test_cited_sentences_are_right_where_a_relevant_document_says_an_expected_answer() -> None:
    texts = ("The Lisbon treaty was it.", "It rained.", "The Lisbon Treaty again.", "Also the Lisbon Treaty.")
    said = sample(cited=("d1", "d1", "d9", "d1"), cited_texts=texts, pointers=((0, 1), (1, 2), (3,)))
    scores = judge(said)
    assert (scores["sentence_precision"], scores["sentence_recall"]) == (2 / 4, pytest.approx(2 / 3))
    one_sentence = judge(replace(said, pointers=()))
    assert (one_sentence["sentence_precision"], one_sentence["sentence_recall"]) == (2 / 4, 1.0)


def test_an_expected_answer_too_long_for_a_sentence_leaves_it_to_the_document() -> None:
    said = sample(gold=("word " * 13,), cited=("d1", "d9"), cited_texts=("It rained.", "word"), pointers=((0,), (1,)))
    assert (judge(said)["sentence_precision"], judge(said)["sentence_recall"]) == (0.5, 0.5)
    short = judge(replace(said, gold=("word " * 13, "word " * 12)))
    assert (short["sentence_precision"], short["sentence_recall"]) == (0.0, 0.0)


def test_closed_book_has_no_citations_and_no_retrieval_to_judge() -> None:
    scores = judge(sample(retrieves=False, cited=(), ranked=()))
    judged = {name for name, score in scores.items() if score is not None}
    assert judged == {"right", "exact_match", "f1", "contains", "rouge_l", "crag", "coverage"}


def test_retrieval_alone_has_no_answer_to_judge() -> None:
    scores = judge(sample(generates=False, answer="", cited=()))
    assert {name for name, score in scores.items() if score is not None} == set(RETRIEVAL_METRICS)


def test_retrieval_by_hand() -> None:
    # Relevant are a, b, c; found at ranks 2 and 7; c is not found.
    scores = judge(sample(relevant=("a", "b", "c"), ranked=("x1", "a", "x2", "x3", "x4", "x5", "b", "x6")))
    assert scores["recall@1"] == 0.0
    assert scores["recall@5"] == pytest.approx(1 / 3)
    assert scores["recall@10"] == pytest.approx(2 / 3)
    assert scores["mrr"] == 1 / 2
    found = 1 / math.log2(3) + 1 / math.log2(8)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert scores["ndcg@10"] == pytest.approx(found / ideal)


def test_the_order_of_the_ranking_counts_not_the_ids() -> None:
    # trec_eval would put z before a on equal scores.
    assert judge(sample(relevant=("a",), ranked=("a", "z")))["recall@1"] == 1.0
    assert judge(sample(relevant=("a",), ranked=("z", "a")))["recall@1"] == 0.0


def test_ranks_beyond_ten_do_not_count_at_ten() -> None:
    ranked = tuple(f"x{i}" for i in range(10))
    assert judge(sample(relevant=("a",), ranked=(*ranked, "a")))["recall@10"] == 0.0
    assert judge(sample(relevant=("a",), ranked=(*ranked[:9], "a")))["recall@10"] == 1.0


def test_nothing_found_scores_zero_and_no_relevant_ids_score_nothing() -> None:
    assert judge(sample(ranked=()))["ndcg@10"] == 0.0
    assert judge(sample(relevant=()))["ndcg@10"] is None


def test_mean_leaves_out_what_was_not_scored() -> None:
    assert mean([1.0, None, 0.0, None]) == 0.5
    assert mean([None, None]) is None
    assert mean([]) is None


def test_ratios_are_means_over_what_they_are_about() -> None:
    # Four abstentions, three of them on unanswerable questions; of four unanswerable questions three declined.
    unanswerable = {"answerable": False, "gold": (), "relevant": ()}
    samples = [
        sample(),
        sample(answer="", abstained=True),
        *(sample(**unanswerable, answer="", abstained=True) for _ in range(3)),
        sample(**unanswerable),
    ]
    scores = [judge(s) for s in samples]
    assert mean(s["abstention_precision"] for s in scores) == 0.75
    assert mean(s["abstention_recall"] for s in scores) == 0.75
    assert mean(s["coverage"] for s in scores) == 0.5
    assert mean(s["f1"] for s in scores) == 0.5
