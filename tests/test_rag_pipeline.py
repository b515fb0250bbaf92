from typing import Literal

import pytest

from rag.abstain import ABSTENTION_TEXT, UNATTAINABLE_TEXT, Abstention, Signal
from rag.clock import Clock
from rag.datatypes import Message, Mode, Piece, RiskTarget, ScoredChunk, Usage, Verdict
from rag.draft import JUDGED_TOKENS, Draft
from rag.errors import ConfigError, InvalidRequest, PromptTooLong
from rag.filter import View, parse_filter
from rag.options import AskOptions
from rag.pipeline import RagPipeline, said
from rag.promise import Promise, Rung
from rag.prompt import Prompt
from rag.protocols import Embedder, Retriever
from rag.rewrite import Rewriter, load_rewrite_prompt
from tests.conftest import ListRetriever, QueueGenerator, WordEmbedder, scored

PROMPT = Prompt(
    name="test",
    system="Quote.",
    passage="[{title}] {text}",
    user="{passages}\nQ: {question}",
    closed_book="From memory.",
)
MILL = scored("The mill was built in 1874. It burned in 1902.", document="mill.md", start=100)
LAKE = scored("The lake is salty.", document="lake.md")

# Gives answers whose words stand in the passage (grounding 1: 0.73) and withholds others (grounding 0: 0.27).
GROUNDED = Abstention(
    fitted_on="hand", threshold=0.5, intercept=-1.0, signals={"grounding": Signal(weight=2.0, best=1.0)}
)


def pipeline(
    generator: QueueGenerator,
    retriever: Retriever | None = None,
    *,
    abstention: Abstention | None = None,
    abstain: bool = True,
    risk: float | None = None,
    passages: int = 1,
    mode: Mode = "each",
    window: int = 0,
    evidence_tokens: int = 100,
    history_tokens: int = 100,
    embedder: Embedder | None = None,
    long: Literal["auto", "always", "never"] = "auto",
    words: int = 20,
    drop_unsupported: bool = True,
) -> RagPipeline:
    return RagPipeline(
        generator=generator,
        counter=generator,
        prompt=PROMPT,
        retriever=retriever,
        abstention=abstention,
        abstain=abstain,
        risk=risk,
        passages=passages,
        mode=mode,
        window=window,
        evidence_tokens=evidence_tokens,
        history_tokens=history_tokens,
        max_tokens=50,
        embedder=embedder,
        long=long,
        words=words,
        drop_unsupported=drop_unsupported,
    )


def test_an_answer_with_its_citation() -> None:
    generator = QueueGenerator("in 1902")
    answer = pipeline(generator, ListRetriever(MILL, LAKE)).answer("When did it burn?")
    assert answer.text == "in 1902"
    assert answer.verdict is Verdict.ANSWERED
    (citation,) = answer.citations
    assert (citation.index, citation.document_id, citation.chunk_id) == (1, "mill.md", "mill.md#0")
    assert citation.text == "It burned in 1902."
    assert citation.span == (128, 146)
    assert answer.retrieved == (MILL, LAKE)
    assert generator.asked == [
        [Message("system", "Quote."), Message("user", f"[T] {MILL.chunk.text}\nQ: When did it burn?")]
    ]
    # "[T] The mill was built in 1874. It burned in 1902.": 11 words, and 5 more with the question, and the system's 1.
    assert answer.evidence_tokens == 11
    assert answer.usage.prompt == 17
    assert answer.usage.completion == 2
    assert {"retrieve", "evidence", "read", "generate", "cite", "total"} <= answer.timings.keys()


def test_only_the_window_around_the_nearest_sentence_is_read_and_its_place_is_cited() -> None:
    generator = QueueGenerator("in 1902")
    answer = pipeline(generator, ListRetriever(MILL), window=5).answer("When did it burn?")
    assert generator.asked[0][-1].content == "[T] It burned in 1902.\nQ: When did it burn?"
    assert answer.evidence_tokens == 5
    assert answer.passages_read == 1
    assert [(c.text, c.span) for c in answer.citations] == [("It burned in 1902.", (128, 146))]
    assert answer.retrieved == (MILL,)


