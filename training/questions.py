"""More to learn from where people's questions run out: a larger model writes questions about documents.

    python -m training.questions FOLDER --out SET --questions 600 --without squad2-small

Writes a QA set whose corpus is the passages asked about. The answer is picked first, by rules (eval/synth_candidates.py);
the model writes the question. A quarter is made unanswerable by putting in a name or number from elsewhere: the near
misses that a small model falls for. `smallhold eval synth` checks its questions by reading and by memory, at three
times the cost; a lesson may be wrong now and then, a test question may not.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from eval import synth_checks as checks
from eval.files import dump_line
from eval.qaset import load_qaset
from eval.qaset_draft import UNKNOWN_LICENSE, new_folder, write_meta
from eval.synth_ask import Asker, load_synth_prompts
from eval.synth_candidates import find_candidates
from eval.synth_drafts import Assignment, Draft, Kind, Swaps, write_draft
from eval.synth_passages import Passage, draw_passages
from indexer.chunk import Chunker
from rag.build import build_embedder, build_generator, model_store
from rag.cli_synth import load_folder
from rag.config import load_settings
from rag.prompt import load_prompt

PER_PASSAGE = 2
UNANSWERABLE = 0.25


def main() -> None:
    """Draw passages, have questions written about them, keep what has the form of a question."""
    options = _options()
    settings = load_settings(None, {"generator": {"model": options.model}})
    store = model_store(settings)
    chunker = Chunker(build_embedder(settings, store).tokenizer_file, settings.chunk.tokens, settings.chunk.overlap)
    without = {document.title for folder in options.without for document in load_qaset(folder).documents()}
    documents = (document for document in load_folder(options.folder) if document.title not in without)
    passages = draw_passages(documents, chunker.chunk, options.seed)
    with closing(build_generator(settings, store)) as generator:
        asker = Asker(generator, load_prompt("extractive"), load_synth_prompts())
        drafts: list[Draft] = []
        for draft in _written(passages, asker, options.seed):
            drafts.append(draft)
            if len(drafts) % 10 == 0:
                print(f"{len(drafts)} of {options.questions}: {draft.question}", flush=True)
            if len(drafts) == options.questions:
                break
    _write(options.out, drafts, f"{options.model} about {options.folder.name}, seed {options.seed}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="documents to ask about")
    parser.add_argument("--out", type=Path, required=True, help="the QA-set folder to write")
    parser.add_argument("--questions", type=int, default=600)
    parser.add_argument("--without", type=Path, action="append", default=[], help="a QA set whose documents stay out")
    parser.add_argument("--model", default="qwen2.5-coder-1.5b-instruct", help="who writes")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _written(passages: Sequence[Passage], asker: Asker, seed: int) -> Iterator[Draft]:
    rng, swaps = random.Random(seed), Swaps(passages, seed)  # noqa: S311 - a seeded choice
    for passage in passages:
        found = find_candidates(passage.text)
        for answer in rng.sample(found, min(PER_PASSAGE, len(found))):
            kind = Kind.UNANSWERABLE if rng.random() < UNANSWERABLE else Kind.ONE_FACT
            draft = write_draft(Assignment(kind, passage, answer), asker, swaps)
            if _usable(draft):
                yield draft


def _usable(draft: Draft) -> bool:
    answer = draft.assignment.answer.text
    return (
        checks.is_question(draft.question)
        and checks.is_self_contained(draft.question)
        and not any(checks.leaks(question, answer) for question in (draft.question, *draft.base))
    )


def _write(out: Path, drafts: Sequence[Draft], source: str) -> None:
    passages = {draft.assignment.passage.key: draft.assignment.passage for draft in drafts}
    with new_folder(out) as folder:
        write_meta(folder, out.name, "synthetic lessons", UNKNOWN_LICENSE, source)
        with (folder / "corpus.jsonl").open("wb") as corpus:
            rows = ({"id": key, "title": passage.title, "text": passage.text} for key, passage in passages.items())
            corpus.writelines(map(dump_line, rows))
        with (folder / "questions.jsonl").open("wb") as questions:
            questions.writelines(dump_line(_row(number, draft)) for number, draft in enumerate(drafts, 1))


def _row(number: int, draft: Draft) -> dict[str, object]:
    assignment, answerable = draft.assignment, not draft.swapped
    return {
        "id": str(number),
        "question": draft.question,
        "answers": [assignment.answer.text] if answerable else [],
        "relevant": [assignment.passage.key] if answerable else [],
        "answerable": answerable,
    }


if __name__ == "__main__":
    main()
