"""Long answers: a reader's phrase, sentences composed from evidence, or a model that writes over those sentences.

    python -m benchmarks.long_answers                                     the example set, which expects phrases
    python -m benchmarks.long_answers DATA/long-answers --words 60 100 --writer qwen2.5-coder-0.5b-instruct
    python -m benchmarks.long_answers DATA/conversations --no-models --words 60 100

Answerable questions from the first half of each set, nothing withheld: ROUGE-L and cosine similarity to the best right
answer, words, seconds without retrieval, and the share of citations that lie in a relevant document. `lead` is the
beginning of the best passage, in as many words. A corpus is embedded once and kept under --cache.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.recalled import Recalled
from eval.metrics import mean
from eval.qaset import Question, load_qaset
from eval.scorers import rouge_l, similarity
from indexer.chunk import Chunker
from indexer.sync import build
from rag.build import build_embedder, build_generator, build_pipeline, build_retriever, model_store, open_index
from rag.compose import PASSAGES, compose
from rag.config import Settings, load_settings
from rag.datatypes import Message, Sampling, ScoredChunk
from rag.embedder import SentenceEmbedder
from rag.followup import follow_up
from rag.form import asks_at_length
from rag.options import AskOptions
from rag.pipeline import RagPipeline
from rag.protocols import Generator, Retriever

EXAMPLE = Path(__file__).parent.parent / "examples" / "qa"

_WRITER = "Answer the question in two or three sentences, from the text alone."
_TOKENS_A_WORD = 1.5


class Case(NamedTuple):
    """A question, what it is searched with, and what was found."""

    question: Question
    query: str
    found: Sequence[ScoredChunk]


class Said(NamedTuple):
    """An answer and the documents that it cites."""

    text: str
    documents: Sequence[str]


Answering = Callable[[Case], Said]


def main() -> None:
    """Print the table of each set."""
    options = parse_arguments()
    settings = load_settings()
    embedder = build_embedder(settings, model_store(settings))
    for folder in options.sets:
        with find(folder, settings, embedder, options) as (cases, retriever):
            print(f"\n{folder.name}: {len(cases)} questions")
            print(f"{'':44}{'ROUGE-L':>9}{'similar':>9}{'words':>7}{'seconds':>9}{'relevant':>10}")
            recalled = Recalled({case.query: case.found for case in cases}, retriever)
            for name, answering in systems(recalled, settings, embedder, options):
                report(name, cases, answering, embedder)


@contextmanager
def find(
    folder: Path, settings: Settings, embedder: SentenceEmbedder, options: argparse.Namespace
) -> Iterator[tuple[list[Case], Retriever]]:
    """Retrieve for the questions that are asked; the retriever can be asked until the block ends."""
    qaset = load_qaset(folder)
    half = qaset.questions[: len(qaset.questions) // 2]
    wanted = [q for q in half if q.answerable and q.answers and (not options.long or asks_at_length(q.question))]
    chunker = Chunker(embedder.tokenizer_file, settings.chunk.tokens, settings.chunk.overlap)
    directory = options.cache / f"{qaset.corpus_digest[:16]}-{settings.chunk.tokens}-{settings.chunk.overlap}"
    build(directory, qaset.documents(), embedder=embedder, chunker=chunker)
    with open_index(settings, embedder, directory) as index:
        retriever = build_retriever(settings, index, embedder)
        cases = []
        for question in wanted[: options.limit]:
            query = follow_up(question.question, question.history).question
            cases.append(Case(question, query, retriever.retrieve(query, settings.retrieval.candidates)))
        yield cases, retriever


def systems(
    recalled: Recalled, settings: Settings, embedder: SentenceEmbedder, options: argparse.Namespace
) -> Iterator[tuple[str, Answering]]:
    """Yield what is compared, one model at a time in memory."""
    for words in options.words:
        yield f"lead, {words} words", partial(lead, words=words)
        yield f"composed, {words} words", partial(composed, words=words, embedder=embedder)
    if options.no_models:
        return
    store = model_store(settings)
    with closing(build_generator(settings, store)) as reader:
        pipeline = build_pipeline(settings, reader, recalled, embedder)
        yield f"{settings.generator.model}, a phrase", lambda case: phrase(pipeline, case)
    for name in options.writer:
        with closing(
            build_generator(
                settings.model_copy(update={"generator": settings.generator.model_copy(update={"model": name})}), store
            )
        ) as writer:
            for words in options.words:
                yield (
                    f"{name}, writes over {words} words",
                    partial(written, words=words, embedder=embedder, writer=writer),
                )


def lead(case: Case, words: int) -> Said:
    """Return the beginning of the best passage."""
    best = case.found[0].chunk
    return Said(" ".join(best.text.split()[:words]), [best.document_id])


def composed(case: Case, words: int, embedder: SentenceEmbedder) -> Said:
    """Return what the product composes."""
    answer = compose(case.query, case.found[:PASSAGES], words=words, embedder=embedder)
    return Said(answer.text, [citation.document_id for citation in answer.cited.citations])


def phrase(pipeline: RagPipeline, case: Case) -> Said:
    """Return the product's short answer."""
    options = AskOptions(abstain=False, words=0)
    answer = pipeline.answer(case.question.question, case.question.history, options)
    return Said(answer.text, [citation.document_id for citation in answer.citations])


def written(case: Case, words: int, embedder: SentenceEmbedder, writer: Generator) -> Said:
    """Return what a model writes over twice as many words of composed evidence."""
    evidence = compose(case.query, case.found[:PASSAGES], words=2 * words, embedder=embedder)
    chat = [Message("system", _WRITER), Message("user", f"{evidence.text}\n\nQuestion: {case.question.question}")]
    pieces = writer.stream(chat, Sampling(max_tokens=round(_TOKENS_A_WORD * words)))
    text = "".join(piece.text for piece in pieces).strip()
    return Said(text, [citation.document_id for citation in evidence.cited.citations])


def report(name: str, cases: Sequence[Case], answering: Answering, embedder: SentenceEmbedder) -> None:
    """Print one line."""
    rows = []
    for case in cases:
        start = time.perf_counter()
        said = answering(case)
        seconds = time.perf_counter() - start
        gold = case.question.answers
        hits = [float(document in case.question.relevant) for document in said.documents]
        rows.append(
            (
                rouge_l(said.text, gold),
                similarity(said.text, gold, embedder),
                len(said.text.split()),
                seconds,
                mean(hits),
            )
        )
    rouge, similar, words, seconds_, relevant = (mean(column) or 0.0 for column in zip(*rows, strict=True))
    print(f"{name:44}{rouge:9.3f}{similar:9.3f}{words:7.0f}{seconds_:9.2f}{relevant:10.2f}", flush=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sets", nargs="*", type=Path, metavar="QA_SET", default=[EXAMPLE], help="folders of QA sets with long answers"
    )
    parser.add_argument("--limit", type=int, default=20, help="questions of each set (%(default)s)")
    parser.add_argument("--words", type=int, nargs="+", default=[100], help="lengths to compare (%(default)s)")
    parser.add_argument("--long", action="store_true", help="only questions that ask for more than a phrase")
    parser.add_argument(
        "--writer", nargs="*", default=[], help="models of the registry that write over the composed sentences"
    )
    parser.add_argument("--no-models", action="store_true", help="leave out what asks a language model")
    parser.add_argument("--cache", type=Path, default=Path(".smallhold/bench"), help="where embedded corpora are kept")
    return parser.parse_args()


if __name__ == "__main__":
    main()
