"""How fast chunks are embedded, side by side with sentence-transformers as others call it.

    python -m benchmarks.embedding                                    the example set
    python -m benchmarks.embedding --data DATA/squad2-tune DATA/scifact-tune
    python -m benchmarks.embedding --limit 200 --runs 9 --out FILE    fewer chunks, more runs

Chunks are cut as an index cuts them and come in random order. In one process, in turns:

    llamaindex  `encode` of 10 chunks after the other, the default of LlamaIndex's embeddings
    haystack    `encode` of all chunks with batches of 32, the default of Haystack's document embedder
    smallhold   `SentenceEmbedder.embed` of all chunks, as `smallhold index` calls it

Where other things run on the machine, compare the processor's seconds: those of the clock tell what else it does. With
the vectors, recall@10: how many of the 10 chunks nearest to a question by plain float32 vectors are so by ours, for the
questions and the chunks, both embedded by us.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.machine import describe_machine
from eval.qaset import load_qaset
from indexer.chunk import Chunker
from rag.build import build_embedder, model_store
from rag.checksums import write_json
from rag.config import Settings, load_settings
from rag.embedder import SentenceEmbedder
from rag.protocols import FloatArray

EXAMPLE = Path(__file__).parent.parent / "examples" / "qa"
OUT = Path(__file__).parent / "results" / "embedding.json"
PEERS = ("llamaindex", "haystack")
NEAREST = 10

Way = Callable[[Sequence[str]], FloatArray]


class Sample(NamedTuple):
    """Chunks of a set in random order, and questions of it."""

    chunks: list[str]
    questions: list[str]


class Taken(NamedTuple):
    """What one pass over the chunks took, in seconds."""

    clock: float
    processor: float


def main() -> None:
    """Print a table for each set and write the figures."""
    given = parse_arguments()
    settings = load_settings(None, {"embedder": {"threads": given.threads}})
    embedder = build_embedder(settings, model_store(settings))
    ways = {**peers(settings), "smallhold": embedder.embed}
    results: dict[str, Any] = {"machine": describe_machine(), "model": embedder.name, "sets": {}}
    for folder in given.data:
        sample = take_sample(folder, settings, embedder, given.limit, given.questions)
        passes = take_turns(ways, sample.chunks, given.runs)
        found = {**figures(passes, len(sample.chunks)), **quality(ways["haystack"], embedder, sample)}
        results["sets"][folder.name] = {"chunks": len(sample.chunks), "questions": len(sample.questions), **found}
        show(folder.name, len(sample.chunks), found)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.out, results)
    machine = results["machine"]
    print(f"{machine['cpu']}, {machine['cores']} cores; written to {given.out}")


def take_sample(folder: Path, settings: Settings, embedder: SentenceEmbedder, limit: int, questions: int) -> Sample:
    """Cut documents in random order until there are enough chunks."""
    qaset, order = load_qaset(folder), random.Random(0)
    chunker = Chunker(embedder.tokenizer_file, settings.chunk.tokens, settings.chunk.overlap)
    documents = list(qaset.documents())
    order.shuffle(documents)
    chunks = list(islice((chunk.context_text for d in documents for chunk in chunker.chunk(d)), limit))
    order.shuffle(chunks)
    asked = [question.question for question in qaset.questions]
    if not chunks or not asked:
        raise SystemExit(f"{folder} has no documents or no questions")
    return Sample(chunks, order.sample(asked, min(questions, len(asked))))


def peers(settings: Settings) -> dict[str, Way]:
    """Return how others call sentence-transformers: the same weights, loaded plainly, in float32 on the CPU."""
    import torch
    from sentence_transformers import SentenceTransformer

    if settings.embedder.threads:
        torch.set_num_threads(settings.embedder.threads)
    folder = model_store(settings).locate(settings.embedder.model).path
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    def encode(texts: Sequence[str], batch: int) -> FloatArray:
        return np.asarray(
            model.encode(list(texts), batch_size=batch, normalize_embeddings=True, show_progress_bar=False), np.float32
        )

    def llamaindex(texts: Sequence[str]) -> FloatArray:
        return np.concatenate([encode(texts[start : start + 10], 10) for start in range(0, len(texts), 10)])

    return {"llamaindex": llamaindex, "haystack": lambda texts: encode(texts, 32)}


def take_turns(ways: dict[str, Way], chunks: Sequence[str], runs: int) -> dict[str, list[Taken]]:
    """Let every way embed the chunks `runs` times, beginning with another one each time, once all are warm."""
    for way in ways.values():
        way(chunks[:32])
    names = list(ways)
    passes: dict[str, list[Taken]] = {name: [] for name in names}
    for run in range(runs):
        for name in [*names[run % len(names) :], *names[: run % len(names)]]:
            clock, processor = time.perf_counter(), time.process_time()
            ways[name](chunks)
            passes[name].append(Taken(time.perf_counter() - clock, time.process_time() - processor))
    return passes


def figures(passes: dict[str, list[Taken]], chunks: int) -> dict[str, Any]:
    """Return medians and spread in milliseconds a chunk, and how many times as fast as each peer we are."""
    ways: dict[str, Any] = {}
    for name, taken in passes.items():
        ways[name] = {
            kind: spread([1000 * getattr(one, kind) / chunks for one in taken]) for kind in ("clock", "processor")
        }
    ratios = {
        f"{kind}_over_{peer}": round(ways[peer][kind]["median"] / ways["smallhold"][kind]["median"], 3)
        for peer in PEERS
        for kind in ("clock", "processor")
    }
    return {"ms_per_chunk": ways, "ratios": ratios}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median with the least and the most."""
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


