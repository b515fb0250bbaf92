"""How often the window of a passage that is read keeps the answer, by its budget of tokens, and what it spares.

    python -m benchmarks.window                                          the example set
    python -m benchmarks.window DATA/squad2-tune DATA/nq-recorded        other sets with answers and relevant documents

Asked of the chunks that hold an answer, cut as an index cuts them; no model is asked.
"""

import argparse
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from eval.qaset import Question, load_qaset
from indexer.chunk import Chunker
from rag.build import build_embedder, model_store
from rag.config import load_settings
from rag.datatypes import ScoredChunk
from rag.engine.native import LlamaVocabulary
from rag.window import nearest_window

EXAMPLE = Path(__file__).parent.parent / "examples" / "qa"
BUDGETS = (40, 60, 80, 100, 120, 160, 240)


class Case(NamedTuple):
    """A question and the passage that holds its answer."""

    question: Question
    passage: ScoredChunk


def main() -> None:
    """Print the table of each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", type=Path, metavar="QA_SET", default=[EXAMPLE])
    parser.add_argument("--model", default="qwen2.5-coder-0.5b-reader", help="whose tokens are counted (%(default)s)")
    options = parser.parse_args()
    settings = load_settings(None)
    store = model_store(settings)
    chunker = Chunker(build_embedder(settings, store).tokenizer_file, settings.chunk.tokens, settings.chunk.overlap)
    with closing(LlamaVocabulary(store.pull(options.model).file)) as vocabulary:
        for folder in options.sets:
            cases = list(_cases(folder, chunker))
            whole = sum(vocabulary.count(case.passage.chunk.text) for case in cases) / len(cases)
            print(f"{folder.name}: {len(cases)} questions, {whole:.0f} tokens a passage")
            for budget in BUDGETS:
                read = [
                    nearest_window(c.question.question, c.passage, tokens=budget, count=vocabulary.count) for c in cases
                ]
                kept = sum(_holds(p, c.question) for p, c in zip(read, cases, strict=True)) / len(cases)
                tokens = sum(vocabulary.count(p.chunk.text) for p in read) / len(cases)
                print(f"  at most {budget:>3}: {tokens:>4.0f} read, the answer kept in {kept:.3f}")


def _cases(folder: Path, chunker: Chunker) -> Iterator[Case]:
    qaset = load_qaset(folder)
    documents = {document.id: document for document in qaset.documents()}
    for question in qaset.questions:
        chunks = [chunk for id_ in question.relevant for chunk in chunker.chunk(documents[id_])]
        holding = (passage for chunk in chunks if _holds(passage := ScoredChunk(chunk, 1.0), question))
        if (first := next(holding, None)) is not None:
            yield Case(question, first)


def _holds(passage: ScoredChunk, question: Question) -> bool:
    return any(answer.lower() in passage.chunk.text.lower() for answer in question.answers)


if __name__ == "__main__":
    main()
