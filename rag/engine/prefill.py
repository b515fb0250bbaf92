"""Reads prompts in int8: the keys and values of a Qwen2 model's tokens, by oneDNN's matrix products out of torch.

Reading is nearly all that an answer costs here, and llama.cpp's kernels reach 0.17 of what int8 products can do on a
processor with VNNI (docs/performance.md). So prompts are read here, and what comes of it goes into llama.cpp's cache
(`rag.engine.layout`); the last token of a prompt and the answer are llama.cpp's, which takes over as if it had read the
prompt itself. Weights have one scale for each output channel, activations one for each token (W8A8, Xiao et al. 2023):
a token's numbers do not depend on what it is read beside. Smoothing between the two gained nothing (docs/lab.md).
"""

import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from rag.engine.context import PrefillStopped, TokenArray
from rag.engine.layout import Half
from rag.engine.weights import Weights
from rag.errors import ModelLoadFailed
from rag.machine import available_cores

logger = logging.getLogger(__name__)

Tensor = Any  # torch.Tensor; torch takes seconds to import, and is imported only where prompts are read in int8
ARCHITECTURE = "qwen2"
# What is computed here follows from these. A file that says more, of scaled positions for one, is of another kind.
_KNOWN = frozenset(
    f"{ARCHITECTURE}.{name}"
    for name in (
        "attention.head_count",
        "attention.head_count_kv",
        "attention.layer_norm_rms_epsilon",
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "rope.freq_base",
        "vocab_size",
    )
)
# Fewer tokens at once are llama.cpp's: calling torch's 800 functions takes some 10 ms, a token there 40.
_LEAST = 8
_ZERO = 128  # what stands for 0 in an activation: oneDNN's fast products take unsigned ones


class _Product(NamedTuple):
    """An int8 matrix, packed for oneDNN, the scales `(out,)` of its rows and what is added."""

    packed: Tensor
    scale: Tensor
    zeros: Tensor
    bias: Tensor | None


class _Layer(NamedTuple):
    attention_norm: Tensor
    qkv: _Product
    output: _Product | None  # the last layer's keys and values need nothing behind them
    norm: Tensor | None = None
    gate_up: _Product | None = None
    down: _Product | None = None


