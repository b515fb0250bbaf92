"""Weights made from weights: a base model, a low-rank adapter added to its matrices, quantized for speed.

A LoRA adapter (Hu et al. 2021) holds for a matrix W of `(out, in)` two thin ones, B `(out, r)` and A `(r, in)`; the
adapted matrix is W + (alpha / r) B A. llama.cpp could add them at run time, but on 2 cores that halved its speed
(docs/lab.md), so they are added once, when the model is fetched.

In 4 bits (Q4_0: blocks of 32 weights with one step) llama.cpp reads twice as fast as in 8. Rounding after learning costs
accuracy, so the adapter is learnt with the rounding (training/lora.py), and each block's step, taken from the base's
weights alone, is the one that rounds them with the least error.

The result is the same bits on every machine: all arithmetic is float32, element by element, in one order; no matrix
product, whose order of summation depends on the CPU. So the registry can pin its SHA-256.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rag.errors import ModelDamaged
from rag.protocols import FloatArray

Q4_BLOCK = 32  # weights that share a step

# The metadata of the base that the writer makes anew.
_WRITTEN = ("GGUF.", "general.architecture")


class _Pair(NamedTuple):
    a_rd: FloatArray
    b_or: FloatArray
    scale: float

    def delta(self) -> FloatArray:
        """Return (alpha / r) B A, `(out, in)`, summed rank by rank."""
        delta = np.zeros((self.b_or.shape[0], self.a_rd.shape[1]), np.float32)
        for rank in range(self.a_rd.shape[0]):
            delta += (self.b_or[:, rank : rank + 1] * np.float32(self.scale)) * self.a_rd[rank]
        return delta


def adapt(base: Path, adapter: Path, out: Path, quantization: str, done: Callable[[int], None]) -> None:
    """Write to `out` the GGUF model `base` with `adapter` added; every adapted matrix becomes `quantization`.

    `quantization` is a type that the gguf package can write, such as Q4_0 or Q8_0; all else stays as it is in the
    base. `done` is told the bytes written since the last call. Raises `ModelDamaged` where the two do not fit.
    """
    from gguf import GGUFReader, GGUFWriter

    model = GGUFReader(base)
    pairs = _read_pairs(adapter)
    if unknown := sorted(pairs.keys() - {tensor.name for tensor in model.tensors}):
        raise ModelDamaged(f"the adapter {adapter.name} does not fit {base.name}, which has no {unknown[0]}")
    writer = GGUFWriter(out, _architecture(model))
    _copy_metadata(model, writer)
    _announce(model, pairs, writer, quantization)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in model.tensors:
            data = _adapted(tensor, pairs[tensor.name], quantization) if tensor.name in pairs else tensor.data
            writer.write_tensor_data(data)
            done(data.nbytes)
    finally:
        writer.close()


def _read_pairs(adapter: Path) -> dict[str, _Pair]:
    """Return the adapter's matrices by the name of the tensor they are added to."""
    from gguf import GGUFReader

    reader = GGUFReader(adapter)
    halves = {tensor.name: np.asarray(tensor.data, np.float32) for tensor in reader.tensors}
    alpha = reader.get_field("adapter.lora.alpha")
    names = [name.removesuffix(".lora_a") for name in halves if name.endswith(".lora_a")]
    if alpha is None or not names or any(f"{name}.lora_b" not in halves for name in names):
        raise ModelDamaged(f"{adapter.name} is no LoRA adapter")
    pairs = {}
    for name in names:
        a_rd = halves[f"{name}.lora_a"]
        pairs[name] = _Pair(a_rd, halves[f"{name}.lora_b"], float(alpha.contents()) / a_rd.shape[0])
    return pairs


def _architecture(model: Any) -> str:
    field = model.get_field("general.architecture")
    return str(field.contents()) if field else ""


def _copy_metadata(model: Any, writer: Any) -> None:
    from gguf import GGUFValueType

    for field in model.fields.values():
        if not field.name.startswith(_WRITTEN):
            kind = field.types[0]
            element = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=element)


def _announce(model: Any, pairs: dict[str, _Pair], writer: Any, quantization: str) -> None:
    """Declare every tensor's shape and type before the first byte of data."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quant_shape_to_byte_shape

    wanted = GGMLQuantizationType[quantization]
    for tensor in model.tensors:
        if tensor.name not in pairs:
            data = tensor.data
            writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, tensor.tensor_type)
            continue
        shape = tuple(int(n) for n in reversed(tensor.shape))
        pair = pairs[tensor.name]
        if (pair.b_or.shape[0], pair.a_rd.shape[1]) != shape:
            raise ModelDamaged(f"the adapter does not fit the base: {tensor.name} is {shape} there")
        size = quant_shape_to_byte_shape(shape, wanted)
        writer.add_tensor_info(tensor.name, size, np.dtype(np.uint8), int(np.prod(size)), wanted)


def _adapted(tensor: Any, pair: _Pair, quantization: str) -> Any:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    weights = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
    if quantization == "Q4_0":
        return _q4(weights + pair.delta(), q4_steps(weights.reshape(-1, Q4_BLOCK)))
    return quantize(weights + pair.delta(), GGMLQuantizationType[quantization])


def q4_steps(blocks_nw: FloatArray) -> FloatArray:
    """Return the step `(n, 1)` of each block of 32 weights: of 12 tried, that with the least sum of squared errors.

    A step may be negative: codes reach from -8 to 7, and the side of the largest weight gets the 8.
    """
    at = np.abs(blocks_nw).argmax(axis=1)[:, None]
    full = np.take_along_axis(blocks_nw, at, axis=1) / np.float32(-8)
    best = np.zeros_like(full)
    least = np.full(len(blocks_nw), np.inf, np.float32)
    for share in np.linspace(0.66, 1.1, 12, dtype=np.float32):
        steps = (full * share).astype(np.float16).astype(np.float32)
        errors = blocks_nw - _q4_codes(blocks_nw, steps) * steps
        # Added one after the other: a sum whose order depends on the CPU could choose another step.
        total = np.zeros(len(blocks_nw), np.float32)
        for column in range(Q4_BLOCK):
            total += errors[:, column] * errors[:, column]
        better = total < least
        least[better], best[better] = total[better], steps[better]
    return best


def _q4_codes(blocks_nw: FloatArray, steps_n1: FloatArray) -> FloatArray:
    """Return the nearest codes, from -8 to 7; 0 in a block of zeros."""
    steps = np.where(steps_n1 == 0, np.float32(1), steps_n1)
    return np.clip(np.rint(blocks_nw / steps), -8, 7)


def _q4(weights: FloatArray, steps_n1: FloatArray) -> Any:
    """Return `weights` in llama.cpp's Q4_0, `(out, bytes)`: a block is its step as float16, then 16 bytes of codes.

    A byte holds the codes of weights i and i + 16, each 8 too large.
    """
    codes = (_q4_codes(weights.reshape(-1, Q4_BLOCK), steps_n1) + 8).astype(np.uint8)
    half = Q4_BLOCK // 2
    packed = codes[:, :half] | (codes[:, half:] << 4)
    blocks = np.concatenate([steps_n1.astype(np.float16).view(np.uint8), packed], axis=1)
    return blocks.reshape(weights.shape[0], -1)
