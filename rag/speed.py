"""How fast a model reads and writes with given weights and settings, without anything of the scheduler's around it."""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from rag.engine.context import Prefill
from rag.engine.native import Vocabulary, bindings, load_model
from rag.errors import ModelLoadFailed
from rag.machine import available_cores
from rag.tuning import Tuning

# Ordinary prose: the tokens themselves do not matter for the time, how many there are does.
_TEXT = "The ferry to the island leaves at nine in the morning, and the harbour master writes every passenger down. "


class Sample(NamedTuple):
    """Seconds to read a prompt and to write the measured number of tokens after it."""

    read: float
    write: float


class BareLoop:
    """llama_decode in a loop and nothing else, which is what llama-bench measures: one context of `room` tokens.

    `tokens` are read over and over. Raises `ModelLoadFailed` where llama.cpp cannot make the context or run it.
    """

    def __init__(self, llama: Any, model: Any, tokens: Sequence[int], tuning: Tuning, *, room: int, name: str) -> None:
        self._llama, self._tokens, self._step, self._name = llama, tokens, tuning.batch, name
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = room
        parameters.n_seq_max = 1
        parameters.no_perf = True
        tuning.fill(parameters, available_cores())
        self._context = llama.llama_init_from_model(model, parameters)
        if not self._context:
            raise ModelLoadFailed(f"llama.cpp cannot run {name} with {tuning}")
        self._batch = llama.llama_batch_init(tuning.batch, 0, 1)
        self._position = 0

    def clear(self) -> None:
        """Forget everything that was read."""
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)
        self._position = 0

    def read(self, count: int) -> float:
        """Read so many further tokens, a batch at a time; return the seconds that it took."""
        return sum(self._advance(min(self._step, count - at)) for at in range(0, count, self._step))

    def write(self, count: int) -> float:
        """Read so many further tokens one at a time, as if each had just been written; return the seconds."""
        return sum(self._advance(1) for _ in range(count))

    def step(self, count: int) -> float:
        """Read so many further tokens at once, logits for each, and take them back; return the seconds of reading."""
        seconds = self._advance(count, outputs=count)
        self._position -= count
        self._llama.llama_memory_seq_rm(self._llama.llama_get_memory(self._context), 0, self._position, -1)
        return seconds

    def close(self) -> None:
        """Free the context. Do not use it any further."""
        self._llama.llama_batch_free(self._batch)
        self._llama.llama_free(self._context)

    def _advance(self, count: int, outputs: int = 1) -> float:
        """Run one batch, logits for its last tokens, and wait until they are there; return the seconds of that."""
        batch = self._batch
        batch.n_tokens = count
        for i in range(count):
            batch.token[i] = self._tokens[(self._position + i) % len(self._tokens)]
            batch.pos[i] = self._position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i >= count - outputs
        began = time.perf_counter()
        status = self._llama.llama_decode(self._context, batch)
        self._llama.llama_synchronize(self._context)
        seconds = time.perf_counter() - began
        if status != 0:
            raise ModelLoadFailed(f"llama.cpp could not run {self._name} (status {status})")
        self._position += count
        return seconds


class Speedometer:
    """Weights that are loaded once and timed under any settings. Raises `ModelLoadFailed`.

    Where there is a `prefill`, it reads the prompts, all but their last token, under settings that let it.
    """

    def __init__(self, path: Path, *, extra_buffers: bool = True, prefill: Prefill | None = None) -> None:
        self.path = path
        self._prefill = prefill
        self._llama = bindings()
        self._model = load_model(self._llama, path, extra_buffers=extra_buffers)
        self._tokens = Vocabulary(self._llama, self._model).tokens(_TEXT)

    def loop(self, tuning: Tuning, *, room: int) -> BareLoop:
        """Return a loop over these weights; close it before them."""
        return BareLoop(self._llama, self._model, self._tokens, tuning, room=room, name=self.path.name)

    def sample(self, tuning: Tuning, *, prompt: int, written: int) -> Sample:
        """Read `prompt` tokens, then write `written`, in a fresh context that has done both once before."""
        with closing(self.loop(tuning, room=prompt + written)) as loop:
            loop.read(prompt)
            loop.write(written)
            loop.clear()
            if self._prefill is None or not tuning.writable:
                return Sample(loop.read(prompt), loop.write(written))
            loop.read(prompt - 1)  # writing is slower the more there is to attend to
            return Sample(self._read_ahead(self._prefill, prompt - 1) + loop.write(1), loop.write(written))

    def steps(self, tuning: Tuning, widths: Sequence[int], *, prompt: int, rounds: int) -> dict[int, float]:
        """Return the median seconds of a step that reads so many tokens, all with logits, after `prompt` others.

        The widths take turns, `rounds` times after one to warm up; none may be more than `tuning.batch`.
        """
        seconds: dict[int, list[float]] = {width: [] for width in widths}
        with closing(self.loop(tuning, room=prompt + max(widths))) as loop:
            loop.read(prompt)
            for _ in range(rounds + 1):
                for width in widths:
                    seconds[width].append(loop.step(width))
        return {width: median(taken[1:]) for width, taken in seconds.items()}

    def _read_ahead(self, prefill: Prefill, count: int) -> float:
        """Return the seconds that the prefill takes for so many tokens, the second time."""
        tokens_n = np.resize(np.array(self._tokens, np.int32), count)
        prefill.read(tokens_n, None, lambda: False)
        began = time.perf_counter()
        prefill.read(tokens_n, None, lambda: False)
        return time.perf_counter() - began

    def close(self) -> None:
        """Free the weights. Do not use it any further."""
        if self._prefill:
            self._prefill.close()
        self._llama.llama_model_free(self._model)
