"""What the machine can do at most, and llama.cpp on it: bandwidth, matrix products, weights, a bare loop of decodes."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine.journal import BARE, MACHINE, Journal
from eval.flops import Tensor, read_tensors
from rag.speed import BareLoop, Speedometer
from rag.tuning import Tuning

MEGABYTE = 1 << 20
BARE_BATCH = 512  # as llama-bench reads: the engine's own batch is smaller, so that answers can be stopped


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


def measure_reading(journal: Journal, run: int, bare: BareLoop, tokens: int) -> None:
    """Write down the rate at which the bare loop reads `tokens` tokens."""
    bare.clear()
    journal.add("prefill_tokens_per_second", BARE, run, tokens / bare.read(tokens))


def measure_writing(journal: Journal, run: int, bare: BareLoop, *, depth: int, tokens: int) -> None:
    """Write down the pace of the bare loop at writing `tokens` tokens after `depth` that are read."""
    bare.clear()
    bare.read(depth)
    seconds = bare.write(tokens) / tokens
    journal.add("seconds_per_token", BARE, run, seconds)
    journal.add("decode_tokens_per_second", BARE, run, 1 / seconds)


@contextmanager
def bare_loop(path: Path, *, context: int, threads: int, extra_buffers: bool) -> Iterator[BareLoop]:
    """Yield a loop with weights of its own, and free both."""
    tuning = Tuning(threads=threads, batch=BARE_BATCH, micro_batch=BARE_BATCH)
    with (
        closing(Speedometer(path, extra_buffers=extra_buffers)) as weights,
        closing(weights.loop(tuning, room=context)) as loop,
    ):
        yield loop
