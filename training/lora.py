"""A Qwen2 model in PyTorch, read from a GGUF file, with a low-rank adapter that learns while the weights stay.

The model is written out here instead of taken from a library, since its weights come quantized: what is learnt must be
added to the very weights that llama.cpp will run. Arithmetic in bfloat16 where the processor has it, sums of norms and
losses in float32.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, GGUFWriter
from gguf.quants import dequantize
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from rag.adapter import Pair
from rag.protocols import FloatArray

# Without instructions for it bfloat16 takes four times as long: 45 and 176 GFLOP/s on 2 cores of a Cascade Lake.
_FAST = torch.cpu._is_avx512_bf16_supported()
_TYPE = torch.bfloat16 if _FAST else torch.float32

_MATRICES = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


class AdaptedModel:
    """The weights of `path`, and for each matrix from layer `first` on a pair A `(r, in)`, B `(out, r)` that learns.

    `learnt` is what an earlier adapter adds to the weights, and what stays as it is.
    """

    def __init__(self, path: Path, *, rank: int, first: int, learnt: Mapping[str, Pair] | None = None) -> None:
        self._learnt = learnt or {}
        reader = GGUFReader(path)
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._read_shape(reader)
        self.rank = rank
        self.scale = 2.0  # alpha / rank
        self._first = first
        self.pairs: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        self._layers = [self._layer(number) for number in range(self._depth)]
        self._embedding = self._weight("token_embd.weight").to(_TYPE)
        output = "output.weight" if "output.weight" in self._tensors else "token_embd.weight"
        self._output = self._weight(output).to(_TYPE)
        self._last_norm = self._weight("output_norm.weight")
        del self._tensors

    def parameters(self) -> list[nn.Parameter]:
        """Return what learns."""
        return [matrix for pair in self.pairs.values() for matrix in pair]

    def logits(self, ids_bs: Tensor, places_bs: Tensor, seen_bss: Tensor, wanted_bs: Tensor) -> Tensor:
        """Return logits `(n, vocabulary)` of the tokens that follow the `n` true places of `wanted_bs` `(b, s)`.

        `places_bs` are the tokens' positions, `seen_bss` says which tokens (last) each token attends to.
        """
        x = self._embedding[ids_bs]
        turns = self._turns(places_bs)
        for number in range(self._depth):
            with torch.set_grad_enabled(number >= self._first and torch.is_grad_enabled()):
                x = self._forward(x, number, turns, seen_bss[:, None])
        return F.linear(_norm(x, self._last_norm, self._epsilon)[wanted_bs], self._output).float()

    def save(self, path: Path, name: str) -> None:
        """Write the adapter."""
        halves = {matrix: (a.detach().numpy(), b.detach().numpy()) for matrix, (a, b) in self.pairs.items()}
        write_adapter(path, name, alpha=self.scale * self.rank, halves=halves)

    def _read_shape(self, reader: Any) -> None:
        def field(name: str) -> Any:
            return reader.fields[f"qwen2.{name}"].contents()

        self._depth = int(field("block_count"))
        self._heads = int(field("attention.head_count"))
        self._kv_heads = int(field("attention.head_count_kv"))
        self._head = int(field("embedding_length")) // self._heads
        self._epsilon = float(field("attention.layer_norm_rms_epsilon"))
        turns = torch.arange(0, self._head, 2).float() / self._head
        self._frequencies = 1.0 / (float(field("rope.freq_base")) ** turns)

    def _weight(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        weight = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        return torch.from_numpy(weight + self._learnt[name].delta() if name in self._learnt else weight)

    def _layer(self, number: int) -> dict[str, Tensor]:
        layer = {key: self._weight(f"blk.{number}.{name}.weight").to(_TYPE) for key, name in _MATRICES.items()}
        layer |= {f"{key}_bias": self._weight(f"blk.{number}.attn_{key}.bias").to(_TYPE) for key in "qkv"}
        layer |= {name: self._weight(f"blk.{number}.{name}.weight") for name in ("attn_norm", "ffn_norm")}
        if number >= self._first:
            for key, name in _MATRICES.items():
                out, into = layer[key].shape
                a = nn.Parameter(torch.randn(self.rank, into) / math.sqrt(into))
                self.pairs[f"blk.{number}.{name}.weight"] = (a, nn.Parameter(torch.zeros(out, self.rank)))
        return layer

    def _linear(self, x: Tensor, number: int, key: str) -> Tensor:
        layer = self._layers[number]
        y = F.linear(x, layer[key], layer.get(f"{key}_bias"))
        pair = self.pairs.get(f"blk.{number}.{_MATRICES[key]}.weight")
        if pair is None:
            return y
        a, b = pair
        thin = F.linear(x, a.to(_TYPE)).view(-1, self.rank)
        return torch.addmm(y.view(-1, y.shape[-1]), thin, (b * self.scale).to(_TYPE).t()).view(y.shape)

    def _forward(self, x: Tensor, number: int, turns: tuple[Tensor, Tensor], seen: Tensor) -> Tensor:
        batch, length, width = x.shape
        layer = self._layers[number]

        def heads(key: str, count: int) -> Tensor:
            return self._linear(normed, number, key).view(batch, length, count, self._head).transpose(1, 2)

        normed = _norm(x, layer["attn_norm"], self._epsilon)
        repeat = self._heads // self._kv_heads
        q = _rotate(heads("q", self._heads), *turns)
        k = _rotate(heads("k", self._kv_heads), *turns).repeat_interleave(repeat, 1)
        v = heads("v", self._kv_heads).repeat_interleave(repeat, 1)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self._linear(attended.transpose(1, 2).reshape(batch, length, width), number, "o")
        normed = _norm(x, layer["ffn_norm"], self._epsilon)
        gated = F.silu(self._linear(normed, number, "gate")) * self._linear(normed, number, "up")
        return x + self._linear(gated, number, "down")

    def _turns(self, places_bs: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines `(b, 1, s, head)` of rotary positions (Su et al. 2021), halves side by side."""
        angles = places_bs[:, :, None].float() * self._frequencies
        cos, sin = (torch.cat([f(angles)] * 2, -1)[:, None] for f in (torch.cos, torch.sin))
        return cos, sin


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.float().chunk(2, -1)
    return (x.float() * cos + torch.cat([-right, left], -1) * sin).to(_TYPE)


def _norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon) * weight).to(_TYPE)


def write_adapter(path: Path, name: str, *, alpha: float, halves: Mapping[str, tuple[FloatArray, FloatArray]]) -> None:
    """Write an adapter as GGUF, in float16: a file that llama.cpp reads too. `halves` are A and B of every matrix."""
    writer = GGUFWriter(path, "qwen2")
    writer.add_type("adapter")
    writer.add_name(name)
    writer.add_license("Apache-2.0")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for matrix, (a_rd, b_or) in sorted(halves.items()):
        writer.add_tensor(f"{matrix}.lora_a", a_rd.astype(np.float16))
        writer.add_tensor(f"{matrix}.lora_b", b_or.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
