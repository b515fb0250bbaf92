"""Ways of cutting documents, compared by what retrieval finds with each: fused, as the product does it.

    python -m benchmarks.chunking                                                        the example set
    python -m benchmarks.chunking ../shared/data/scifact-tune --questions 150 --documents 400
    python -m benchmarks.chunking ../shared/data/squad2-tune --articles ../shared/data/articles --questions 150

Every way has the same token budget. The table shows nDCG@10 and recall@5, and how far each way is from the product's,
with a 95% interval by paired bootstrap over clusters of questions that share a document. With --articles the documents
of the QA set are looked for, word for word, in whole text files, and the files that hold them are cut instead; a chunk
counts as each document of which it holds half, or by which it is filled by half. Draws of questions and documents are
seeded; the relevant documents of the drawn questions are always in. Vectors are kept under --cache, so that a rerun,
or one that was interrupted, embeds what is new.
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import ir_measures
import numpy as np
from tokenizers import Tokenizer

from benchmarks.retrieval import best_of
from eval.qaset import Question, load_qaset
from eval.statistics import bootstrap_means, clusters, estimate, paired_difference
from indexer.checkpoint import Checkpoint
from indexer.chunk import Chunker
from rag.build import build_embedder, model_store
from rag.config import load_settings
from rag.datatypes import Document, Span
from rag.embedder import SentenceEmbedder
from rag.lexical import Analyzer, LexicalIndex
from rag.postings import Postings
from rag.protocols import FloatArray
from rag.retrieve import best_rows, combine
from rag.rows import Rows
from rag.sentences import sentence_spans

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "qa"
MEASURES = [ir_measures.nDCG @ 10, ir_measures.R @ 5]
DEFAULT = "structure, then sentences, titles in front"
SEED = 6
_BATCH = 64


class Piece(NamedTuple):
    """A chunk: where it stands, and what is embedded and matched lexically."""

    document_id: str
    span: Span
    text: str


Way = Callable[[Document], list[Piece]]


class Corpus(NamedTuple):
    """Documents to cut, and for each the places of what questions are about: a name and a span."""

    documents: list[Document]
    units: dict[str, list[tuple[str, Span]]]


def main() -> None:
    arguments = parse_arguments()
    settings = load_settings()
    embedder = build_embedder(settings, model_store(settings))
    vectors = KeptVectors(embedder, arguments.cache)
    ways = all_ways(embedder.tokenizer_file, settings.chunk.tokens, settings.chunk.overlap)
    for folder in arguments.sets:
        qaset = load_qaset(folder)
        asked = [question for question in qaset.questions if question.relevant]
        chance = random.Random(SEED)
        if arguments.questions and arguments.questions < len(asked):
            asked = chance.sample(asked, arguments.questions)
        documents = list(qaset.documents())
        if arguments.articles:
            corpus = from_articles(arguments.articles, documents, asked)
        else:
            corpus = drawn(documents, asked, arguments.documents, chance)
        print(f"\n{qaset.name}: {len(asked)} questions, {len(corpus.documents)} documents", flush=True)
        compare(corpus, asked, ways, vectors, settings.retrieval.candidates, settings.retrieval.dense_weight)


def compare(
    corpus: Corpus, asked: Sequence[Question], ways: dict[str, Way], vectors: "KeptVectors", count: int, weight: float
) -> None:
    """Print a row for each way of cutting, with its difference from the first."""
    questions_qd = vectors.of([question.question for question in asked])
    groups_q = clusters([question.relevant for question in asked])
    print(f"{'':44}{'chunks':>8}" + "".join(f"{m!s:>9}{'against the first':>31}" for m in MEASURES), flush=True)
    first: np.ndarray | None = None
    for name, way in ways.items():
        start = time.perf_counter()
        pieces = [piece for document in corpus.documents for piece in way(document)]
        scores_qm = scored(pieces, corpus, asked, questions_qd, vectors, count, weight)
        first = scores_qm if first is None else first
        print(f"{name:44}{len(pieces):8}" + "".join(cells(first, scores_qm, groups_q)), end="")
        print(f"   {time.perf_counter() - start:.0f} s", flush=True)


def cells(first_qm: np.ndarray, scores_qm: np.ndarray, groups_q: np.ndarray) -> list[str]:
    """Return the mean of each measure and the difference of the means, with its interval."""
    means = estimate(scores_qm, bootstrap_means(scores_qm, groups_q))
    draws = bootstrap_means(first_qm, groups_q), bootstrap_means(scores_qm, groups_q)
    differences = paired_difference(first_qm, scores_qm, *draws)
    return [
        f"{mean.value:9.4f}{f'{other.value:+.4f} ({other.low:+.4f} to {other.high:+.4f})':>31}"
        for mean, other in zip(means, differences, strict=True)
    ]


def scored(
    pieces: Sequence[Piece],
    corpus: Corpus,
    asked: Sequence[Question],
    questions_qd: FloatArray,
    vectors: "KeptVectors",
    count: int,
    weight: float,
) -> np.ndarray:
    """Return `(q, m)`: each measure of each question."""
    vectors_nd = vectors.of([piece.text for piece in pieces])
    analyzer = Analyzer()
    lexical = LexicalIndex([Postings.build(analyzer.terms(p.text) for p in pieces)], Rows.whole(len(pieces)))
    units = [units_of(piece, corpus) for piece in pieces]
    rankings: dict[str, dict[str, float]] = {}
    for question, question_d in zip(asked, questions_qd, strict=True):
        cosines, words = vectors_nd @ question_d, lexical.scores(question.question)
        rows = np.union1d(np.argsort(-cosines, kind="stable")[:count], best_rows(words, count))
        fused = combine(cosines[rows], words[rows], weight)
        found = [(unit, s) for row, s in zip(rows.tolist(), fused.tolist(), strict=True) for unit in units[row]]
        rankings[question.id] = best_of([unit for unit, _ in found], [s for _, s in found])
    qrels = {question.id: dict.fromkeys(question.relevant, 1) for question in asked}
    values = {(m.query_id, m.measure): m.value for m in ir_measures.iter_calc(MEASURES, qrels, rankings)}
    return np.array([[values[question.id, measure] for measure in MEASURES] for question in asked])


def units_of(piece: Piece, corpus: Corpus) -> list[str]:
    """Return what a chunk counts as: the units that it overlaps by half of either, or else itself."""
    size = piece.span.end - piece.span.start
    found = []
    for unit, span in corpus.units[piece.document_id]:
        shared = min(span.end, piece.span.end) - max(span.start, piece.span.start)
        if shared > 0 and 2 * shared >= min(size, span.end - span.start):
            found.append(unit)
    return found or [f"{piece.document_id}#{piece.span.start}"]


def drawn(documents: Sequence[Document], asked: Sequence[Question], count: int | None, chance: random.Random) -> Corpus:
    """Return the relevant documents and as many others as make `count`; all, where there is none."""
    relevant = {document_id for question in asked for document_id in question.relevant}
    others = [document for document in documents if document.id not in relevant]
    if count is not None:
        others = chance.sample(others, min(len(others), max(0, count - len(relevant))))
    kept = relevant.union(document.id for document in others)
    chosen = [document for document in documents if document.id in kept]
    return Corpus(chosen, {d.id: [(d.id, Span(0, len(d.text)))] for d in chosen})


def from_articles(folder: Path, documents: Sequence[Document], asked: Sequence[Question]) -> Corpus:
    """Return the text files that hold a relevant document of a question, and the places of all documents in them."""
    relevant = {document_id for question in asked for document_id in question.relevant}
    chosen, units, found = [], {}, set()
    for path in sorted(folder.glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        places = [(d.id, Span(at, at + len(d.text))) for d in documents if (at := text.find(d.text)) >= 0]
        held = {unit for unit, _ in places}
        if held & relevant:
            chosen.append(Document(path.name, path.name, path.stem.replace("_", " "), text))
            units[path.name] = places
            found |= held
    if missing := relevant - found:
        print(f"{len(missing)} relevant documents stand in no article")
    return Corpus(chosen, units)


def all_ways(tokenizer_file: Path, tokens: int, overlap: int) -> dict[str, Way]:
    """Return the ways of cutting, the product's first."""
    tokenizer = Tokenizer.from_buffer(tokenizer_file.read_bytes())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    chunker, small = Chunker(tokenizer_file, tokens, overlap), Chunker(tokenizer_file, tokens // 3, 0)
    return {
        DEFAULT: lambda document: titled(document, chunker),
        "sentences to the budget": lambda document: packed(document, tokenizer, tokens),
        "windows of tokens, a fifth shared": lambda document: windows(document, tokenizer, tokens, tokens // 5),
        "structure, titles left out": lambda document: [
            p._replace(text=_text(document, p)) for p in titled(document, chunker)
        ],
        "structure, a third as long": lambda document: titled(document, small),
    }


def titled(document: Document, chunker: Chunker) -> list[Piece]:
    """Cut as the product does."""
    return [Piece(document.id, chunk.span, chunk.context_text) for chunk in chunker.chunk(document)]


def packed(document: Document, tokenizer: Tokenizer, tokens: int) -> list[Piece]:
    """Fill each chunk with as many sentences as fit, whatever the structure; a longer one is a chunk of its own."""
    sentences = sentence_spans(document.text)
    texts = [document.text[span.start : span.end] for span in sentences]
    counts = [len(found) for found in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    spans: list[Span] = []
    room = 0
    for span, count in zip(sentences, counts, strict=True):
        if spans and count <= room:
            spans[-1] = Span(spans[-1].start, span.end)
        else:
            spans.append(span)
            room = tokens
        room -= count
    return [under_title(document, span) for span in spans]


def windows(document: Document, tokenizer: Tokenizer, tokens: int, shared: int) -> list[Piece]:
    """Cut after every so many tokens, each window beginning with the last ones of the window before."""
    offsets = tokenizer.encode(document.text, add_special_tokens=False).offsets
    starts = range(0, max(1, len(offsets) - shared), tokens - shared)
    cuts = [offsets[start : start + tokens] for start in starts]
    return [under_title(document, Span(cut[0][0], cut[-1][1])) for cut in cuts if cut]


def under_title(document: Document, span: Span) -> Piece:
    """Return a chunk with the document's title in front."""
    return Piece(document.id, span, f"{document.title or document.id}\n{document.text[span.start : span.end]}")


def _text(document: Document, piece: Piece) -> str:
    return document.text[piece.span.start : piece.span.end]


class KeptVectors:
    """Vectors of texts, embedded once and kept on disk by content and model."""

    def __init__(self, embedder: SentenceEmbedder, cache: Path) -> None:
        self._embedder = embedder
        self._folder = cache / "chunking"
        self._folder.mkdir(parents=True, exist_ok=True)

    def of(self, texts: Sequence[str]) -> FloatArray:
        """Return vectors `(n, d)`; what is new is embedded in batches of like length."""
        keys = [sha256(text.encode()).digest() for text in texts]
        with closing(Checkpoint(self._folder, self._embedder.fingerprint, self._embedder.dimension)) as kept:
            known = kept.vectors()
            missing = sorted(
                {key: text for key, text in zip(keys, texts, strict=True) if key not in known}.items(),
                key=lambda item: -len(item[1]),
            )
            for start in range(0, len(missing), _BATCH):
                batch = missing[start : start + _BATCH]
                vectors_nd = self._embedder.embed([text for _, text in batch])
                kept.add([key for key, _ in batch], vectors_nd)
                known.update(zip([key for key, _ in batch], vectors_nd, strict=True))
        return np.stack([known[key] for key in keys])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", type=Path, metavar="QA_SET", default=[EXAMPLE], help="QA-set folders")
    parser.add_argument("--questions", type=int, help="draw so many questions of each set")
    parser.add_argument("--documents", type=int, help="draw so many documents, the relevant ones always")
    parser.add_argument("--articles", type=Path, help="a folder of whole texts that hold the documents")
    parser.add_argument("--cache", type=Path, default=Path(".smallhold/bench"), help="where vectors are kept")
    return parser.parse_args()


if __name__ == "__main__":
    main()
