"""Recall, time and memory of the search for the nearest vectors, from 10,000 to 1,000,000 of them.

    python -m benchmarks.scale --data ../shared/data/scifact             10,000 to 1,000,000, into benchmarks/results
    python -m benchmarks.scale --sizes 10000 30000 --keep /some/folder   what was embedded is kept there
    python -m benchmarks.scale --index /some/index                       passages of an index instead, all of them

The recipe of the vectors: the first `--texts` passages of a QA set's corpus.jsonl (title and text, 1,000 characters at
most) go once through the embedder; 500 of them are held out. A vector is x + 0.4 (y - z), made unit length, of three
passages x, y, z drawn at random: noise of the same shape as the passages themselves, a cosine of about 0.9 to x.
Queries are made of the held-out ones in the same way, and the questions of the set are asked as they are. Filters are
rows drawn at random.

Every size is built by one process, as a segment is written; searched exactly by a second, for the truth; and opened,
after the checksums, and searched by a third, whose memory is told: VmRSS counts mapped pages. Seconds are those of this
machine and of what else it does meanwhile; processor milliseconds are beside them.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.machine import describe_machine
from eval.svg import COLOURS, PRINTED, linear, logarithmic, path, picture, text
from indexer.ivf import recall, write_clusters
from rag.build import build_embedder, model_store
from rag.config import load_settings
from rag.index import Index
from rag.ivf import ClusteredVectors
from rag.manifest import CLUSTERS, VECTORS, describe_file, verify_files
from rag.protocols import BoolArray, FloatArray
from rag.rows import Rows
from rag.vectors import FlatVectors, SegmentedVectors

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
SHARES = (1.0, 0.5, 0.1, 0.01)
DEPTHS = (10, 100)
STRENGTH, HELD_OUT, QUERIES, QUESTIONS, CHARACTERS = 0.4, 500, 200, 200, 1000
BLOCK = 50_000


class Base(NamedTuple):
    """Embeddings: passages to perturb, passages to make queries of, questions."""

    passages: FloatArray
    held_out: FloatArray
    questions: FloatArray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/scifact"))
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument(
        "--index", type=Path, help="take the passages' vectors from here; the set's questions are asked"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--keep", type=Path, default=Path(".smallhold/scale"), help="4 GB for all sizes")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scale.json"))
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.keep.mkdir(parents=True, exist_ok=True)
    if given.stage:
        print(json.dumps(STAGES[given.stage](given.keep, given.sizes[0])))
        return
    print(__doc__.split("\n\n")[2])
    embed(given.keep, given.data, given.texts, given.index)
    rows = [measure(given, size) for size in given.sizes]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"machine": describe_machine(), "data": str(given.data), "rows": rows}, indent=1))
    given.out.with_suffix(".svg").write_text(draw(rows))


def embed(keep: Path, data: Path, count: int, directory: Path | None) -> None:
    """Embed the passages and questions of a QA set, once; the passages not where an index of them is given."""
    if (keep / "base.npz").exists():
        return
    settings = load_settings(None, {})
    embedder = build_embedder(settings, model_store(settings))
    questions = [q["question"] for q in records(data / "questions.jsonl", QUESTIONS)]
    if directory is None:
        passages = [f"{p.get('title', '')}\n{p['text']}"[:CHARACTERS] for p in records(data / "corpus.jsonl", count)]
        vectors_nd = embedder.embed(passages)
    else:
        with Index.open(directory, embedder.fingerprint) as index:
            vectors_nd = index.vectors.rows(range(len(index.vectors)))
    order = np.random.default_rng(1).permutation(len(vectors_nd))
    np.savez(
        keep / "base.npz",
        passages=vectors_nd[order[HELD_OUT:]],
        held_out=vectors_nd[order[:HELD_OUT]],
        questions=embedder.embed(questions),
    )


def records(file: Path, count: int) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]


def measure(given: argparse.Namespace, size: int) -> dict[str, Any]:
    """Build and search one size in processes of their own, and print what they say."""
    row: dict[str, Any] = {"vectors": size, "load": os.getloadavg()}
    for stage in STAGES:
        command = [sys.executable, __file__, "--stage", stage, "--sizes", str(size), "--keep", str(given.keep)]
        row |= json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
    print(json.dumps(row), flush=True)
    return row


def build(keep: Path, size: int) -> dict[str, Any]:
    """Write the two files."""
    folder = segment(keep, size)
    folder.mkdir(exist_ok=True)
    for name in (VECTORS, CLUSTERS):
        (folder / name).unlink(missing_ok=True)
    FlatVectors.gather(perturbed_blocks(load_base(keep).passages, size, 2), 384).save(folder / VECTORS)
    start, cpu = time.perf_counter(), time.process_time()
    write_clusters(folder)
    return {
        "build_s": time.perf_counter() - start,
        "build_cpu_s": time.process_time() - cpu,
        "build_peak_mb": memory()["VmHWM"],
        "float_mb": (folder / VECTORS).stat().st_size / 1e6,
        "clusters_mb": (folder / CLUSTERS).stat().st_size / 1e6 if (folder / CLUSTERS).exists() else 0.0,
    }


def truth(keep: Path, size: int) -> dict[str, Any]:
    """Find the lowest score of the exact nearest of each query, by filter and depth, and time the exact search."""
    folder = segment(keep, size)
    exact = FlatVectors.load(folder / VECTORS)
    queries_qd = queries(keep)
    least: dict[Any, Any] = {}
    tops = {share: np.full((len(queries_qd), max(DEPTHS)), -np.inf, np.float32) for share in SHARES}
    masks = {share: mask(size, share) for share in SHARES}
    for number, block_md in enumerate(exact.blocks(None)):
        scores_qm = queries_qd @ block_md.T
        first = number * 65_536
        for share, allowed in masks.items():
            kept = scores_qm if allowed is None else scores_qm[:, allowed[first : first + len(block_md)]]
            both = np.concatenate((tops[share], kept), axis=1)
            tops[share] = -np.partition(-both, max(DEPTHS) - 1, axis=1)[:, : max(DEPTHS)]
    for share in SHARES:
        ordered = -np.sort(-tops[share], axis=1)
        least |= {f"{share}-{k}": ordered[:, k - 1] for k in DEPTHS}
    np.savez(folder / "truth.npz", **least)
    wall, cpu = timed(lambda at: exact.search(queries_qd[at], 10), 40)
    return {"exact_p50_ms": float(np.median(wall)), "exact_p50_cpu_ms": float(np.median(cpu))}


def search(keep: Path, size: int) -> dict[str, Any]:
    """Open the files as an index does, and search."""
    folder = segment(keep, size)
    names = [name for name in (VECTORS, CLUSTERS) if (folder / name).exists()]
    sums = {name: describe_file(folder / name) for name in names}
    before = memory()["VmRSS"]
    start = time.perf_counter()
    verify_files(folder, sums)
    exact = FlatVectors.load(folder / VECTORS)
    part = ClusteredVectors.load(folder / CLUSTERS, exact, folder / VECTORS) if CLUSTERS in names else exact
    vectors = SegmentedVectors([part], Rows.whole(size), 384)
    opened = {"open_s": time.perf_counter() - start, "before_mb": before, "opened_mb": memory()["VmRSS"]}
    queries_qd, least = queries(keep), np.load(folder / "truth.npz", allow_pickle=False)
    found = {}
    for share in SHARES:
        allowed = mask(size, share)
        for k in DEPTHS:
            least_q = least[f"{share}-{k}"]
            shares, wall, cpu = asked(vectors, queries_qd, least_q, k, allowed)
            found[f"{share:g}@{k}"] = {
                "recall": float(np.mean(shares[:QUERIES])),
                "recall_questions": float(np.mean(shares[QUERIES:])),
                "n": [QUERIES, len(shares) - QUERIES],
                "p50_ms": float(np.median(wall)),
                "p95_ms": float(np.quantile(wall, 0.95)),
                "p50_cpu_ms": float(np.median(cpu)),
            }
    settled = memory()
    shape = {"clusters": part.index.nlist, "nprobe": part.index.nprobe} if isinstance(part, ClusteredVectors) else {}
    return opened | shape | {"search": found, "rss_mb": settled["VmRSS"], "hwm_mb": settled["VmHWM"]}


def asked(
    vectors: SegmentedVectors, queries_qd: FloatArray, least_q: FloatArray, k: int, allowed: BoolArray | None
) -> tuple[list[float], list[float], list[float]]:
    """Return recall and milliseconds of each query."""
    found: list[FloatArray] = []
    wall, cpu = timed(lambda at: found.append(vectors.search(queries_qd[at], k, allowed)[0]), len(queries_qd))
    return [recall(scores, least, k) for scores, least in zip(found, least_q, strict=True)], wall, cpu


STAGES: dict[str, Callable[[Path, int], dict[str, Any]]] = {"build": build, "truth": truth, "search": search}


def segment(keep: Path, size: int) -> Path:
    return keep / f"{size:08d}"


def load_base(keep: Path) -> Base:
    with np.load(keep / "base.npz", allow_pickle=False) as found:
        return Base(found["passages"], found["held_out"], found["questions"])


def queries(keep: Path) -> FloatArray:
    """Return queries made of held-out passages, then the questions."""
    base = load_base(keep)
    return np.concatenate([next(perturbed_blocks(base.held_out, QUERIES, 3)), base.questions[:QUESTIONS]])


def perturbed_blocks(base_md: FloatArray, count: int, seed: int) -> Iterator[FloatArray]:
    """Yield unit vectors near those of the base, in blocks."""
    random = np.random.default_rng(seed)
    for start in range(0, count, BLOCK):
        x, y, z = random.integers(0, len(base_md), (3, min(BLOCK, count - start)))
        block_md = base_md[x] + np.float32(STRENGTH) * (base_md[y] - base_md[z])
        yield block_md / np.linalg.norm(block_md, axis=1, keepdims=True)


def mask(size: int, share: float) -> BoolArray | None:
    """Return which rows a filter allows, as `rag.masks` does: the same array for every question, read-only."""
    if share == 1:
        return None
    allowed_n = np.random.default_rng(round(1000 * share)).random(size) < share
    allowed_n.setflags(write=False)
    return allowed_n


def timed(call: Callable[[int], object], count: int) -> tuple[list[float], list[float]]:
    """Return milliseconds on the clock and of the processor for calls numbered from 0."""
    wall, cpu = [], []
    for at in range(count):
        start, started = time.perf_counter(), time.thread_time()
        call(at)
        cpu.append(1000 * (time.thread_time() - started))
        wall.append(1000 * (time.perf_counter() - start))
    return wall, cpu


def memory() -> dict[str, float]:
    """Return megabytes by name, of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM")}