def test_the_stream_is_the_same_answer() -> None:
    deltas = list(pipeline(QueueGenerator("in 1902"), ListRetriever(MILL)).stream("When did it burn?"))
    assert "".join(d.text for d in deltas) == "in 1902"
    assert [d.answer is not None for d in deltas] == [False] * (len(deltas) - 1) + [True]
    whole = pipeline(QueueGenerator("in 1902"), ListRetriever(MILL)).answer("When did it burn?")
    assert deltas[-1].answer is not None
    assert deltas[-1].answer.text == whole.text
    assert deltas[-1].answer.citations == whole.citations


def test_an_answer_that_the_passage_does_not_hold_is_withheld_and_never_shown() -> None:
    generator = QueueGenerator("Napoleon Bonaparte")
    deltas = list(pipeline(generator, ListRetriever(MILL), abstention=GROUNDED).stream("Who built it?"))
    assert all(d.text == "" for d in deltas)
    answer = deltas[-1].answer
    assert answer is not None
    assert answer.abstained
    assert (answer.text, answer.citations) == ("", ())
    assert answer.confidence == pytest.approx(0.2689, abs=1e-4)
    assert "unsure" in answer.reason
    assert answer.usage.completion == 2


def test_a_long_answer_is_judged_on_its_first_tokens_and_stopped() -> None:
    generator = QueueGenerator("nonsense " * 40)
    answer = pipeline(generator, ListRetriever(MILL), abstention=GROUNDED).answer("Who built it?")
    assert answer.abstained
    assert answer.usage.completion == JUDGED_TOKENS
    assert generator.closed_early == 1


def test_a_grounded_answer_is_given_with_its_confidence() -> None:
    answer = pipeline(QueueGenerator("1874"), ListRetriever(MILL), abstention=GROUNDED).answer("When?")
    assert answer.text == "1874"
    assert answer.confidence == pytest.approx(0.7311, abs=1e-4)


def test_nothing_is_read_where_retrieval_leaves_no_hope() -> None:
    far = Abstention(fitted_on="hand", threshold=0.5, intercept=-2, signals={"cosine": Signal(weight=2.4, best=1.0)})
    generator = QueueGenerator("1874")
    answer = pipeline(generator, ListRetriever(MILL), abstention=far).answer("When?")
    assert answer.abstained
    assert generator.asked == []
    assert answer.confidence == pytest.approx(0.4801, abs=1e-4)  # -2 + 2.4 * 0.8 = -0.08


def test_abstention_can_be_switched_off() -> None:
    answer = pipeline(QueueGenerator("Bonaparte"), ListRetriever(MILL), abstention=GROUNDED).answer(
        "Who?", options=AskOptions(abstain=False)
    )
    assert answer.text == "Bonaparte"
    assert answer.confidence == pytest.approx(0.2689, abs=1e-4)  # given all the same, and said how unsure
    off = pipeline(QueueGenerator("Bonaparte"), ListRetriever(MILL), abstention=GROUNDED, abstain=False)
    assert off.answer("Who?").text == "Bonaparte"


def test_no_passage_no_answer() -> None:
    generator = QueueGenerator()
    answer = pipeline(generator, ListRetriever()).answer("Who?")
    assert answer.abstained
    assert answer.reason == "no passage was found"
    assert answer.closest == ()


def test_a_refusal_names_the_documents_that_come_closest() -> None:
    far = scored("Nothing here. The mill stood at the weir. The end.", document="weir.md", title="Weir", dense=0.3)
    again = scored("The weir was of oak.", document="mill.md", dense=0.2)
    generator = QueueGenerator("Napoleon Bonaparte")
    answer = pipeline(generator, ListRetriever(MILL, again, far, LAKE, scored("x", document="e")), abstention=GROUNDED)
    refused = answer.answer("Who built the mill at the weir?")
    # Each document once, by its best passage; of that the sentence with most of the question's words.
    assert [(c.document_id, c.title, c.score, c.dense, c.text) for c in refused.closest] == [
        ("mill.md", "T", 0.8, 0.8, "The mill was built in 1874."),
        ("weir.md", "Weir", 0.3, 0.3, "The mill stood at the weir."),
        ("lake.md", "T", 0.8, 0.8, "The lake is salty."),
    ]
    assert said(refused) == ABSTENTION_TEXT


def test_what_comes_closest_is_no_heading_and_no_longer_than_can_be_read() -> None:
    headed = scored("## The mill\n\nNobody knows when. It ran until 1902.", document="a", title="The mill")
    endless = scored("mill " * 100, document="b")
    asked = pipeline(QueueGenerator("Bonaparte"), ListRetriever(headed, endless), abstention=GROUNDED)
    texts = [near.text for near in asked.answer("Who built the mill?").closest]
    # "mill" stands in the title, so no sentence of the first holds any word that was asked for.
    assert texts[0] == "Nobody knows when."
    assert len(texts[1]) == 300 and texts[1].endswith("…")