def quality(plain: Way, embedder: SentenceEmbedder, sample: Sample) -> dict[str, float]:
    """Return recall of the nearest chunks against plain float32 vectors, and the largest difference of a number."""
    chunks, questions = plain(sample.chunks), plain(sample.questions)
    ours, asked = embedder.embed(sample.chunks), embedder.embed(sample.questions)
    return {
        "recall_at_10": round(recall(questions @ chunks.T, asked @ ours.T), 5),
        "largest_difference": float(np.abs(chunks - ours).max()),
    }


def recall(exact_qn: FloatArray, scores_qn: FloatArray) -> float:
    """Return the mean share of the exact scores' 10 best columns that are among the other scores' 10 best."""
    k = min(NEAREST, exact_qn.shape[1])
    best, found = (np.argsort(-scores, axis=1, kind="stable")[:, :k] for scores in (exact_qn, scores_qn))
    return statistics.fmean(len({*a} & {*b}) / k for a, b in zip(best.tolist(), found.tolist(), strict=True))


def show(name: str, chunks: int, found: dict[str, Any]) -> None:
    """Print one set's table."""
    print(f"\n{name}: {chunks} chunks; ms a chunk, median (least to most)")
    for way, taken in found["ms_per_chunk"].items():
        cells = (f"{kind} {v['median']:7.2f} ({v['least']:.2f} to {v['most']:.2f})" for kind, v in taken.items())
        print(f"  {way:<12}" + "   ".join(cells))
    for peer in PEERS:
        clock, processor = (found["ratios"][f"{kind}_over_{peer}"] for kind in ("clock", "processor"))
        print(f"  times as fast as {peer:<12}{clock:6.2f} by the clock, {processor:.2f} by the processor")
    print(f"  recall@10 {found['recall_at_10']:.4f}, largest difference {found['largest_difference']:.1e}", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, metavar="QA_SET", default=[EXAMPLE], help="QA-set folders")
    parser.add_argument("--limit", type=_positive, default=600, help="chunks of a set (%(default)s)")
    parser.add_argument("--questions", type=_positive, default=300, help="questions for recall (%(default)s)")
    parser.add_argument("--runs", type=_positive, default=5, help="passes of each over the chunks (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of all; 0: all cores (%(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="where the figures go (%(default)s)")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


if __name__ == "__main__":
    main()
