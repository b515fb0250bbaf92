"""A GGUF file's weights as float32, through llama.cpp's own functions: its header in a moment, its types at C's pace.

The gguf package reads each of 150,000 tokens of the vocabulary in Python (seconds), and widens Q6_K in ten passes.
"""

import ctypes
import mmap
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rag.errors import ModelLoadFailed
from rag.protocols import FloatArray

_FLOAT32 = 0  # enum ggml_type
_STEM = {"win32": "ggml-base.dll", "darwin": "libggml-base.dylib"}


class _Traits(ctypes.Structure):
    """The beginning of struct ggml_type_traits."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("block", ctypes.c_int64),  # weights that share a scale
        ("interleave", ctypes.c_int64),
        ("bytes", ctypes.c_size_t),  # of a block
        ("quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


class _Init(ctypes.Structure):
    """struct gguf_init_params."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))


class _Tensor(NamedTuple):
    kind: int
    bytes_n: npt.NDArray[np.uint8]


class Weights:
    """An opened GGUF file, mapped into memory. Raises `ModelLoadFailed` where llama.cpp cannot read its header."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ggml = _library()
        self._header = self._ggml.gguf_init_from_file(os.fsencode(path), _Init(no_alloc=True, context=None))
        if not self._header:
            raise ModelLoadFailed(f"llama.cpp cannot read the header of {path}")
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._tensors = self._find_tensors(np.frombuffer(mapped, np.uint8))

    def keys(self) -> list[str]:
        """Return the names of the metadata."""
        count = self._ggml.gguf_get_n_kv(self._header)
        return [self._ggml.gguf_get_key(self._header, number).decode() for number in range(count)]

    def text(self, key: str) -> str:
        """Return a text of the metadata."""
        return str(self._value(key, self._ggml.gguf_get_val_str).decode())

    def whole(self, key: str) -> int:
        """Return a whole number of the metadata."""
        return int(self._value(key, self._ggml.gguf_get_val_u32))

    def number(self, key: str) -> float:
        """Return a floating-point number of the metadata."""
        return float(self._value(key, self._ggml.gguf_get_val_f32))

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        return name in self._tensors

    def values(self, name: str) -> FloatArray:
        """Return all weights of a tensor, `(n,)`, the rows of a matrix one after the other."""
        kind, bytes_n = self._tensor(name)
        return self._widened(kind, bytes_n)

    def rows(self, name: str, width: int, rows_n: npt.NDArray[np.int32]) -> FloatArray:
        """Return rows `(n, width)` of a matrix."""
        kind, bytes_n = self._tensor(name)
        row = bytes_n.reshape(-1, self._row_bytes(kind, width))
        return self._widened(kind, np.ascontiguousarray(row[rows_n])).reshape(len(rows_n), width)

    def close(self) -> None:
        """Free the header; the mapping goes with the last array."""
        self._ggml.gguf_free(self._header)
        self._tensors = {}

    def _find_tensors(self, file_n: npt.NDArray[np.uint8]) -> dict[str, _Tensor]:
        ggml, header = self._ggml, self._header
        start = ggml.gguf_get_data_offset(header)
        found = {}
        for number in range(ggml.gguf_get_n_tensors(header)):
            begin = start + ggml.gguf_get_tensor_offset(header, number)
            end = begin + ggml.gguf_get_tensor_size(header, number)
            if end > len(file_n):
                raise ModelLoadFailed(
                    f"{self._path} is cut short", hint="`smallhold models verify` checks the weights."
                )
            name = ggml.gguf_get_tensor_name(header, number).decode()
            found[name] = _Tensor(ggml.gguf_get_tensor_type(header, number), file_n[begin:end])
        return found

    def _tensor(self, name: str) -> _Tensor:
        if name not in self._tensors:
            raise ModelLoadFailed(f"{self._path} has no {name}")
        return self._tensors[name]

    def _value(self, key: str, read: Callable[[Any, int], Any]) -> Any:
        number = self._ggml.gguf_find_key(self._header, key.encode())
        if number < 0:
            raise ModelLoadFailed(f"{self._path} does not say its {key}")
        return read(self._header, number)

    def _row_bytes(self, kind: int, width: int) -> int:
        traits = self._ggml.ggml_get_type_traits(kind).contents
        return int(width // traits.block * traits.bytes)

    def _widened(self, kind: int, bytes_n: npt.NDArray[np.uint8]) -> FloatArray:
        if kind == _FLOAT32:
            return bytes_n.reshape(-1).view(np.float32)
        traits = self._ggml.ggml_get_type_traits(kind).contents
        values_n = np.empty(bytes_n.size // traits.bytes * traits.block, np.float32)
        traits.to_float(bytes_n.ctypes.data, values_n.ctypes.data, values_n.size)
        return values_n


def _library() -> Any:
    """Return llama.cpp's base library, of the build that llama-cpp-python brings, with the types of what is called."""
    spec = find_spec("llama_cpp")
    folder = Path(spec.origin).parent / "lib" if spec and spec.origin else Path()
    try:
        ggml = ctypes.CDLL(str(folder / _STEM.get(sys.platform, "libggml-base.so")))
        for name, result, arguments in (
            ("ggml_get_type_traits", ctypes.POINTER(_Traits), (ctypes.c_int,)),
            ("gguf_init_from_file", ctypes.c_void_p, (ctypes.c_char_p, _Init)),
            ("gguf_free", None, (ctypes.c_void_p,)),
            ("gguf_get_n_kv", ctypes.c_int64, (ctypes.c_void_p,)),
            ("gguf_get_key", ctypes.c_char_p, (ctypes.c_void_p, ctypes.c_int64)),
            ("gguf_find_key", ctypes.c_int64, (ctypes.c_void_p, ctypes.c_char_p)),
            ("gguf_get_val_str", ctypes.c_char_p, (ctypes.c_void_p, ctypes.c_int64)),
            ("gguf_get_val_u32", ctypes.c_uint32, (ctypes.c_void_p, ctypes.c_int64)),
            ("gguf_get_val_f32", ctypes.c_float, (ctypes.c_void_p, ctypes.c_int64)),
            ("gguf_get_data_offset", ctypes.c_size_t, (ctypes.c_void_p,)),
            ("gguf_get_n_tensors", ctypes.c_int64, (ctypes.c_void_p,)),
            ("gguf_get_tensor_offset", ctypes.c_size_t, (ctypes.c_void_p, ctypes.c_int64)),
            ("gguf_get_tensor_size", ctypes.c_size_t, (ctypes.c_void_p, ctypes.c_int64)),
            ("gguf_get_tensor_name", ctypes.c_char_p, (ctypes.c_void_p, ctypes.c_int64)),
            ("gguf_get_tensor_type", ctypes.c_int, (ctypes.c_void_p, ctypes.c_int64)),
        ):
            function = getattr(ggml, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise ModelLoadFailed(f"llama.cpp's base library cannot be used: {error}") from error
    return ggml
