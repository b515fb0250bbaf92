"""Self-diagnosis: machine, libraries, weights and index, each finding with what mends it."""

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple

from rag.build import build_embedder, cascade_rule, generator_file, large_settings, model_store, open_index
from rag.config import Settings
from rag.errors import SmallholdError, Unavailable
from rag.machine import available_cores, free_bytes, memory_limit
from rag.models import ModelStore
from rag.probe import look
from rag.tesseract import Tesseract

INT8_SHARE = 1.2  # of a model's file in 4 bits, beside it, where prompts may be read in int8
NEEDED_GIGABYTES = 2.5  # what the default models take in memory, with room for an index


class Finding(NamedTuple):
    """One check: what was looked at, how it is, and what to do where it is not well."""

    check: str
    state: Literal["ok", "warning", "failed"]
    detail: str
    fix: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield findings as they are made; the slow ones (the probe of the language model) come last."""
    store = model_store(settings)
    yield _python()
    yield _memory()
    yield _disk(store.directory)
    for package in ("torch", "faiss-cpu", "sentence-transformers", "llama-cpp-python"):
        yield _package(package)
    yield _tried("embedder", lambda: _embedder(settings, store))
    yield _tried("index", lambda: _index(settings, store))
    yield examine_ocr(settings.index.ocr)
    if settings.generator.endpoint:
        yield Finding("generator", "ok", f"{settings.generator.model} at {settings.generator.endpoint} (not asked)")
    else:
        yield _tried("generator", lambda: _generator(settings, store))
    if settings.cascade.generator:
        yield _tried("cascade", lambda: _cascade(settings, store))


def _tried(check: str, examination: Callable[[], Finding]) -> Finding:
    try:
        return examination()
    except SmallholdError as error:
        return Finding(check, "failed", error.message, error.hint)


def _python() -> Finding:
    found = f"Python {sys.version.split()[0]}, {available_cores()} cores"
    return Finding("machine", "ok", found)


def _memory() -> Finding:
    available = _available_gigabytes()
    if available is None:
        return Finding("memory", "warning", "cannot be read on this system")
    detail = f"{available:.1f} GB available"
    if available >= NEEDED_GIGABYTES:
        return Finding("memory", "ok", detail)
    return Finding("memory", "warning", detail, "Close other programs, or choose a smaller generator.model.")


def _available_gigabytes() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    available = next((int(line.split()[1]) / 1e6 for line in lines if line.startswith("MemAvailable")), None)
    limit = memory_limit()  # a container's: the machine's memory is not all its own
    return available if available is None or limit is None else min(available, limit / 1e9)


def _disk(directory: Path) -> Finding:
    free = free_bytes(directory) / 1e9
    if free >= 1:
        return Finding("disk", "ok", f"{free:.0f} GB free for weights in {directory}")
    fix = "Free some space, or set models.dir elsewhere."
    return Finding("disk", "warning", f"{free:.1f} GB free for weights in {directory}", fix)


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "failed", "not installed", "Run `make install`.")


def _embedder(settings: Settings, store: ModelStore) -> Finding:
    embedder = build_embedder(settings, store)
    return Finding("embedder", "ok", f"{embedder.name}, weights verified, {embedder.dimension} dimensions")


def _index(settings: Settings, store: ModelStore) -> Finding:
    with open_index(settings, build_embedder(settings, store)) as index:
        counts = index.manifest.counts
        found = f"{counts.documents} documents, {counts.chunks} chunks in {settings.index.dir}"
        return Finding("index", "ok", found)


def examine_ocr(languages: str) -> Finding:
    """Whether scanned pages in these languages could be read; without them OCR is off, and nothing is wrong."""
    try:
        found = Tesseract.find(languages)
    except Unavailable as error:
        if languages:
            return Finding("ocr", "failed", error.message, error.hint)
        return Finding("ocr", "ok", "off (index.ocr), and Tesseract is not installed")
    return Finding("ocr", "ok", str(found) if languages else f"off (index.ocr); {found.version} is installed")


def _cascade(settings: Settings, store: ModelStore) -> Finding:
    """The large model is loaded beside the small one when it is first needed: say what that takes before then."""
    cascade_rule(settings)
    own = large_settings(settings)
    if own.generator.endpoint:
        return Finding("cascade", "ok", f"{own.generator.model} at {own.generator.endpoint} (not asked)")
    needed, available = generator_file(own, store).stat().st_size / 1e9, _available_gigabytes()
    needed *= 1 + INT8_SHARE * own.generator.int8
    detail = f"{own.generator.model} takes {needed:.1f} GB more, and its cache, once it is first needed"
    if available is None or available >= NEEDED_GIGABYTES + needed:
        return Finding("cascade", "ok", detail)
    fix = "Close other programs, or name a model behind an endpoint (cascade.endpoint)."
    return Finding("cascade", "warning", f"{detail}; {available:.1f} GB are available", fix)


def _generator(settings: Settings, store: ModelStore) -> Finding:
    file = generator_file(settings, store)
    found = look(file, store.directory / "probes.json")
    if not found.crashes:
        read = "in int8" if found.int8 and settings.generator.int8 else "by llama.cpp"
        return Finding("generator", "ok", f"{settings.generator.model} loads and runs; prompts are read {read}")
    return Finding(
        "generator",
        "warning",
        f"{settings.generator.model} runs only without llama.cpp's repacked weights, slower",
        "Run `make install`: it compiles llama.cpp for this machine without AMX.",
    )