def draw(rows: Sequence[dict[str, Any]]) -> str:
    """Return three panels over the number of vectors: recall, milliseconds and megabytes."""
    sizes = [row["vectors"] for row in rows]
    panels = [
        (
            "recall@10",
            (0.9, 1.0),
            [(f"{share:g} allowed", [row["search"][f"{share:g}@10"]["recall"] for row in rows]) for share in SHARES],
        ),
        (
            "processor ms a search (median)",
            None,
            [(f"{share:g} allowed", [row["search"][f"{share:g}@10"]["p50_cpu_ms"] for row in rows]) for share in SHARES]
            + [("exact", [row["exact_p50_cpu_ms"] for row in rows])],
        ),
        (
            "megabytes",
            None,
            [
                ("resident", [row["rss_mb"] for row in rows]),
                ("codes", [max(row["clusters_mb"], 1) for row in rows]),
                ("float32 on disk", [row["float_mb"] for row in rows]),
            ],
        ),
    ]
    width, height, left, top = 340, 300, 60, 50
    parts: list[Any] = []
    for place, (title, span, lines) in enumerate(panels):
        begin, end = place * width + left, (place + 1) * width - 20
        x = logarithmic(min(sizes) / 1.2, max(sizes) * 1.2, begin, end, most=6)
        values = [value for _, ys in lines for value in ys]
        y = (
            linear(*span, height - 60, top)
            if span
            else logarithmic(min(values) / 1.3, max(values) * 1.3, height - 60, top)
        )
        parts.append(text(begin, 28, title, weight=600))
        parts += [text(begin - 6, y.place(tick) + 4, f"{tick:g}", anchor="end", size=10) for tick in y.ticks]
        parts += [text(x.place(tick), height - 42, f"{tick:g}", anchor="middle", size=10) for tick in x.ticks]
        for number, (name, ys) in enumerate(lines):
            inside = [
                (x.place(n), y.place(max(value, span[0]) if span else value))
                for n, value in zip(sizes, ys, strict=True)
            ]
            parts.append(path(inside, stroke=COLOURS[number]))
            parts.append(
                text(begin + 95 * (number % 3), height - 24 + 14 * (number // 3), name, fill=COLOURS[number], size=10)
            )
    return str(picture(3 * width, height, "Recall, time and memory by number of vectors", *parts, ink=PRINTED)) + "\n"


if __name__ == "__main__":
    main()
