"""What the machine can do at most, and llama.cpp on it: bandwidth, matrix products, weights, a bare loop of decodes."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine.journal import BARE, MACHINE, Journal
from benchmarks.engine.ours import bindings
from eval.flops import Tensor, read_tensors

MEGABYTE = 1 << 20


def note_weights(journal: Journal, path: Path) -> None:
    """Write down what of a model is read for a written token, and what a prompt token is multiplied with."""
    tensors = read_tensors(path)
    journal.add("bytes_per_token", MACHINE, 0, bytes_per_token(tensors))
    journal.add("prompt_matrices", MACHINE, 0, prompt_matrices(tensors))


def bytes_per_token(tensors: dict[str, Tensor]) -> int:
    """Return the bytes of weights that writing one token reads: all but input embeddings that are looked up only."""
    looked_up = tensors["token_embd.weight"].bytes if "output.weight" in tensors else 0
    return sum(tensor.bytes for tensor in tensors.values()) - looked_up


def prompt_matrices(tensors: dict[str, Tensor]) -> int:
    """Return the weights that every prompt token is multiplied with: the matrices between both embeddings."""
    ends = {"token_embd.weight", "output.weight"}
    return sum(t.elements for name, t in tensors.items() if name not in ends and t.dimensions > 1)


def measure_bandwidth(journal: Journal, run: int, *, threads: int, megabytes: int) -> None:
    """Bytes a second between memory and all cores: one sample per kernel, over buffers much larger than any cache.

    `read` moves one buffer, `copy` and `scale` two; the bytes that a store reads before it writes are not counted.
    """
    a_n = np.ones(megabytes * MEGABYTE // 8, dtype=np.float32)
    b_n = np.zeros_like(a_n)
    kernels: dict[str, tuple[int, Callable[[Any, Any], object]]] = {
        "read": (1, lambda a, _: a.max()),
        "copy": (2, lambda a, b: np.copyto(b, a)),
        "scale": (2, lambda a, b: np.multiply(a, 3.0, out=b)),
    }
    halves = list(zip(np.array_split(a_n, threads), np.array_split(b_n, threads), strict=True))
    for name, (buffers, kernel) in kernels.items():
        seconds = min(_together([partial(kernel, a, b) for a, b in halves]) for _ in range(3))
        journal.add(f"bandwidth_{name}", MACHINE, run, buffers * a_n.nbytes / seconds)


def _together(calls: Sequence[Callable[[], object]]) -> float:
    """Return the seconds until all calls are done, each in a thread; numpy lets go of the interpreter meanwhile."""
    began = time.perf_counter()
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def measure_products(journal: Journal, run: int, *, threads: int, size: int) -> None:
    """Operations a second of torch's matrix product in float32, bfloat16 and int8, the best of three each.

    A kind that this torch or this CPU lacks is left out.
    """
    import torch

    torch.set_num_threads(threads)
    products = {"float32": torch.matmul, "bfloat16": torch.matmul, "int8": torch._int_mm}
    for name, product in products.items():
        a = torch.ones(size, size, dtype=getattr(torch, name))
        try:
            product(a, a)
        except RuntimeError:
            continue
        seconds = min(_together([partial(product, a, a)]) for _ in range(3))
        journal.add(f"gemm_{name}", MACHINE, run, 2.0 * size**3 / seconds)


class BareLoop:
    """llama_decode through the bindings and nothing else: what llama-bench measures. One context, its own weights."""

    def __init__(self, path: Path, *, context: int, threads: int, extra_buffers: bool, batch: int = 512) -> None:
        self._llama = bindings()
        parameters = self._llama.llama_model_default_params()
        parameters.use_extra_bufts = extra_buffers
        self._model = self._llama.llama_model_load_from_file(str(path).encode(), parameters)
        wanted = self._llama.llama_context_default_params()
        wanted.n_ctx, wanted.n_batch, wanted.n_ubatch, wanted.n_seq_max = context, batch, batch, 1
        wanted.n_threads = wanted.n_threads_batch = threads
        wanted.no_perf = True
        self._context = self._llama.llama_init_from_model(self._model, wanted)
        self._tokens = self._llama.llama_vocab_n_tokens(self._llama.llama_model_get_vocab(self._model))
        self._batch_size = batch
        self._batch = self._llama.llama_batch_init(batch, 0, 1)
        self._position = 0

    def clear(self) -> None:
        """Forget everything that was read."""
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)
        self._position = 0

    def advance(self, count: int) -> float:
        """Read `count` arbitrary tokens in one step, logits for the last; return the seconds that it took."""
        batch = self._batch
        batch.n_tokens = count
        for i in range(count):
            batch.token[i] = (self._position + i) * 31 % self._tokens
            batch.pos[i] = self._position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i == count - 1
        began = time.perf_counter()
        status = self._llama.llama_decode(self._context, batch)
        self._llama.llama_synchronize(self._context)
        seconds = time.perf_counter() - began
        if status:
            raise RuntimeError(f"llama_decode ended with status {status}")
        self._position += count
        return seconds

    def measure_reading(self, journal: Journal, run: int, tokens: int) -> None:
        """Write down the rate of reading `tokens` tokens."""
        self.clear()
        sizes = [min(self._batch_size, tokens - at) for at in range(0, tokens, self._batch_size)]
        journal.add("prefill_tokens_per_second", BARE, run, tokens / sum(self.advance(size) for size in sizes))

    def measure_writing(self, journal: Journal, run: int, *, depth: int, tokens: int) -> None:
        """Write down the pace of writing `tokens` tokens, one at a time, after `depth` that are read."""
        self.clear()
        for at in range(0, depth, self._batch_size):
            self.advance(min(self._batch_size, depth - at))
        seconds = sum(self.advance(1) for _ in range(tokens)) / tokens
        journal.add("seconds_per_token", BARE, run, seconds)
        journal.add("decode_tokens_per_second", BARE, run, 1 / seconds)

    def close(self) -> None:
        """Free it. Do not use it any further."""
        self._llama.llama_batch_free(self._batch)
        self._llama.llama_free(self._context)
        self._llama.llama_model_free(self._model)


@contextmanager
def bare_loop(path: Path, *, context: int, threads: int, extra_buffers: bool) -> Iterator[BareLoop]:
    """Yield a loop and free it."""
    loop = BareLoop(path, context=context, threads=threads, extra_buffers=extra_buffers)
    try:
        yield loop
    finally:
        loop.close()
