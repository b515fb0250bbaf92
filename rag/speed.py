"""How fast llama.cpp reads and writes with given weights and settings, without anything of ours around it."""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rag.engine.native import Vocabulary, available_cores, bindings, load_model
from rag.errors import ModelLoadFailed
from rag.tuning import Tuning

# Ordinary prose: the tokens themselves do not matter for the time, how many there are does.
_TEXT = "The ferry to the island leaves at nine in the morning, and the harbour master writes every passenger down. "


class Sample(NamedTuple):
    """Seconds to read a prompt and to write the measured number of tokens after it."""

    read: float
    write: float


class Speedometer:
    """Weights that are loaded once and timed under any settings. Raises `ModelLoadFailed`."""

    def __init__(self, path: Path, *, extra_buffers: bool = True) -> None:
        self.path = path
        self._llama = bindings()
        self._model = load_model(self._llama, path, extra_buffers=extra_buffers)
        self._vocabulary = Vocabulary(self._llama, self._model)

    def sample(self, tuning: Tuning, *, prompt: int, written: int) -> Sample:
        """Read `prompt` tokens, then write `written`, in a fresh context that has done both once before."""
        tokens = self._vocabulary.tokens(_TEXT * (prompt // 8 + 1))[:prompt]
        context = self._open(tuning, prompt + written)
        batch = self._llama.llama_batch_init(tuning.batch, 0, 1)
        try:
            self._run(context, batch, tokens, tuning.batch, written)
            self._llama.llama_memory_clear(self._llama.llama_get_memory(context), True)
            return self._run(context, batch, tokens, tuning.batch, written)
        finally:
            self._llama.llama_batch_free(batch)
            self._llama.llama_free(context)

    def steps(self, tuning: Tuning, widths: Sequence[int], *, prompt: int, rounds: int) -> dict[int, float]:
        """Return the median seconds of a step that reads so many tokens, all with logits, after `prompt` others.

        The widths take turns, `rounds` times after one to warm up; none may be more than `tuning.batch`.
        """
        tokens = self._vocabulary.tokens(_TEXT * (prompt // 8 + 1))[:prompt]
        context = self._open(tuning, prompt + max(widths))
        batch = self._llama.llama_batch_init(tuning.batch, 0, 1)
        seconds: dict[int, list[float]] = {width: [] for width in widths}
        try:
            self._run(context, batch, tokens, tuning.batch, 0)
            for _ in range(rounds + 1):
                for width in widths:
                    began = time.perf_counter()
                    self._decode(context, batch, tokens[:width], prompt, outputs=width)
                    seconds[width].append(time.perf_counter() - began)
                    self._llama.llama_memory_seq_rm(self._llama.llama_get_memory(context), 0, prompt, -1)
        finally:
            self._llama.llama_batch_free(batch)
            self._llama.llama_free(context)
        return {width: median(taken[1:]) for width, taken in seconds.items()}

    def close(self) -> None:
        """Free the weights. Do not use it any further."""
        self._llama.llama_model_free(self._model)

    def _open(self, tuning: Tuning, room: int) -> Any:
        parameters = self._llama.llama_context_default_params()
        parameters.n_ctx = room
        parameters.n_seq_max = 1
        parameters.no_perf = True
        tuning.fill(parameters, available_cores())
        context = self._llama.llama_init_from_model(self._model, parameters)
        if not context:
            raise ModelLoadFailed(f"llama.cpp cannot run {self.path.name} with {tuning}")
        return context

    def _run(self, context: Any, batch: Any, tokens: list[int], step: int, written: int) -> Sample:
        began = time.perf_counter()
        for start in range(0, len(tokens), step):
            self._decode(context, batch, tokens[start : start + step], start)
        read = time.perf_counter()
        for i in range(written):
            self._decode(context, batch, tokens[i : i + 1], len(tokens) + i)
        return Sample(read - began, time.perf_counter() - read)

    def _decode(self, context: Any, batch: Any, tokens: list[int], position: int, *, outputs: int = 1) -> None:
        """Run tokens, logits for the last `outputs` ones, and wait until they are there."""
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i >= len(tokens) - outputs
        status = self._llama.llama_decode(context, batch)
        if status != 0:
            raise ModelLoadFailed(f"llama.cpp could not run {self.path.name} (status {status})")
        self._llama.llama_synchronize(context)