def test_an_answer_that_is_given_has_nothing_closest() -> None:
    assert pipeline(QueueGenerator("1874"), ListRetriever(MILL), abstention=GROUNDED).answer("When?").closest == ()


# A grounded answer has 0.73. Tested thresholds: 0.9 keeps 10%, which it does not reach, 0.6 keeps 20%.
PROMISING = GROUNDED.model_copy(
    update={
        "promise": Promise(
            confidence=0.95,
            questions=80,
            rungs=(
                Rung(threshold=0.9, answered=40, wrong=0, bound=0.08),
                Rung(threshold=0.6, answered=60, wrong=6, bound=0.19),
            ),
        )
    }
)


@pytest.mark.parametrize(
    ("risk", "verdict"), [(0.2, Verdict.ANSWERED), (0.1, Verdict.ABSTAINED), (0.05, Verdict.UNATTAINABLE)]
)
@pytest.mark.parametrize("by", ["settings", "request"])
def test_a_risk_target_decides_what_is_answered(risk: float, verdict: Verdict, by: str) -> None:
    generator = QueueGenerator("1874")
    asked = pipeline(generator, ListRetriever(MILL), abstention=PROMISING, risk=risk if by == "settings" else None)
    answer = asked.answer("When?", options=AskOptions(risk=risk if by == "request" else None))
    assert answer.verdict is verdict
    assert answer.target == RiskTarget(risk, 0.95, attainable=verdict is not Verdict.UNATTAINABLE)
    assert answer.confidence is not None


def test_what_is_not_attainable_is_said_without_asking_the_model() -> None:
    generator = QueueGenerator()
    answer = pipeline(generator, ListRetriever(MILL), abstention=PROMISING, risk=0.01).answer("When was it burned?")
    assert answer.abstained and generator.asked == []
    assert answer.reason == (
        "the share of wrong answers asked for is not attainable with this model and these documents"
    )
    assert said(answer) == UNATTAINABLE_TEXT
    assert [c.text for c in answer.closest] == ["It burned in 1902."]


def test_a_risk_asked_for_goes_before_that_of_the_settings_and_before_switching_off() -> None:
    asked = pipeline(QueueGenerator("1874", "1874"), ListRetriever(MILL), abstention=PROMISING, risk=0.1, abstain=False)
    assert asked.answer("When?").target is None
    assert asked.answer("When?", options=AskOptions(risk=0.2)).target == RiskTarget(0.2, 0.95, attainable=True)


@pytest.mark.parametrize(
    "options",
    [
        AskOptions(risk=0.2, abstain=False),
        AskOptions(risk=0.2, temperature=0.1),
        AskOptions(risk=0.2, passages=2),
        AskOptions(risk=0.2, mode="joint"),
        AskOptions(risk=0.2, max_tokens=5),
        AskOptions(risk=0.2, stop=("x",)),
        AskOptions(risk=0.2, view=View(parse_filter('{"type": "pdf"}'))),
    ],
)
def test_a_request_may_not_break_the_promise_that_it_asks_for(options: AskOptions) -> None:
    with pytest.raises(InvalidRequest, match="as they were tested"):
        pipeline(QueueGenerator("1874"), ListRetriever(MILL), abstention=PROMISING).answer("When?", options=options)


def test_as_tested_may_be_spelt_out() -> None:
    options = AskOptions(risk=0.2, passages=1, max_tokens=50, abstain=True)
    answer = pipeline(QueueGenerator("1874"), ListRetriever(MILL), abstention=PROMISING).answer(
        "When?", options=options
    )
    assert answer.verdict is Verdict.ANSWERED


def test_a_request_that_goes_its_own_way_ends_the_promise_of_the_settings() -> None:
    asked = pipeline(QueueGenerator("1874"), ListRetriever(MILL), abstention=PROMISING, risk=0.2)
    answer = asked.answer("When?", options=AskOptions(temperature=0.7))
    assert (answer.text, answer.target) == ("1874", None)


