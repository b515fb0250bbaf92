"""A Qwen2 model in PyTorch, read from a GGUF file, with a low-rank adapter that learns while the weights stay.

The model is written out here instead of taken from a library, since its weights come quantized: what is learnt must be
added to the very weights that llama.cpp will run. Arithmetic in bfloat16, sums of norms and losses in float32.

What is learnt will be rounded to 4 bits together with the weights (rag/adapter.py), so it is learnt so (Jacob et al.
2018): forward with the rounded sum, backward as if there were no rounding (Bengio et al. 2013). Rounding all weights
takes as long as half a step, so it is done every few steps; what was learnt since is added unrounded.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, GGUFWriter
from gguf.quants import dequantize
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from rag.adapter import q4_steps

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
    """The weights of `path`, and for each matrix of a layer a pair A `(r, in)`, B `(out, r)` that learns.

    `rounded` is whether they are seen rounded to Q4_0: by `round_weights`, to be called every few steps.
    """

    def __init__(self, path: Path, *, rank: int, rounded: bool = True) -> None:
        reader = GGUFReader(path)
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._read_shape(reader)
        self.rank = rank
        self.scale = 2.0  # alpha / rank
        self._rounded = rounded
        self.pairs: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}  # the pairs as they were when the weights were rounded
        self._grids: dict[str, tuple[Tensor, Tensor]] = {}  # each matrix in blocks `(out * in / 32, 32)`, their steps
        self._layers = [self._layer(number) for number in range(self._depth)]
        self._embedding = self._weight("token_embd.weight").bfloat16()
        output = "output.weight" if "output.weight" in self._tensors else "token_embd.weight"
        self._output = self._weight(output).bfloat16()
        self._last_norm = self._weight("output_norm.weight")
        del self._tensors

    def parameters(self) -> list[nn.Parameter]:
        """Return what learns."""
        return [matrix for pair in self.pairs.values() for matrix in pair]

    def logits(self, ids_bs: Tensor, wanted_bs: Tensor) -> Tensor:
        """Return logits `(n, vocabulary)` of the tokens that follow the `n` true places of `wanted_bs` `(b, s)`."""
        x = self._embedding[ids_bs]
        for number in range(self._depth):
            x = self._forward(x, number)
        return F.linear(_norm(x, self._last_norm, self._epsilon)[wanted_bs], self._output).float()

    @torch.no_grad()
    def round_weights(self) -> None:
        """Round each matrix with what its pair has learnt, as rag/adapter.py will."""
        for number, layer in enumerate(self._layers if self._rounded else []):
            for key, name in _MATRICES.items():
                matrix = f"blk.{number}.{name}.weight"
                weights, steps = self._grids[matrix]
                a, b = self.pairs[matrix]
                learnt = (b * self.scale) @ a
                divisors = steps.masked_fill(steps == 0, 1)  # of blocks of zeros, which stay zero
                codes = ((weights + learnt.view(-1, 32)) / divisors).round_().clamp_(-8, 7)
                layer[key] = codes.mul_(steps).view(learnt.shape).bfloat16()
                self._seen[matrix] = (a.detach().clone(), b.detach().clone())

    def save(self, path: Path, name: str) -> None:
        """Write the adapter as GGUF, in float16: a file that llama.cpp reads too."""
        writer = GGUFWriter(path, "qwen2")
        writer.add_type("adapter")
        writer.add_name(name)
        writer.add_license("Apache-2.0")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", self.scale * self.rank)
        for matrix, (a, b) in sorted(self.pairs.items()):
            writer.add_tensor(f"{matrix}.lora_a", a.detach().numpy().astype(np.float16))
            writer.add_tensor(f"{matrix}.lora_b", b.detach().numpy().astype(np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

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
        return torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))

    def _layer(self, number: int) -> dict[str, Tensor]:
        layer = {}
        for key, name in _MATRICES.items():
            weights = self._weight(f"blk.{number}.{name}.weight")
            layer[key] = weights.bfloat16()
            out, into = weights.shape
            a = nn.Parameter(torch.randn(self.rank, into) / math.sqrt(into))
            self.pairs[f"blk.{number}.{name}.weight"] = (a, nn.Parameter(torch.zeros(out, self.rank)))
            if self._rounded:
                blocks = weights.view(-1, 32)
                steps = torch.from_numpy(q4_steps(blocks.numpy()))
                self._grids[f"blk.{number}.{name}.weight"] = (blocks, steps)
        layer |= {f"{key}_bias": self._weight(f"blk.{number}.attn_{key}.bias").bfloat16() for key in "qkv"}
        layer |= {name: self._weight(f"blk.{number}.{name}.weight") for name in ("attn_norm", "ffn_norm")}
        return layer

    def _linear(self, x: Tensor, number: int, key: str) -> Tensor:
        layer = self._layers[number]
        y = F.linear(x, layer[key], layer.get(f"{key}_bias"))
        matrix = f"blk.{number}.{_MATRICES[key]}.weight"
        a, b = self.pairs[matrix]
        if matrix in self._seen:  # in the rounded weights already
            a0, b0 = self._seen[matrix]
            a, b = torch.cat([a, a0]), torch.cat([b, -b0], 1)
        thin = F.linear(x, a.bfloat16()).view(-1, a.shape[0])
        return torch.addmm(y.view(-1, y.shape[-1]), thin, (b * self.scale).bfloat16().t()).view(y.shape)

    def _forward(self, x: Tensor, number: int) -> Tensor:
        batch, length, width = x.shape
        layer = self._layers[number]

        def heads(key: str, count: int) -> Tensor:
            return self._linear(normed, number, key).view(batch, length, count, self._head).transpose(1, 2)

        normed = _norm(x, layer["attn_norm"], self._epsilon)
        repeat = self._heads // self._kv_heads
        q = self._rotate(heads("q", self._heads))
        k = self._rotate(heads("k", self._kv_heads)).repeat_interleave(repeat, 1)
        v = heads("v", self._kv_heads).repeat_interleave(repeat, 1)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self._linear(attended.transpose(1, 2).reshape(batch, length, width), number, "o")
        normed = _norm(x, layer["ffn_norm"], self._epsilon)
        gated = F.silu(self._linear(normed, number, "gate")) * self._linear(normed, number, "up")
        return x + self._linear(gated, number, "down")

    def _rotate(self, x: Tensor) -> Tensor:
        """Rotary position embedding (Su et al. 2021), halves side by side."""
        angles = torch.arange(x.shape[2])[:, None].float() * self._frequencies[None]
        cos, sin = (torch.cat([f(angles)] * 2, -1)[None, None] for f in (torch.cos, torch.sin))
        left, right = x[..., : self._head // 2], x[..., self._head // 2 :]
        return (x.float() * cos + torch.cat([-right, left], -1).float() * sin).bfloat16()


def _norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon) * weight).bfloat16()
