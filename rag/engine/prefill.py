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
_ROWS = 128  # of them go through a layer's feed-forward part at once
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
        self._groups = weights.whole("qwen2.attention.head_count_kv")
        self._wide = weights.whole("qwen2.embedding_length")
        self._inner = weights.whole("qwen2.feed_forward_length")
        self._size = self._wide // weights.whole("qwen2.attention.head_count")
        self.width = self._groups * self._size
        self._epsilon = weights.number("qwen2.attention.layer_norm_rms_epsilon")
        self._base = weights.number("qwen2.rope.freq_base")

    def load(self) -> None:
        """Make the layers. Raises `ModelLoadFailed` where torch or the processor lacks what they take."""
        torch = self._torch = _torch()
        torch.set_num_threads(self._threads)
        self._frequencies = 1.0 / self._base ** (torch.arange(0, self._size, 2).float() / self._size)
        with torch.inference_mode(), ThreadPoolExecutor(self._threads) as pool:
            self._find_padding()
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
        whole = torch.from_numpy(self._weights.rows("token_embd.weight", self._wide, tokens_n))
        x, beyond = whole[:, : self._used].contiguous(), whole[:, self._used :].square().sum(1, keepdim=True)
        angles = torch.arange(before, before + count).float()[:, None] * self._frequencies
        cos, sin = (torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))
        seen = torch.ones(count, before + count, dtype=torch.bool).tril(before) if before else None
        read = torch.empty(2, self.layers, before + count, self.width, dtype=torch.float16)
        if past is not None:
            read[:, :, :before] = torch.from_numpy(past)
        for number, layer in enumerate(self._layers):
            if stopped():
                raise PrefillStopped
            y = self._multiply(x * layer.attention_norm, layer.qkv, self._rooted(x, beyond))
            q, k, v = y.split([len(self._heard), self.width, self.width], 1)
            read[0, number, before:] = self._turned(k, cos, sin).transpose(0, 1).reshape(count, -1)
            read[1, number, before:] = v
            if layer.output is None:
                break
            attended = self._attend(self._turned(q, cos, sin), read[:, number], seen)
            x += self._multiply(attended, layer.output)
            # Some rows at a time: what is between the products is 78 kB a token, and would not stay in the cache.
            parts = -(-count // _ROWS)
            for some, others in zip(x.tensor_split(parts), beyond.tensor_split(parts), strict=True):
                self._think(some, others, layer)
        fresh: Half = read[:, :, before:].contiguous().numpy()
        return fresh

    def _think(self, x: Tensor, beyond: Tensor, layer: _Layer) -> None:
        """Add to tokens what the layer's feed-forward part makes of them."""
        assert layer.norm is not None and layer.gate_up is not None and layer.down is not None
        y = self._multiply(x * layer.norm, layer.gate_up, self._rooted(x, beyond))
        up, gate = y.chunk(2, 1)
        up.mul_(gate)
        x += self._multiply(self._torch.nn.functional.glu(y, 1), layer.down)

    def close(self) -> None:
        """Free it, once it is made. Do not use it any further."""
        if self._thread is not None:
            self._thread.join()
        self.least = sys.maxsize
        self._layers = []
        self._weights.close()

    def _attend(self, q_hns: Tensor, read_2nw: Tensor, seen: Tensor | None) -> Tensor:
        heads = read_2nw.float().view(2, -1, self._groups, self._size).transpose(1, 2)
        keys, values = heads.repeat_interleave(len(self._heard) // self.width, 1)
        attended = self._torch.nn.functional.scaled_dot_product_attention(
            q_hns[None], keys[None], values[None], attn_mask=seen, is_causal=seen is None
        )
        return attended[0].transpose(0, 1).reshape(q_hns.shape[1], -1)

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return heads `(h, n, size)` in their rotary positions (Su et al. 2021), halves side by side."""
        heads = x.reshape(len(x), -1, self._size).transpose(0, 1)
        left, right = heads.chunk(2, -1)
        return heads * cos + self._torch.cat([-right, left], -1) * sin

    def _rooted(self, x: Tensor, beyond: Tensor) -> Tensor:
        """Return what rows are multiplied with by their norm (Zhang and Sennrich 2019), `(n, 1)`.

        `beyond` are the squares, added up, of the channels that are left out.
        """
        squares = (x.square().sum(1, keepdim=True) + beyond) / self._wide
        return self._torch.rsqrt(squares + self._epsilon)

    def _multiply(self, x_ni: Tensor, product: _Product, factor_n1: Tensor | None = None) -> Tensor:
        """Return `x` times a matrix, `(n, out)` in float32: `x` in int8, with a scale for each of its rows.

        A factor for each row only changes its scale.
        """
        torch = self._torch
        # Twice over the numbers, as torch's norms and `aminmax` take four to six times as long.
        scale_n1 = torch.maximum(x_ni.amax(1, keepdim=True), -x_ni.amin(1, keepdim=True)).clamp_min_(1e-12).div_(127)
        # By way of signed bytes, which torch makes five times as fast as unsigned ones; their sign turned is 128 more.
        x8 = (x_ni / scale_n1).round_().to(torch.int8).view(torch.uint8).bitwise_xor_(_ZERO)
        packed, scale, zeros, bias = product
        y = torch.ops.onednn.qlinear_pointwise(
            x8, 1.0, _ZERO, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        y.mul_(scale_n1 if factor_n1 is None else scale_n1.mul_(factor_n1))
        return y if bias is None else y.add_(bias)

    def _find_padding(self) -> None:
        """Find the channels and the queries' numbers that count: models are made wider by zeros (`rag.widen`).

        The first layer tells; every layer is held against it where it is cut.
        """
        self._used = int(self._vector(0, "attn_norm.weight").nonzero().max()) + 1
        output = self._vector(0, "attn_output.weight").view(self._wide, self._groups, -1, self._size)
        heard = output.any(0).any(-1)
        if len(set(heard.sum(1).tolist())) > 1:  # keys go with as many queries in one group as in another
            heard[:] = True
        self._heard = heard.flatten().repeat_interleave(self._size).nonzero()[:, 0]

    def _layer(self, number: int) -> _Layer:
        """Return a layer in int8: keys and values alone of the last one, since nothing of it is read further."""
        every, channels, heard = slice(None), slice(self._used), self._heard
        norm = self._vector(number, "attn_norm.weight")[channels]
        queries = self._matrix(number, "attn_q", heard, channels)
        keys, values = (self._matrix(number, name, every, channels) for name in ("attn_k", "attn_v"))
        bias = self._vector(number, "attn_q.bias")[heard], *(self._vector(number, f"attn_{n}.bias") for n in "kv")
        qkv = self._product([queries, keys, values], self._torch.cat(bias))
        if number == self.layers - 1:
            return _Layer(norm, qkv, None)
        up, gate = (self._matrix(number, name, every, channels) for name in ("ffn_up", "ffn_gate"))
        return _Layer(
            norm,
            qkv,
            self._product([self._matrix(number, "attn_output", channels, heard)]),
            self._vector(number, "ffn_norm.weight")[channels],
            self._product([up, gate]),
            self._product([self._matrix(number, "ffn_down", channels, every)]),
        )

    def _matrix(self, number: int, name: str, rows: Any, columns: Any) -> Tensor:
        """Return these rows and columns of a matrix. Raises `ModelLoadFailed` where the others are not all 0."""
        wide = self._inner if name == "ffn_down" else self._wide
        whole = self._vector(number, f"{name}.weight").view(-1, wide)
        matrix = whole[rows][:, columns]
        if matrix.shape != whole.shape and matrix.count_nonzero() < whole.count_nonzero():
            raise ModelLoadFailed(f"layer {number} is wider than the first one")
        return matrix

    def _product(self, matrices: list[Tensor], bias: Tensor | None = None) -> _Product:
        """Return the product with matrices that stand one below the other."""
        torch = self._torch
        matrix = torch.cat(matrices)
        scale = matrix.abs().amax(1).clamp_min_(1e-12).div_(127)
        packed = torch.ops.onednn.qlinear_prepack(matrix.div_(scale[:, None]).round_().to(torch.int8), None)
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