def test_a_risk_needs_an_estimate_that_was_tested() -> None:
    with pytest.raises(ConfigError, match="cannot be promised"):
        pipeline(QueueGenerator(), ListRetriever(MILL), abstention=GROUNDED).answer("?x", options=AskOptions(risk=0.2))
    with pytest.raises(InvalidRequest, match="nothing estimates"):
        pipeline(QueueGenerator(), abstention=PROMISING).answer("?x", options=AskOptions(risk=0.2))


def test_closed_book_answers_from_memory_without_citations() -> None:
    generator = QueueGenerator("1874")
    answer = pipeline(generator, abstention=GROUNDED).answer("When?")
    assert (answer.text, answer.citations, answer.abstained) == ("1874", (), False)
    assert generator.asked == [[Message("system", "From memory."), Message("user", "When?")]]


def test_several_passages_cite_the_one_that_holds_the_answer() -> None:
    answer = pipeline(QueueGenerator("salty"), ListRetriever(MILL, LAKE), passages=2, mode="joint").answer(
        "How is the lake?"
    )
    assert [c.document_id for c in answer.citations] == ["lake.md"]
    assert answer.citations[0].index == 1


def test_a_request_may_say_how_passages_are_read() -> None:
    generator = QueueGenerator("salty", "salty", "salty")
    asked = pipeline(generator, ListRetriever(MILL, LAKE), passages=2)
    assert asked.answer("How is the lake?", options=AskOptions(mode="joint")).passages_read == 2
    assert asked.answer("How is the lake?").passages_read == 1
    assert len(generator.asked) == 2


def test_the_budget_takes_whole_passages_or_none() -> None:
    generator = QueueGenerator("x")
    answer = pipeline(generator, ListRetriever(MILL, LAKE), passages=2, mode="joint", evidence_tokens=12).answer("?x")
    assert answer.evidence_tokens == 11
    with pytest.raises(PromptTooLong, match="11 tokens, more than the evidence budget of 10"):
        pipeline(QueueGenerator("x"), ListRetriever(MILL), evidence_tokens=10).answer("?x")


HISTORY = [
    Message("user", "When was the mill built?"),
    Message("assistant", "1874"),
]


def test_a_follow_up_is_searched_for_and_asked_as_a_question_of_its_own() -> None:
    generator, retriever = QueueGenerator("in 1902"), ListRetriever(MILL)
    answer = pipeline(generator, retriever).answer("And when did it burn?", HISTORY)
    assert retriever.questions == [answer.question] == ["And when did the mill burn?"]
    asked = Message("user", f"[T] {MILL.chunk.text}\nQ: And when did the mill burn?")
    assert generator.asked[0][1:] == [*HISTORY, asked]


def test_a_follow_up_is_asked_with_the_turns_about_the_same_alone() -> None:
    generator, retriever = QueueGenerator("in 1902"), ListRetriever(MILL)
    lake = [Message("user", "How deep is Lake Orrin?"), Message("assistant", "60 metres")]
    mill = [Message("user", "Who burned the Tolmen mill?"), Message("assistant", "the miller")]
    pipeline(generator, retriever).answer("Why?", [*lake, *mill])
    assert retriever.questions == ["Who burned the Tolmen mill? Why?"]
    assert generator.asked[0][1:3] == mill
    assert len(generator.asked[0]) == 4


def test_a_new_topic_is_searched_for_as_it_was_said_and_the_old_turns_are_left_out() -> None:
    generator, retriever = QueueGenerator("60 metres"), ListRetriever(LAKE)
    answer = pipeline(generator, retriever).answer("How deep is Lake Orrin?", HISTORY)
    assert retriever.questions == [answer.question] == ["How deep is Lake Orrin?"]
    assert len(generator.asked[0]) == 2


def test_from_memory_a_follow_up_is_asked_as_it_was_said() -> None:
    generator = QueueGenerator("in 1902")
    answer = pipeline(generator, None).answer("And when did it burn?", HISTORY)
    assert generator.asked[0][1:] == [*HISTORY, Message("user", "And when did it burn?")]
    assert answer.question == "And when did it burn?"