class Int8Prefill:
    """A Qwen2 model's layers in int8, a byte a weight, of a GGUF file that llama.cpp has loaded. Implements `Prefill`.

    They are made by `load`, or in a thread by `load_behind`; before that `least` lets llama.cpp read everything. Raises
    `ModelLoadFailed` where the file holds another architecture. `read` is for one thread.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        weights = self._weights = Weights(path)
        if weights.text("general.architecture") != ARCHITECTURE:
            raise ModelLoadFailed(f"only {ARCHITECTURE} models are read in int8")
        if more := {key for key in weights.keys() if key.startswith(f"{ARCHITECTURE}.")} - _KNOWN:  # noqa: SIM118
            raise ModelLoadFailed(f"a model with {min(more)} is not read in int8")
        self._threads = threads or available_cores()
        self._thread: threading.Thread | None = None
        self.least = sys.maxsize
        self.layers = weights.whole("qwen2.block_count")
        self._heads = weights.whole("qwen2.attention.head_count")
        self._groups = weights.whole("qwen2.attention.head_count_kv")
        self._wide = weights.whole("qwen2.embedding_length")
        self._inner = weights.whole("qwen2.feed_forward_length")
        self._size = self._wide // self._heads
        self.width = self._groups * self._size
        self._epsilon = weights.number("qwen2.attention.layer_norm_rms_epsilon")
        self._base = weights.number("qwen2.rope.freq_base")

    def load(self) -> None:
        """Make the layers. Raises `ModelLoadFailed` where torch or the processor lacks what they take."""
        torch = self._torch = _torch()
        torch.set_num_threads(self._threads)
        self._frequencies = 1.0 / self._base ** (torch.arange(0, self._size, 2).float() / self._size)
        with torch.inference_mode(), ThreadPoolExecutor(self._threads) as pool:
            self._layers = list(pool.map(self._layer, range(self.layers)))
        self.least = _LEAST

    def load_behind(self) -> None:
        """Make the layers in a thread; where that fails, llama.cpp goes on reading, and the log says why."""
        self._thread = threading.Thread(target=self._load_or_log, name="smallhold-int8", daemon=True)
        self._thread.start()

    def _load_or_log(self) -> None:
        try:
            self.load()
        except (ModelLoadFailed, MemoryError, RuntimeError) as error:
            logger.warning("prompts are not read in int8: %s", error)

    def read(self, tokens_n: TokenArray, past: Half | None, stopped: Callable[[], bool]) -> Half:
        """Return keys and values `(2, layers, n, width)` of tokens that come after those of `past`, if any.

        Raises `PrefillStopped` soon after `stopped` says so.
        """
        with self._torch.inference_mode():
            return self._read(tokens_n, past, stopped)

    def _read(self, tokens_n: TokenArray, past: Half | None, stopped: Callable[[], bool]) -> Half:
        torch, count = self._torch, len(tokens_n)
        before = 0 if past is None else past.shape[2]
        x = torch.from_numpy(self._weights.rows("token_embd.weight", self._wide, tokens_n))
        angles = torch.arange(before, before + count).float()[:, None] * self._frequencies
        cos, sin = (torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))
        seen = torch.ones(count, before + count, dtype=torch.bool).tril(before) if before else None
        read = torch.empty(2, self.layers, before + count, self.width, dtype=torch.float16)
        if past is not None:
            read[:, :, :before] = torch.from_numpy(past)
        for number, layer in enumerate(self._layers):
            if stopped():
                raise PrefillStopped
            y = _multiply(torch, self._normed(x, layer.attention_norm), layer.qkv)
            q, k, v = y.split([self._heads * self._size, self.width, self.width], 1)
            read[0, number, before:] = self._turned(k, cos, sin).transpose(0, 1).reshape(count, -1)
            read[1, number, before:] = v
            if layer.output is None:
                break
            attended = self._attend(self._turned(q, cos, sin), read[:, number], seen)
            x += _multiply(torch, attended, layer.output)
            assert layer.norm is not None and layer.gate_up is not None and layer.down is not None
            gate, up = _multiply(torch, self._normed(x, layer.norm), layer.gate_up).chunk(2, 1)
            x += _multiply(torch, torch.nn.functional.silu(gate).mul_(up), layer.down)
        fresh: Half = read[:, :, before:].contiguous().numpy()
        return fresh

    def close(self) -> None:
        """Free it, once it is made. Do not use it any further."""
        if self._thread is not None:
            self._thread.join()
        self.least = sys.maxsize
        self._layers = []
        self._weights.close()

    def _attend(self, q_hns: Tensor, read_2nw: Tensor, seen: Tensor | None) -> Tensor:
        heads = read_2nw.float().view(2, -1, self._groups, self._size).transpose(1, 2)
        keys, values = heads.repeat_interleave(self._heads // self._groups, 1)
        attended = self._torch.nn.functional.scaled_dot_product_attention(
            q_hns[None], keys[None], values[None], attn_mask=seen, is_causal=seen is None
        )
        return attended[0].transpose(0, 1).reshape(q_hns.shape[1], -1)

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return heads `(h, n, size)` in their rotary positions (Su et al. 2021), halves side by side."""
        heads = x.reshape(len(x), -1, self._size).transpose(0, 1)
        left, right = heads.chunk(2, -1)
        return heads * cos + self._torch.cat([-right, left], -1) * sin

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        squares = x.square().sum(1, keepdim=True) / self._wide
        return x * self._torch.rsqrt(squares + self._epsilon) * weight

    def _layer(self, number: int) -> _Layer:
        """Return a layer in int8: keys and values alone of the last one, since nothing of it is read further."""
        norm = self._vector(number, "attn_norm.weight")
        qkv = self._product(number, ("attn_q", "attn_k", "attn_v"))
        if number == self.layers - 1:
            return _Layer(norm, qkv, None)
        return _Layer(
            norm,
            qkv,
            self._product(number, ("attn_output",)),
            self._vector(number, "ffn_norm.weight"),
            self._product(number, ("ffn_gate", "ffn_up")),
            self._product(number, ("ffn_down",)),
        )

    def _product(self, number: int, names: tuple[str, ...]) -> _Product:
        torch = self._torch
        wide = self._inner if names == ("ffn_down",) else self._wide
        matrix = torch.cat([self._vector(number, f"{name}.weight").view(-1, wide) for name in names])
        scale = matrix.abs().amax(1).clamp_min_(1e-12).div_(127)
        packed = torch.ops.onednn.qlinear_prepack(matrix.div_(scale[:, None]).round_().to(torch.int8), None)
        biases = [f"{name}.bias" for name in names if f"blk.{number}.{name}.bias" in self._weights]
        bias = torch.cat([self._vector(number, name) for name in biases]) if biases else None
        return _Product(packed, scale, torch.zeros(len(scale), dtype=torch.int32), bias)

    def _vector(self, number: int, name: str) -> Tensor:
        values = self._weights.values(f"blk.{number}.{name}")
        return self._torch.from_numpy(values if values.flags.writeable else values.copy())


def open_prefill(path: Path, threads: int = 0, *, later: bool = False) -> Int8Prefill:
    """Return the prefill of a model, its layers made, or with `later` being made in a thread."""
    prefill = Int8Prefill(path, threads)
    if later:
        prefill.load_behind()
    else:
        prefill.load()
    return prefill


def _multiply(torch: Any, x_ni: Tensor, product: _Product) -> Tensor:
    """Return `x` times a matrix, `(n, out)` in float32: `x` in int8, with a scale for each of its rows."""
    # Twice over the numbers, as torch's norms and `aminmax` take four to six times as long.
    scale_n1 = torch.maximum(x_ni.amax(1, keepdim=True), -x_ni.amin(1, keepdim=True)).clamp_min_(1e-12).div_(127)
    # Rounded to the nearest by what cuts off: all are positive with the zero at 128.
    x8 = (x_ni / scale_n1).add_(_ZERO + 0.5).to(torch.uint8)
    packed, scale, zeros, bias = product
    y = torch.ops.onednn.qlinear_pointwise(
        x8, 1.0, _ZERO, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    y.mul_(scale_n1)
    return y if bias is None else y.add_(bias)


def _torch() -> Any:
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # as for llama.cpp (rag.engine.native), whose threads are others
    try:
        import torch

        fast = torch.cpu._is_vnni_supported() and torch.ops.onednn.qlinear_pointwise
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        raise ModelLoadFailed(f"torch cannot multiply in int8: {error}") from error
    if not fast:  # without VNNI sums of two products may overflow 16 bits
        raise ModelLoadFailed("the processor has no VNNI, which int8 products take")
    return torch
