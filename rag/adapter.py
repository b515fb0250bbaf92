"""Weights made from weights: a base model, a low-rank adapter added to its matrices, quantized for speed.

A LoRA adapter (Hu et al. 2021) holds for a matrix W of `(out, in)` two thin ones, B `(out, r)` and A `(r, in)`; the
adapted matrix is W + (alpha / r) B A. llama.cpp could add them at run time, but on 2 cores that halved its speed
(docs/lab.md), so they are added once, when the model is fetched.

The result is the same bits on every machine: all arithmetic is float32, element by element, in one order; no matrix
product, whose order of summation depends on the CPU. So the registry can pin its SHA-256.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rag.errors import ModelDamaged
from rag.protocols import FloatArray

# The metadata of the base that the writer makes anew.
_WRITTEN = ("GGUF.", "general.architecture")


class Pair(NamedTuple):
    """The two thin matrices of an adapted one, and what their product is multiplied with."""

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
    pairs = read_pairs(adapter)
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


def read_pairs(adapter: Path) -> dict[str, Pair]:
    """Return an adapter's matrices by the name of the tensor they are added to. Raises `ModelDamaged`."""
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
        pairs[name] = Pair(a_rd, halves[f"{name}.lora_b"], float(alpha.contents()) / a_rd.shape[0])
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


def _announce(model: Any, pairs: dict[str, Pair], writer: Any, quantization: str) -> None:
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


def _adapted(tensor: Any, pair: Pair, quantization: str) -> Any:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    weights = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
    return quantize(weights + pair.delta(), GGMLQuantizationType[quantization])