def rewriting(generator: QueueGenerator, retriever: Retriever) -> RagPipeline:
    rewriter = Rewriter(generator, load_rewrite_prompt())
    return RagPipeline(
        generator=generator, counter=generator, prompt=PROMPT, retriever=retriever, rewriter=rewriter, max_tokens=50
    )


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("How was the fire in the mill put out?", "How was the fire in the mill put out?"),
        ("By the fire brigade of Norrin.", "the mill: How was the fire put out?"),  # an answer, not a question
        ("How was the fire put out?", "the mill: How was the fire put out?"),  # nothing is added
        ("", "the mill: How was the fire put out?"),
    ],
)
def test_the_model_rewrites_where_rules_do_not_suffice_and_is_held_to_what_was_said(written: str, asked: str) -> None:
    generator, retriever = QueueGenerator(written, "in 1902"), ListRetriever(MILL)
    answer = rewriting(generator, retriever).answer("How was the fire put out?", HISTORY)
    assert retriever.questions == [answer.question] == [asked]
    shown = generator.asked[0][-1].content
    assert "User: When was the mill built?\nAssistant: 1874\n" in shown
    assert answer.usage.completion == len(f"{written} in 1902".split())
    assert "rewrite" in answer.timings


def test_the_model_rewrites_for_retrieval_alone_too_and_not_where_rules_suffice() -> None:
    generator, retriever = QueueGenerator("How was the fire in the mill put out?"), ListRetriever(MILL)
    searching = rewriting(generator, retriever)
    searching.retrieve("How was the fire put out?", HISTORY)
    searching.retrieve("When did it burn?", HISTORY)
    assert retriever.questions == ["How was the fire in the mill put out?", "When did the mill burn?"]
    assert len(generator.asked) == 1


def test_a_rewriting_that_is_given_up_frees_the_model() -> None:
    generator = QueueGenerator("How was the fire in the mill put out?")
    stream = rewriting(generator, ListRetriever(MILL)).stream("How was the fire put out?", HISTORY)
    assert next(stream).answer is None
    stream.close()
    assert generator.closed_early == 1


def test_turns_that_do_not_fit_are_left_out_whole() -> None:
    generator = QueueGenerator("in 1902")
    pipeline(generator, ListRetriever(MILL), history_tokens=3).answer("Why?", HISTORY)
    assert len(generator.asked[0]) == 2  # the answer alone would fit, but a turn begins with a question


def test_braces_and_fields_in_documents_are_plain_text() -> None:
    odd = scored("{question} {0} {passages} {title}")
    generator = QueueGenerator("x")
    pipeline(generator, ListRetriever(odd)).answer("What {text}?")
    assert generator.asked[0][-1].content == "[T] {question} {0} {passages} {title}\nQ: What {text}?"


@pytest.mark.parametrize("question", ["", "  \n", "x" * 20_001, "caf\udce9?"])
def test_questions_out_of_bounds(question: str) -> None:
    with pytest.raises(InvalidRequest):
        pipeline(QueueGenerator("x"), ListRetriever(MILL)).answer(question)


def test_closing_a_stream_frees_the_model() -> None:
    generator = QueueGenerator("one two three")
    stream = pipeline(generator, ListRetriever(MILL)).stream("Who?")
    next(stream)
    stream.close()
    assert generator.closed_early == 1


def test_the_request_decides_how_to_sample() -> None:
    generator = QueueGenerator("one two three")
    options = AskOptions(max_tokens=2, temperature=0.5, top_p=0.9, seed=7, stop=("x",))
    answer = pipeline(generator, ListRetriever(MILL)).answer("Who?", options=options)
    assert answer.finish_reason == "length"
    sampling = generator.samplings[0]
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.seed) == (2, 0.5, 0.9, 7)
    assert sampling.stop == ("x",)


def test_a_question_that_asks_how_gets_sentences_of_several_passages() -> None:
    fire = scored("The mill burned because its stove cracked.", document="fire.md", dense=0.79)
    generator = QueueGenerator("a stove")
    asked = pipeline(generator, ListRetriever(MILL, fire), embedder=WordEmbedder())
    answer = asked.answer("How did the mill burn?")
    assert [c.document_id for c in answer.citations] == ["mill.md", "fire.md"]
    assert answer.text == " ".join(c.text for c in answer.citations)
    assert len(answer.text.split()) <= 20
    assert [s.citations for s in answer.sentences] == [(1,), (2,)]
    assert "compose" in answer.timings
    deltas = list(asked_again(fire).stream("How did the mill burn?"))
    assert (deltas[-1].answer is not None) and deltas[-1].answer.text == answer.text
    assert all(delta.text == "" for delta in deltas)  # it is there all at once


def asked_again(*more: ScoredChunk) -> RagPipeline:
    return pipeline(QueueGenerator("a stove"), ListRetriever(MILL, *more), embedder=WordEmbedder())


