"""Damaged documents put through real runs, and the memory of run after run: two parts of `benchmarks.faults`."""

import gc
import io
import random
import re
import resource
import shutil
import sys
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.stage import SHOWN, LineChunker
from benchmarks.standin import WordEmbedder
from indexer.chunk import Chunker
from indexer.load import SUFFIXES, Loader
from indexer.sync import sync
from rag.index import Index

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "corpus"
FORMATS = ROOT.parent / "shared" / "data" / "formats"
ARTICLES = ROOT.parent / "shared" / "data" / "articles"

_BATCH = 100  # damaged files of one run
_LARGEST = 300_000  # bytes of a file that is damaged: a thousand large ones would measure the disk
# What the worker's limits say where they ended it, and what is said where a parser took it down.
_LIMITS = ("took longer than", "GB of memory", "too large")
_CRASHED = "the parser crashed"


def inputs(folder: Path, count: int, sources: Sequence[Path] = (EXAMPLES, FORMATS)) -> dict[str, Any]:
    """Index so many damaged copies of the files of `sources`, a batch a run; each must be indexed or refused."""
    chance = random.Random(4)
    files = [p for source in sources for p in sorted(source.rglob("*")) if p.suffix.lower() in SUFFIXES]
    files = [p for p in files if p.is_file() and 0 < p.stat().st_size < _LARGEST]
    by_suffix: dict[str, list[Path]] = {}
    for path in files:
        by_suffix.setdefault(path.suffix.lower(), []).append(path)
    counts, reasons, wrong = Counter[str](), Counter[str](), list[str]()
    seen, where = Counter[str](), folder / "inputs"
    with Loader(seconds=30) as loader:
        for start in range(0, count, _BATCH):
            shutil.rmtree(where, ignore_errors=True)
            where.mkdir()
            for number in range(start, min(start + _BATCH, count)):
                # Every format as often as any other, however many files of it there are.
                path = chance.choice(by_suffix[chance.choice(sorted(by_suffix))])
                (where / f"{number:05d}{path.suffix.lower()}").write_bytes(mutated(path.read_bytes(), chance))
                seen[path.suffix.lower()] += 1
            wrong += _index_all(folder / "inputs-index", where, loader, counts, reasons)
    return {
        "counts": {**counts, "formats": dict(seen)},
        "reasons": dict(reasons.most_common(SHOWN)),
        "wrong": wrong[:SHOWN],
        "wrongs": len(wrong),
        "peak_mb_of_the_worker": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1000,
        "checks": {
            "every file was indexed or refused with a reason": not wrong and counts.total() >= count,
            "some were indexed, some refused": (counts["indexed"] > 0 and counts["refused"] > 0) or count < SHOWN,
            "no parser crashed": counts["crashed"] == 0,
        },
    }


def _index_all(index: Path, where: Path, loader: Loader, counts: Counter[str], reasons: Counter[str]) -> list[str]:
    """Run over a folder; return what was not as it must be."""
    try:
        report = sync(index, [where], embedder=WordEmbedder(), chunker=LineChunker(), loader=loader, allow_empty=True)
        with Index.open(index) as opened:
            held = {entry.id for entry in opened.documents()}
            for id_ in held:
                opened.document(id_).text.encode()
    except Exception as error:
        return [f"{sorted(where.iterdir())[0].name} and the files after it: {type(error).__name__}: {error}"]
    told = {*report.added, *report.changed, *report.unchanged, *(new for _, new in report.renamed)}
    wrong = [] if told == held else [f"reported and held differ: {sorted(told ^ held)[:3]}"]
    why = dict(report.failed + report.skipped)
    for file in sorted(where.iterdir()):
        said = [reason for name, reason in why.items() if name.startswith(str(file))]
        if any(id_.startswith(file.name) for id_ in held):  # a damaged archive: what of it can be read
            counts["indexed"] += 1
        elif not said or not all(reason.strip() and "\n" not in reason for reason in said):
            wrong.append(f"{file.name}: neither indexed nor refused in a line: {said}")
        else:
            counts["refused"] += 1
        for reason in said:
            counts["crashed"] += reason == _CRASHED
            counts["stopped by a limit"] += any(limit in reason for limit in _LIMITS)
            reasons[re.sub(r"\d+", "0", reason)[:80]] += 1
    return wrong


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Return bytes changed, cut out and doubled; of a zip archive mostly in a part, so that it passes its checksum."""
    if content.startswith(b"PK") and chance.random() < 0.7:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        hit = chance.choice([name for name, part in parts.items() if part])
        parts[hit] = mutated(parts[hit], chance)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, part in parts.items():
                archive.writestr(name, part)
        return out.getvalue()
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 1, 3, 20))):
        at = chance.randrange(len(damaged))
        kind = chance.randrange(4)
        if kind == 0:
            damaged[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            damaged[at] = chance.randrange(256)
        elif kind == 2:
            del damaged[at : at + chance.randrange(1, 20)]
        else:
            damaged[at:at] = damaged[at : at + chance.randrange(1, 50)]
        if not damaged:
            return b"\0"
    return bytes(damaged)


def memory(folder: Path, articles: Path, rounds: int, share: float) -> dict[str, Any]:
    """Run over a folder of documents again and again, each changed at its end every time; the memory must stay.

    The real reading, cutting, merging and publishing; of the vectors all but those of changed chunks are taken over
    from the generation before. Where `articles` is not there, the example documents take its place. A `share` below 1
    takes that part of the documents, over the same rounds.
    """
    source = articles if articles.is_dir() else EXAMPLES
    files = [p for p in sorted(source.rglob("*")) if p.suffix in {".txt", ".md"} and p.is_file()]
    files = files[: max(5, round(len(files) * share))]
    where = folder / "articles"
    for number, path in enumerate(files):
        (where / f"{number:04d}{path.suffix}").parent.mkdir(exist_ok=True)
        shutil.copyfile(path, where / f"{number:04d}{path.suffix}")
    chunker = Chunker(_words(folder / "tokenizer.json"), 240, 0)
    held, embedded = list[int](), list[int]()
    with Loader() as loader:
        for number in range(rounds):
            for path in where.iterdir():
                with path.open("a", encoding="utf-8") as file:
                    file.write(f"\n\nLooked through in round {number}.\n")
            report = sync(folder / "articles-index", [where], embedder=WordEmbedder(), chunker=chunker, loader=loader)
            gc.collect()
            held.append(_resident())
            embedded.append(report.embedded)
    growth = held[-1] - held[1] if rounds > 1 else 0
    return {
        "counts": {"documents": len(files), "rounds": rounds, "chunks": report.chunks},
        "source": source.name,
        "embedded_by_round": embedded,
        "resident_mb_by_round": [round(size / 1e6) for size in held],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
        "checks": {
            "memory after the last round is that after the second, give or take a tenth": growth < 0.1 * held[1],
            "vectors were taken over": max(embedded[1:], default=0) < embedded[0],
        },
    }


def _resident() -> int:
    """Return the resident bytes of this process, as Linux tells them."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def _words(path: Path) -> Path:
    """Write a tokenizer that counts words, so that no weights are needed to cut documents."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path))
    return path
