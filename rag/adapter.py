"""Weights made from weights: a base model, a low-rank adapter added to its matrices, quantized and widened for speed.

A LoRA adapter (Hu et al. 2021) holds for a matrix W of `(out, in)` two thin ones, B `(out, r)` and A `(r, in)`; the
adapted matrix is W + (alpha / r) B A. llama.cpp could add them at run time, but on 2 cores that halved its speed
(docs/lab.md), so they are added once, when the model is fetched.

The result is the same bits on every machine: all arithmetic is float32, element by element, in one order; no matrix
product, whose order of summation depends on the CPU. So the registry can pin its SHA-256.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rag.errors import ModelDamaged
from rag.kquant import q6_k
from rag.machine import available_cores
from rag.protocols import FloatArray
from rag.widen import Width

# The metadata of the base that the writer makes anew.
_WRITTEN = ("GGUF.", "general.architecture")
_AT_ONCE = 12  # tensors: those of a layer


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


def adapt(
    base: Path, adapter: Path, out: Path, quantization: str, done: Callable[[int], None], *, multiple: int = 0
) -> None:
    """Write to `out` the GGUF model `base` with `adapter` added; every adapted matrix becomes `quantization`.

    `quantization` is a type that the gguf package can write, such as Q4_0 or Q8_0, or Q6_K; all else stays as it is in
    the base. Where its rows are no `multiple` of so many, by default of the type's block, the model is made wider
    (`rag.widen`), and all matrices become `quantization` but the embedding, of which a prompt uses few rows. `done` is
    told the bytes written since the last call. Raises `ModelDamaged` where the two do not fit.
    """
    from gguf import GGUFReader, GGUFWriter

    model = GGUFReader(base)
    pairs = read_pairs(adapter)
    if unknown := sorted(pairs.keys() - {tensor.name for tensor in model.tensors}):
        raise ModelDamaged(f"the adapter {adapter.name} does not fit {base.name}, which has no {unknown[0]}")
    _check_shapes(model, pairs)
    recipe = _Recipe(model, pairs, quantization, multiple)
    writer = GGUFWriter(out, _architecture(model))
    _copy_metadata(model, writer, recipe.width)
    for tensor in model.tensors:  # every tensor's shape and type come before the first byte of data
        writer.add_tensor_info(tensor.name, *recipe.announced(tensor))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        # NumPy leaves the interpreter to others meanwhile; a few at once keep to a few tensors' memory.
        with ThreadPoolExecutor(available_cores()) as pool:
            for at in range(0, len(model.tensors), _AT_ONCE):
                for data in pool.map(recipe.data, model.tensors[at : at + _AT_ONCE]):
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


class _Recipe:
    """What becomes of each tensor of a base model."""

    def __init__(self, model: Any, pairs: dict[str, Pair], quantization: str, multiple: int) -> None:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        self._pairs = pairs
        self._wanted = GGMLQuantizationType[quantization]
        multiple = multiple or GGML_QUANT_SIZES[self._wanted][0]
        rows = [int(tensor.shape[0]) for tensor in model.tensors if tensor.name in pairs]
        self.width = Width.of(model, multiple) if any(length % multiple for length in rows) else None

    def announced(self, tensor: Any) -> tuple[tuple[int, ...], Any, int, Any]:
        """Return the shape, the NumPy type, the bytes and the GGUF type of what `data` will return."""
        from gguf.quants import quant_shape_to_byte_shape

        shape = tuple(int(n) for n in reversed(tensor.shape))
        if self.width is not None:
            shape = self.width.shape(tensor.name, shape)
        kind = self._wanted if self._is_made(tensor) else tensor.tensor_type
        if tensor.data.dtype == np.uint8 or self._is_made(tensor):
            size = quant_shape_to_byte_shape(shape, kind)
            return size, np.dtype(np.uint8), int(np.prod(size)), kind
        return shape, tensor.data.dtype, int(np.prod(shape)) * tensor.data.dtype.itemsize, kind

    def data(self, tensor: Any) -> Any:
        """Return the tensor as it is written."""
        if self._is_made(tensor):
            return self._quantized(self._weights(tensor))
        if self.width is None:
            return tensor.data
        if tensor.data.ndim == 1:
            return self.width.tensor(tensor.name, tensor.data)
        # A block of zero bytes is one of zeros, in every type.
        (rows, old), (_, new) = tensor.data.shape, self.announced(tensor)[0]
        return np.concatenate([tensor.data, np.zeros((rows, new - old), tensor.data.dtype)], axis=1)

    def _is_made(self, tensor: Any) -> bool:
        widened = self.width is not None and tensor.data.ndim == 2 and tensor.name != "token_embd.weight"
        return widened or tensor.name in self._pairs

    def _weights(self, tensor: Any) -> FloatArray:
        from gguf.quants import dequantize

        weights = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        if tensor.name in self._pairs:
            weights = weights + self._pairs[tensor.name].delta()
        return weights if self.width is None else self.width.tensor(tensor.name, weights)

    def _quantized(self, weights: FloatArray) -> Any:
        from gguf import GGMLQuantizationType
        from gguf.quants import quantize

        return q6_k(weights) if self._wanted == GGMLQuantizationType.Q6_K else quantize(weights, self._wanted)


def _architecture(model: Any) -> str:
    field = model.get_field("general.architecture")
    return str(field.contents()) if field else ""


def _copy_metadata(model: Any, writer: Any, width: Width | None) -> None:
    from gguf import GGUFValueType

    for field in model.fields.values():
        if not field.name.startswith(_WRITTEN):
            kind = field.types[0]
            element = field.types[-1] if kind == GGUFValueType.ARRAY else None
            value = field.contents()
            if width is not None:
                value = width.metadata(field.name, value)
            writer.add_key_value(field.name, value, kind, sub_type=element)


def _check_shapes(model: Any, pairs: dict[str, Pair]) -> None:
    for tensor in model.tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        pair = pairs.get(tensor.name)
        if pair is not None and (pair.b_or.shape[0], pair.a_rd.shape[1]) != shape:
            raise ModelDamaged(f"the adapter does not fit the base: {tensor.name} is {shape} there")
