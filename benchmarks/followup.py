"""What to search for when a question belongs to a conversation: retrieval alone, without a language model.

    python -m benchmarks.followup                    ../shared/data/conversations
    python -m benchmarks.followup QA_SET --changes QA_SET QA_SET

The questions with relevant documents, in two halves in the set's order: the rules were tuned on the first, the second
is what counts. Ways: the last turn alone; the user's question before it and the turn; the whole history and the turn;
and `rag.followup`, which is also compared on the turns that it rewrote and on those that it left alone. Differences
from it are paired, with 95% bootstrap intervals. The corpus is embedded once and kept under --cache.

With --changes, questions of other sets, which were written to stand alone, are each asked after another of the same
set: how many are left as they are, though something else was talked of.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import ir_measures
import numpy as np

from benchmarks.retrieval import RememberedQuestions, by_document, open_corpus
from eval.qaset import QASet, Question, load_qaset
from eval.statistics import Estimate, Floats, paired_difference
from rag.build import build_embedder, model_store
from rag.config import load_settings
from rag.datatypes import Message
from rag.followup import follow_up
from rag.retrieve import FusedRetriever

CONVERSATIONS = Path("../shared/data/conversations")
MEASURES = [ir_measures.R @ 5, ir_measures.nDCG @ 10, ir_measures.RR]
DEPTH = 100

Way = Callable[[str, Sequence[Message]], str]


def alone(question: str, history: Sequence[Message]) -> str:  # noqa: ARG001 - one signature for all
    return question


def after_the_last(question: str, history: Sequence[Message]) -> str:
    """What smallhold searched for once: the user's question before it, then the turn."""
    said = [m.content for m in history if m.role == "user"]
    return " ".join([*said[-1:], question])


def whole_history(question: str, history: Sequence[Message]) -> str:
    return " ".join([*(m.content for m in history), question])


def rewritten(question: str, history: Sequence[Message]) -> str:
    return follow_up(question, history).question


OURS = "rag.followup"
WAYS: dict[str, Way] = {
    "last turn alone": alone,
    "question before + turn": after_the_last,
    "whole history + turn": whole_history,
    OURS: rewritten,
}


def main() -> None:
    arguments = parse_arguments()
    settings = load_settings()
    for folder in arguments.changes:
        changes(load_qaset(folder))
    qaset = load_qaset(arguments.set)
    embedder = build_embedder(settings, model_store(settings))
    half = len(qaset.questions) // 2
    halves = {"first half (tuned on)": qaset.questions[:half], "second half": qaset.questions[half:]}
    with open_corpus(qaset, settings, embedder, arguments.cache) as index:
        asked = [way(q.question, q.history) for q in qaset.questions if q.relevant for way in WAYS.values()]
        remembered = RememberedQuestions(embedder, asked, arguments.cache)
        retriever = FusedRetriever(index, remembered, settings.retrieval.candidates, settings.retrieval.dense_weight)
        for title, questions in halves.items():
            searched = [q for q in questions if q.relevant]
            leaning = [q for q in searched if follow_up(q.question, q.history).why]
            standing = [q for q in searched if q.history and q not in leaning]
            compare(title, searched, partial(scores, retriever))
            compare(f"{title}: rewritten", leaning, partial(scores, retriever))
            compare(f"{title}: a later turn, left alone", standing, partial(scores, retriever))


def changes(qaset: QASet) -> None:
    """Print how many changes of topic are noticed, a question after one from the other half of its set."""
    questions = [q for q in qaset.questions if not q.history]
    others = [*questions[len(questions) // 2 :], *questions[: len(questions) // 2]]
    alone = sum(not follow_up(q.question, talk(other)).why for q, other in zip(questions, others, strict=True))
    print(f"{qaset.name}: {alone} of {len(questions)} questions after another topic left as they are")


def talk(question: Question) -> list[Message]:
    return [Message("user", question.question), Message("assistant", next(iter(question.answers), "I do not know."))]


def compare(title: str, questions: Sequence[Question], score: Callable[[Way, Sequence[Question]], Floats]) -> None:
    """Print the mean of every measure for each way, and how far it is from ours."""
    found = {name: score(way, questions) for name, way in WAYS.items()}
    print(f"\n{title}, {len(questions)} questions\n{'':26}" + "".join(f"{m!s:>10}" for m in MEASURES), end="")
    print(f"{'nDCG@10, ours less this':>42}")
    for name, scores_nm in found.items():
        difference = paired_difference(scores_nm[:, 1:2], found[OURS][:, 1:2])[0]
        print(f"{name:26}" + "".join(f"{mean:10.3f}" for mean in scores_nm.mean(axis=0)), end="")
        print("" if name == OURS else f"{told(difference):>42}", flush=True)


def told(difference: Estimate) -> str:
    return f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"


def scores(retriever: FusedRetriever, way: Way, questions: Sequence[Question]) -> Floats:
    """Return `(n, m)`: each question's value of every measure."""
    rankings = {q.id: by_document(retriever.retrieve(way(q.question, q.history), DEPTH)) for q in questions}
    qrels = {q.id: dict.fromkeys(q.relevant, 1) for q in questions}
    rows, columns = {q.id: i for i, q in enumerate(questions)}, {m: i for i, m in enumerate(MEASURES)}
    scores_nm = np.zeros((len(questions), len(MEASURES)))
    for found in ir_measures.iter_calc(MEASURES, qrels, rankings):
        scores_nm[rows[found.query_id], columns[found.measure]] = found.value
    return scores_nm


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "set", nargs="?", type=Path, default=CONVERSATIONS, help="a QA-set folder whose questions have a history"
    )
    parser.add_argument("--changes", nargs="*", type=Path, default=[], help="QA-set folders of single questions")
    parser.add_argument("--cache", type=Path, default=Path(".smallhold/bench"), help="where embedded corpora are kept")
    return parser.parse_args()


if __name__ == "__main__":
    main()
