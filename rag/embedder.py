"""Texts to unit-length vectors with a sentence-transformers model on the CPU."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rag.errors import ModelDamaged, ModelLoadFailed
from rag.machine import available_cores
from rag.protocols import FloatArray

_HINT = "Check the weights: smallhold models verify"

# Tokens of one forward pass, padding included: 8 texts of 256. More runs no faster and outgrows the processor's cache.
_BATCH_TOKENS = 2048

# Weights are local and verified; nothing may be looked up, reported or drawn behind the caller's back.
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "passive",  # idle threads sleep; why, tells rag.engine.native
}


class SentenceEmbedder:
    """An `Embedder` over a folder of sentence-transformers weights, in float32.

    torch and the weights are loaded by the first `embed` of a text, so that a run with nothing to embed costs nothing.
    `fingerprint` identifies the weights: vectors of different fingerprints are not comparable. Texts longer than
    `max_tokens` (special tokens included) are cut by the model. Usable from several threads, one batch at a time.
    """

    def __init__(self, model_dir: Path, name: str, fingerprint: str, batch: int = 32, threads: int = 0) -> None:
        """At most `batch` texts go into one forward pass on `threads` CPU threads (0: all cores).

        Raises `ModelDamaged` where the folder's JSON files do not describe a model.
        """
        self.name = name
        self.fingerprint = fingerprint
        self.dimension = _dimension(model_dir)
        self.max_tokens = _max_tokens(model_dir)
        self._model_dir = model_dir
        self._batch = batch
        self._threads = threads
        self._lock = threading.Lock()
        self._model: Any = None
        self._tokenizer: Any = None

    @property
    def tokenizer_file(self) -> Path:
        """The model's `tokenizer.json`, for counting in its tokens without loading the model."""
        return self._model_dir / "tokenizer.json"

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`, special tokens not included. Loads the tokenizer alone, not torch."""
        with self._lock:
            return len(self._loaded_tokenizer().encode(_encodable(text), add_special_tokens=False).ids)

    def embed(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> FloatArray:
        """Return float32 `(n, d)` of unit length in the order of `texts`.

        `progress` is told the number of texts just done. Raises `ModelLoadFailed`.
        """
        vectors_nd = np.empty((len(texts), self.dimension), np.float32)
        if not texts:
            return vectors_nd
        encodable = [_encodable(text) for text in texts]
        for rows in _batches(self._lengths(encodable), self._batch, _BATCH_TOKENS):
            vectors_nd[rows] = self._forward([encodable[row] for row in rows])
            if progress is not None:
                progress(len(rows))
        return vectors_nd

    def _lengths(self, texts: list[str]) -> list[int]:
        """The tokens of each text that the model reads."""
        with self._lock:
            found = self._loaded_tokenizer().encode_batch_fast(texts)
        return [min(len(encoding.ids), self.max_tokens) for encoding in found]

    def _loaded_tokenizer(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = _load_tokenizer(self.tokenizer_file)
        return self._tokenizer

    def _forward(self, texts: list[str]) -> FloatArray:
        # The tokenizer's truncation state is shared: two threads in it at once raise "Already borrowed".
        with self._lock:
            if self._model is None:
                self._model = self._load()
            vectors: FloatArray = self._model.encode(
                texts, batch_size=len(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
            )
        return vectors

    def _load(self) -> Any:
        for variable, value in _QUIET.items():
            os.environ.setdefault(variable, value)
        try:
            import torch
            from sentence_transformers import SentenceTransformer

            # torch takes a thread a core, whatever time a container may have of them.
            torch.set_num_threads(self._threads or min(torch.get_num_threads(), available_cores()))
            model = SentenceTransformer(str(self._model_dir), device="cpu", local_files_only=True).float()
        except Exception as error:  # The libraries raise whatever their own dependencies do.
            raise ModelLoadFailed(f"the embedder {self.name} cannot be loaded: {error}", hint=_HINT) from error
        found = model.get_embedding_dimension()
        if found != self.dimension:
            raise ModelLoadFailed(f"the embedder {self.name} makes {found} numbers, not {self.dimension}", hint=_HINT)
        return model


def _batches(lengths: Sequence[int], most: int, tokens: int) -> Iterator[list[int]]:
    """Yield the indices of texts in batches of at most `most` texts and, padding included, `tokens` tokens.

    A batch is padded to its longest text, and padding is work too, so texts of like length share one. Characters do
    not tell that length: between an encyclopedia and abstracts of medicine they differ by a third for the same number
    of tokens. The longest come first, so that what is too large for the memory fails at once.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    while order:
        fit = max(1, min(most, tokens // max(1, lengths[order[0]])))
        yield order[:fit]
        del order[:fit]


def _load_tokenizer(file: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises plain Exception
        raise ModelDamaged(f"{file} cannot be read: {error}", hint=_HINT) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _encodable(text: str) -> str:
    """Replace what cannot be written in UTF-8 (lone surrogates, which JSON lets through): the tokenizer refuses it."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _dimension(model_dir: Path) -> int:
    """The width of the last layer that sets one: a Dense module where there is one, else the transformer."""
    for module in reversed(_modules(model_dir / "modules.json")):
        if str(module.get("type")).endswith(".Dense"):
            return _number(model_dir / str(module.get("path")) / "config.json", "out_features")
    return _number(model_dir / "config.json", "hidden_size")


def _max_tokens(model_dir: Path) -> int:
    settings = model_dir / "sentence_bert_config.json"
    if settings.is_file() and _read(settings).get("max_seq_length"):
        return _number(settings, "max_seq_length")
    return _number(model_dir / "config.json", "max_position_embeddings")


def _modules(path: Path) -> list[dict[str, Any]]:
    modules = _read(path, list)
    if not all(isinstance(module, dict) for module in modules):
        raise ModelDamaged(f"{path} does not list modules", hint=_HINT)
    return list(modules)


def _number(path: Path, key: str) -> int:
    value = _read(path).get(key)
    if not isinstance(value, int):
        raise ModelDamaged(f"{path} gives no number for {key}", hint=_HINT)
    return value


def _read(path: Path, kind: type = dict) -> Any:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelDamaged(f"{path} cannot be read: {error}", hint=_HINT) from error
    if not isinstance(data, kind):
        raise ModelDamaged(f"{path} does not describe a model", hint=_HINT)
    return data
