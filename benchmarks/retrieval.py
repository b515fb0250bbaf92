"""Dense, lexical and fused retrieval on QA sets, without a language model.

    python -m benchmarks.retrieval                                        the example set
    python -m benchmarks.retrieval ../shared/data/scifact ../shared/data/squad2-small
    python -m benchmarks.retrieval --tune ../shared/data/scifact-tune ../shared/data/squad2-tune

The first two print the product's own retrievers. The third compares fusion functions over a grid of weights, to choose
by on sets that nothing is reported on. Documents are ranked by their best chunk. A corpus is embedded once and kept
under --cache; sets with the same corpus share it. An interrupted run goes on where it stopped.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from hashlib import sha256
from pathlib import Path

import ir_measures
import numpy as np

from eval.qaset import QASet, Question, load_qaset
from indexer.checkpoint import Checkpoint
from indexer.chunk import Chunker
from indexer.sync import build
from rag.build import build_embedder, model_store
from rag.config import Settings, load_settings
from rag.datatypes import ScoredChunk
from rag.embedder import SentenceEmbedder
from rag.index import Index
from rag.protocols import FloatArray, IntArray, Retriever
from rag.retrieve import DenseRetriever, FusedRetriever, LexicalRetriever, best_rows, combine

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "qa"
MEASURES = [ir_measures.nDCG @ 10, ir_measures.R @ 1, ir_measures.R @ 5, ir_measures.R @ 10]
DEPTH = 100
RRF_K = 60
WEIGHTS = [0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]

Ranking = dict[str, float]
Fusion = Callable[[FloatArray, FloatArray], FloatArray]


def main() -> None:
    arguments = parse_arguments()
    settings = load_settings()
    for folder in arguments.sets:
        qaset = load_qaset(folder)
        embedder = build_embedder(settings, model_store(settings))
        with open_corpus(qaset, settings, embedder, arguments.cache) as index:
            questions = [question for question in qaset.questions if question.relevant]
            print(f"\n{qaset.name}: {len(questions)} questions, {index.manifest.counts}")
            remembered = RememberedQuestions(embedder, [q.question for q in questions], arguments.cache)
            table = tune if arguments.tune else report
            table(index, remembered, questions, settings)


def report(index: Index, embedder: "RememberedQuestions", questions: Sequence[Question], settings: Settings) -> None:
    """Print the retrievers as they are configured."""
    print_head()
    weight, candidates = settings.retrieval.dense_weight, settings.retrieval.candidates
    retrievers: dict[str, Retriever] = {
        "dense": DenseRetriever(index, embedder),
        "lexical": LexicalRetriever(index),
        f"fused, dense weight {weight}": FusedRetriever(index, embedder, candidates, weight),
    }
    for name, retriever in retrievers.items():
        start = time.perf_counter()
        rankings = {q.id: by_document(retriever.retrieve(q.question, DEPTH)) for q in questions}
        print_row(name, questions, rankings, (time.perf_counter() - start) / len(questions))


def tune(index: Index, embedder: "RememberedQuestions", questions: Sequence[Question], settings: Settings) -> None:
    """Print fusion functions over the candidates that the product would fuse."""
    print_head()
    owners = np.array([chunk.document_id for chunk in index.store.all_chunks()])
    scored = [candidate_scores(index, embedder, q, settings.retrieval.candidates) for q in questions]
    for name, fusion in fusions():
        rankings = {}
        for question, (rows, dense, lexical) in zip(questions, scored, strict=True):
            fused = fusion(dense, lexical)
            rankings[question.id] = best_of(owners[rows].tolist(), fused.tolist())
        print_row(name, questions, rankings)


def fusions() -> Iterator[tuple[str, Fusion]]:
    yield f"reciprocal ranks, k={RRF_K}", reciprocal_ranks
    for weight in WEIGHTS:
        yield f"theoretical min-max, dense {weight}", partial(combine, dense_weight=weight)
    for weight in WEIGHTS:
        yield f"min-max, dense {weight}", partial(min_max_weighed, dense_weight=weight)


def min_max_weighed(dense_m: FloatArray, lexical_m: FloatArray, dense_weight: float) -> FloatArray:
    """Each scaled to 0 to 1 by what was found, the dense scores with the weight."""
    return dense_weight * min_max(dense_m) + (1 - dense_weight) * min_max(lexical_m)


def reciprocal_ranks(dense_m: FloatArray, lexical_m: FloatArray) -> FloatArray:
    """Cormack, Clarke and Buettcher 2009; a chunk without a term of the question has no lexical rank."""
    lexical = np.where(lexical_m > 0, 1 / (RRF_K + ranks(lexical_m)), 0)
    return np.asarray(1 / (RRF_K + ranks(dense_m)) + lexical, np.float32)


def ranks(scores_m: FloatArray) -> IntArray:
    order = np.argsort(-scores_m, kind="stable")
    found = np.empty(len(order), np.int64)
    found[order] = np.arange(1, len(order) + 1)
    return found


def min_max(scores_m: FloatArray) -> FloatArray:
    width = scores_m.max() - scores_m.min()
    return (scores_m - scores_m.min()) / width if width > 0 else np.zeros_like(scores_m)


def candidate_scores(
    index: Index, embedder: "RememberedQuestions", question: Question, count: int
) -> tuple[IntArray, FloatArray, FloatArray]:
    query_d = embedder.embed([question.question])[0]
    lexical = index.lexical.scores(question.question)
    _, nearest = index.vectors.search(query_d, count)
    rows = np.union1d(nearest, best_rows(lexical, count))
    return rows, index.vectors.rows(rows) @ query_d, lexical[rows]


def by_document(found: Sequence[ScoredChunk]) -> Ranking:
    places = [(chunk.document_id, s.score) for s in found for chunk in (s.chunk, *s.also_in)]
    return best_of([document for document, _ in places], [score for _, score in places])


def best_of(documents: Sequence[str], scores: Sequence[float]) -> Ranking:
    ranking: Ranking = {}
    for document, score in zip(documents, scores, strict=True):
        ranking[document] = max(score, ranking.get(document, score))
    return ranking


def print_head() -> None:
    print(f"{'':36}" + "".join(f"{measure!s:>10}" for measure in MEASURES) + "     ms/question")


def print_row(
    name: str, questions: Sequence[Question], rankings: dict[str, Ranking], seconds: float | None = None
) -> None:
    qrels = {q.id: dict.fromkeys(q.relevant, 1) for q in questions}
    means = ir_measures.calc_aggregate(MEASURES, qrels, rankings)
    pace = "" if seconds is None else f"{seconds * 1000:16.1f}"
    print(f"{name:36}" + "".join(f"{means[measure]:10.4f}" for measure in MEASURES) + pace, flush=True)


def open_corpus(qaset: QASet, settings: Settings, embedder: SentenceEmbedder, cache: Path) -> Index:
    """Embed a corpus, or what of it is not embedded yet."""
    model = model_store(settings).locate(settings.embedder.model)
    chunker = Chunker(model.path / "tokenizer.json", settings.chunk.tokens, settings.chunk.overlap)
    folder = cache / f"{qaset.corpus_digest[:16]}-{settings.chunk.tokens}-{settings.chunk.overlap}"
    start = time.perf_counter()
    made = build(folder, qaset.documents(), embedder=embedder, chunker=chunker, progress=show_progress)
    if made.embedded:
        pace = made.embedded / (made.seconds["read"] + made.seconds["embed"])
        print(
            f"{qaset.name}: {made.embedded} chunks embedded at {pace:.1f}/s, {time.perf_counter() - start:.0f} s in all"
        )
    return Index.open(folder, embedder.fingerprint)


def show_progress(stage: str, done: int, total: int) -> None:
    if stage == "embed":
        print(f"\r{stage} {done}/{total}", end="\n" if done == total else "", flush=True)


class RememberedQuestions:
    """An embedder that knows its questions beforehand, so that what is timed is retrieval."""

    def __init__(self, embedder: SentenceEmbedder, questions: Sequence[str], cache: Path) -> None:
        keys = {text: sha256(text.encode()).digest() for text in questions}
        folder = cache / "questions"
        folder.mkdir(parents=True, exist_ok=True)
        with closing(Checkpoint(folder, embedder.fingerprint, embedder.dimension)) as kept:
            self._vectors = kept.vectors()
            missing = [text for text, key in keys.items() if key not in self._vectors]
            if missing:
                kept.add([keys[text] for text in missing], embedder.embed(missing))
                self._vectors = kept.vectors()

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return the remembered vectors `(n, d)`."""
        return np.stack([self._vectors[sha256(text.encode()).digest()] for text in texts])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", type=Path, metavar="QA_SET", default=[EXAMPLE], help="QA-set folders")
    parser.add_argument("--cache", type=Path, default=Path(".smallhold/bench"), help="where embedded corpora are kept")
    parser.add_argument("--tune", action="store_true", help="compare fusion functions instead")
    return parser.parse_args()


if __name__ == "__main__":
    main()
