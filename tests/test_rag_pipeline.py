import pytest

from rag.abstain import Abstention, Signal
from rag.datatypes import Message, Verdict
from rag.draft import JUDGED_TOKENS
from rag.errors import InvalidRequest, PromptTooLong
from rag.pipeline import AskOptions, RagPipeline
from rag.prompt import Prompt
from rag.protocols import Retriever
from tests.conftest import ListRetriever, QueueGenerator, scored

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
    passages: int = 1,
    apart: bool = True,
    window: int = 0,
    evidence_tokens: int = 100,
    history_tokens: int = 100,
) -> RagPipeline:
    return RagPipeline(
        generator=generator,
        counter=generator,
        prompt=PROMPT,
        retriever=retriever,
        abstention=abstention,
        passages=passages,
        apart=apart,
        window=window,
        evidence_tokens=evidence_tokens,
        history_tokens=history_tokens,
        max_tokens=50,
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
    assert answer.confidence is None


def test_no_passage_no_answer() -> None:
    generator = QueueGenerator()
    answer = pipeline(generator, ListRetriever()).answer("Who?")
    assert answer.abstained
    assert answer.reason == "no passage was found"


def test_closed_book_answers_from_memory_without_citations() -> None:
    generator = QueueGenerator("1874")
    answer = pipeline(generator, abstention=GROUNDED).answer("When?")
    assert (answer.text, answer.citations, answer.abstained) == ("1874", (), False)
    assert generator.asked == [[Message("system", "From memory."), Message("user", "When?")]]


def test_several_passages_cite_the_one_that_holds_the_answer() -> None:
    answer = pipeline(QueueGenerator("salty"), ListRetriever(MILL, LAKE), passages=2, apart=False).answer(
        "How is the lake?"
    )
    assert [c.document_id for c in answer.citations] == ["lake.md"]
    assert answer.citations[0].index == 1


def test_the_budget_takes_whole_passages_or_none() -> None:
    generator = QueueGenerator("x")
    answer = pipeline(generator, ListRetriever(MILL, LAKE), passages=2, apart=False, evidence_tokens=12).answer("?x")
    assert answer.evidence_tokens == 11
    with pytest.raises(PromptTooLong, match="11 tokens, more than the evidence budget of 10"):
        pipeline(QueueGenerator("x"), ListRetriever(MILL), evidence_tokens=10).answer("?x")


HISTORY = [
    Message("user", "When was the mill built?"),
    Message("assistant", "1874"),
]


def test_a_follow_up_is_searched_with_the_question_before_it_and_told_the_turns() -> None:
    generator, retriever = QueueGenerator("in 1902"), ListRetriever(MILL)
    pipeline(generator, retriever).answer("And when did it burn?", HISTORY)
    assert retriever.questions == ["When was the mill built? And when did it burn?"]
    assert generator.asked[0][1:3] == HISTORY


def test_turns_that_do_not_fit_are_left_out_whole() -> None:
    generator = QueueGenerator("in 1902")
    pipeline(generator, ListRetriever(MILL), history_tokens=3).answer("And when did it burn?", HISTORY)
    assert len(generator.asked[0]) == 2  # the answer alone would fit, but a turn begins with a question


def test_braces_and_fields_in_documents_are_plain_text() -> None:
    odd = scored("{question} {0} {passages} {title}")
    generator = QueueGenerator("x")
    pipeline(generator, ListRetriever(odd)).answer("What {text}?")
    assert generator.asked[0][-1].content == "[T] {question} {0} {passages} {title}\nQ: What {text}?"


@pytest.mark.parametrize("question", ["", "  \n", "x" * 20_001])
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