def test_the_length_is_the_requests_to_set() -> None:
    composed = asked_again().answer("When did it burn?", options=AskOptions(words=5))
    assert composed.text == "It burned in 1902."
    assert composed.usage.completion == 1  # the first token alone, by which the model says whether it would decline
    assert asked_again().answer("How did the mill burn?", options=AskOptions(words=0)).text == "a stove"
    cut = asked_again().answer("When did it burn?", options=AskOptions(words=5, stop=(composed.text[4:],)))
    assert cut.text == composed.text[:4].rstrip()
    few = asked_again().answer("When did it burn?", options=AskOptions(words=50, max_tokens=8))
    assert few.text == "It burned in 1902."  # 8 tokens are 5 words


def test_how_questions_are_read_is_a_setting() -> None:
    def answered(long: Literal["auto", "always", "never"], question: str) -> str:
        generator = QueueGenerator("a stove")
        return pipeline(generator, ListRetriever(MILL), embedder=WordEmbedder(), long=long).answer(question).text

    assert answered("never", "How did the mill burn?") == answered("auto", "What burned?") == "a stove"
    assert answered("always", "When did it burn?").startswith("The mill was built in 1874.")
    assert pipeline(QueueGenerator("by fire"), long="always").answer("How did it burn?").text == "by fire"


def test_a_composed_answer_is_judged_and_breaks_a_promise_that_it_was_not_tested_with() -> None:
    unsure = Abstention(
        fitted_on="hand", threshold=0.5, intercept=1.0, signals={"cosine": Signal(weight=-2.0, best=0.0)}
    )
    withheld = pipeline(QueueGenerator("x"), ListRetriever(MILL), embedder=WordEmbedder(), abstention=unsure)
    answer = withheld.answer("How did the mill burn?")
    assert (answer.verdict, answer.text, answer.citations, answer.sentences) == (Verdict.ABSTAINED, "", (), ())
    promised = pipeline(QueueGenerator("x"), ListRetriever(MILL), abstention=PROMISING, embedder=WordEmbedder())
    with pytest.raises(InvalidRequest, match="as they were tested"):
        promised.answer("How did the mill burn?", options=AskOptions(words=50, risk=0.2))


def test_further_sentences_that_no_passage_supports_are_never_shown() -> None:
    said_ = "It burned in 1902. Napoleon owned an elephant there. The mill was built in 1874."
    asked = pipeline(QueueGenerator(said_), ListRetriever(MILL))
    deltas = list(asked.stream("When did it burn?"))
    answer = deltas[-1].answer
    assert answer is not None
    assert answer.text == "It burned in 1902. The mill was built in 1874."
    assert "".join(delta.text for delta in deltas) == answer.text
    assert [s.citations for s in answer.sentences] == [(1,), (2,)]


def test_or_they_are_shown_and_marked() -> None:
    said_ = "It burned in 1902. Napoleon owned an elephant there."
    asked = pipeline(QueueGenerator(said_), ListRetriever(MILL), drop_unsupported=False)
    answer = asked.answer("When did it burn?")
    assert answer.text == said_
    assert [(s.citations, s.supported) for s in answer.sentences] == [((1,), True), ((), False)]


def test_a_first_sentence_is_left_to_the_abstention() -> None:
    answer = pipeline(QueueGenerator("Yes. It burned in 1902."), ListRetriever(MILL)).answer("Did it burn?")
    assert answer.text == "Yes. It burned in 1902."
    assert [(s.citations, s.supported) for s in answer.sentences] == [((), False), ((1,), True)]


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (("in", " 1874", " [", "7", "]", "."), "in 1874."),
        (("in 1874.", "[7]", "[8]"), "in 1874."),
        (
            (
                "in 1874 [7,",
                " 8] or so",
            ),
            "in 1874 or so",
        ),
        (("in 1874 [", "7"), "in 1874 [7"),  # it ends there, and is no mark
        (("a[1]", " and [x]"), "a[1] and [x]"),
        (("[12]",), "[12]"),
    ],
)
def test_marks_that_are_not_ours_are_never_shown(pieces: tuple[str, ...], text: str) -> None:
    draft, shown = Draft(judged=True, tokens=1), ""
    for piece in (*(Piece(piece, None, 1) for piece in pieces), Piece("", finish_reason="stop", usage=Usage())):
        draft.add(piece, Clock())
        shown += draft.take(lambda _: True)
    assert shown == draft.shown == text
