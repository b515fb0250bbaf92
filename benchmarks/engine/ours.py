"""Our engine: the one place that says which it is, and how it is opened."""

from pathlib import Path
from typing import NamedTuple

from rag.build import generator_file, model_store
from rag.config import Settings
from rag.engine.generator import LlamaGenerator as Engine
from rag.engine.native import LlamaVocabulary
from rag.machine import available_cores
from rag.probe import look

__all__ = ["Engine", "LlamaVocabulary", "Weights", "available_cores", "find_weights", "open_engine"]

# What the project gives it: the setting generator.prefix_mb.
PREFIX_BYTES = 256_000_000


class Weights(NamedTuple):
    """The GGUF file that all systems run, whether with llama.cpp's repacked weights, and whether ours reads in int8."""

    path: Path
    repacked: bool
    int8: bool = False


def find_weights(settings: Settings) -> Weights:
    """Return the file that the settings name, tried in a child process. Raises `ModelMissing`, `ModelLoadFailed`."""
    store = model_store(settings)
    path = generator_file(settings, store)
    found = look(path, store.directory / "probes.json")
    return Weights(path, found.repacked, int8=settings.generator.int8 and found.int8)


def open_engine(weights: Weights, *, room: int, clients: int, threads: int) -> Engine:
    """Load our engine for `clients` at once, each with `room` tokens of prompt and answer."""
    # Each further sequence gets a quarter of the context: enough of it for all of them to be full.
    context = -(-4 * room * clients // (clients + 3))
    return Engine(
        weights.path,
        context=context,
        threads=threads,
        extra_buffers=weights.repacked,
        int8=weights.int8,
        sequences=clients,
        prefix_bytes=PREFIX_BYTES,
    )
