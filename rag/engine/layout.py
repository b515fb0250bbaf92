"""How llama.cpp lays out a saved sequence, so that keys and values computed elsewhere can be put into its cache.

    magic, sequence | streams = 1 | cells | for each cell: position, 1, sequence | transposed = 0 | layers
    for each layer: type, bytes of a row, the keys of all cells | then the same of the values

all numbers of 32 bits but the bytes of a row, which have 64. It is no interface of llama.cpp's: a layout is read off a
state that this build saved, and refused where a single byte of it is not as expected.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

State = npt.NDArray[np.uint8]
Half = npt.NDArray[np.float16]

_FLOAT16 = 1  # enum ggml_type
_HEAD, _CELL, _MIDDLE, _ROW = 12, 12, 8, 12  # bytes: before the number of cells, of each cell, after them, of a layer


def distance(found: Half, wanted: Half) -> tuple[float, float]:
    """Return how far keys and values are from those wanted: the length of the difference over the length of these."""
    keys, values = (
        float(np.linalg.norm(f.astype(np.float32) - w.astype(np.float32)) / np.linalg.norm(w.astype(np.float32)))
        for f, w in zip(found, wanted, strict=True)
    )
    return keys, values


class LayoutUnknown(Exception):
    """A state is not laid out as expected."""


class StateLayout(NamedTuple):
    """The layout of a context's states: what they begin with, their layers and the numbers of a token's keys in one."""

    head: bytes
    layers: int
    width: int

    @classmethod
    def of(cls, state_n: State, layers: int, width: int) -> "StateLayout":
        """Return the layout of a state of one sequence, every cell of which it has seen. Raises `LayoutUnknown`."""
        layout = cls(state_n[:_HEAD].tobytes(), layers, width)
        keys_values = layout.unpack(state_n)
        position = int(state_n[_HEAD + 4 :][:4].view(np.int32)[0])
        if layout.pack(keys_values, position).tobytes() != state_n.tobytes():
            raise LayoutUnknown("a state put together again is another one")
        return layout

    def unpack(self, state_n: State) -> Half:
        """Return keys and values `(2, layers, cells, width)` of a state. Raises `LayoutUnknown`."""
        if len(state_n) < _HEAD + 4:
            raise LayoutUnknown("a state is too short")
        cells = int(state_n[_HEAD : _HEAD + 4].view(np.uint32)[0])
        start = _HEAD + 4 + _CELL * cells + _MIDDLE
        row = _ROW + 2 * self.width * cells
        if len(state_n) != start + 2 * self.layers * row:
            raise LayoutUnknown(f"a state of {cells} tokens has {len(state_n)} bytes")
        rows = state_n[start:].reshape(2, self.layers, row)[..., _ROW:]
        return np.ascontiguousarray(rows).view(np.float16).reshape(2, self.layers, cells, self.width)

    def pack(self, keys_values: Half, position: int) -> State:
        """Return the state of tokens that begin at `position`; `keys_values` as `unpack` returns them."""
        cells = keys_values.shape[2]
        places = np.ones((cells, 3), np.int32)
        places[:, 0] = np.arange(position, position + cells)
        places[:, 2] = np.frombuffer(self.head, np.int32)[1]
        middle = np.array([0, self.layers], np.uint32)
        head = b"".join([self.head, np.uint32(cells).tobytes(), places.tobytes(), middle.tobytes()])
        rows_n = np.empty((2, self.layers, _ROW + 2 * self.width * cells), np.uint8)
        row = np.int32(_FLOAT16).tobytes() + np.uint64(2 * self.width).tobytes()
        rows_n[..., :_ROW] = np.frombuffer(row, np.uint8)
        rows_n[..., _ROW:] = keys_values.reshape(2, self.layers, -1).view(np.uint8)
        return np.concatenate([np.frombuffer(head, np.uint8), rows_n.reshape(-1)])
