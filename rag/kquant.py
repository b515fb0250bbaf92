"""Weights in 6 bits, in llama.cpp's format Q6_K, which the gguf package reads and does not write.

A block of 256 weights is 16 groups of 16. A weight is d * s * (q - 32): d, a float16, for the block, s, of 8 bits, for
the group, q of 6 bits. That is 210 bytes, in the order of `block_q6_K` of ggml. Of the same bits on every machine: all
is done element by element in float32, sums in one order.
"""

import numpy as np
import numpy.typing as npt

from rag.protocols import FloatArray

BLOCK = 256
_GROUP = 16
_BLOCKS_AT_ONCE = 1024  # a megabyte of weights: what is worked on stays in the processor's cache


def q6_k(weights_oi: FloatArray) -> npt.NDArray[np.uint8]:
    """Return a matrix `(out, in)` as bytes `(out, in / 256 * 210)`; `in` must be a multiple of 256."""
    rows, columns = weights_oi.shape
    assert columns % BLOCK == 0
    blocks_ngw = np.ascontiguousarray(weights_oi, np.float32).reshape(-1, BLOCK // _GROUP, _GROUP)
    parts = [_pack(blocks_ngw[at : at + _BLOCKS_AT_ONCE]) for at in range(0, len(blocks_ngw), _BLOCKS_AT_ONCE)]
    return np.concatenate(parts).reshape(rows, -1)


def _pack(blocks_ngw: FloatArray) -> npt.NDArray[np.uint8]:
    steps_ng = _best_steps(blocks_ngw)
    largest_n = _of_largest_magnitude(steps_ng)
    d_n = (largest_n / np.float32(-128)).astype(np.float16)
    scales_ng = np.clip(np.rint(_ratio(steps_ng, d_n.astype(np.float32)[:, None])), -128, 127)
    used_ng = d_n.astype(np.float32)[:, None] * scales_ng
    codes_ngw = np.clip(np.rint(blocks_ngw * _ratio(np.float32(1), used_ng)[..., None]), -32, 31) + 32
    # A half of the block, 128 weights, is four runs of 32: low bits of two runs share a byte, high ones of all four.
    runs_nhrw = codes_ngw.astype(np.uint8).reshape(-1, 2, 4, 32)
    low, high = runs_nhrw & 15, runs_nhrw >> 4
    low_nhb = np.concatenate([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], axis=-1)
    high_nhb = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    count = len(blocks_ngw)
    return np.concatenate(
        [
            low_nhb.reshape(count, -1),
            high_nhb.reshape(count, -1),
            scales_ng.astype(np.int8).view(np.uint8),
            d_n.astype("<f2").view(np.uint8).reshape(count, 2),
        ],
        axis=-1,
    )


def _best_steps(blocks_ngw: FloatArray) -> FloatArray:
    """Return for each group `(n, g)` the step that its weights are multiples of: of least error, large ones first.

    The largest weight is rounded to -32; the step is then fitted to what all were rounded to, each error counted by the
    weight's square, as ggml's own quantization does.
    """
    codes_ngw = blocks_ngw * _ratio(np.float32(-32), _of_largest_magnitude(blocks_ngw))[..., None]
    codes_ngw = np.clip(np.rint(codes_ngw), -32, 31)
    product_ngw = blocks_ngw * codes_ngw
    importance_ngw = blocks_ngw * blocks_ngw
    above_ng = _sum_of_16(importance_ngw * product_ngw)
    below_ng = _sum_of_16(importance_ngw * codes_ngw * codes_ngw)
    return _ratio(above_ng, below_ng)


def _of_largest_magnitude(values: FloatArray) -> FloatArray:
    """Return of the last axis the value that is farthest from 0, with its sign."""
    high, low = values.max(axis=-1), values.min(axis=-1)
    farthest: FloatArray = np.where(high > -low, high, low)
    return farthest


def _ratio(above: FloatArray | np.float32, below: FloatArray) -> FloatArray:
    """Return the quotient, 0 where there is nothing to divide by."""
    return np.where(below == 0, np.float32(0), above / np.where(below == 0, np.float32(1), below))


def _sum_of_16(values_ngw: FloatArray) -> FloatArray:
    """Return the sums of the last axis, added in halves: NumPy's own order depends on the processor."""
    while values_ngw.shape[-1] > 1:
        half = values_ngw.shape[-1] // 2
        values_ngw = values_ngw[..., :half] + values_ngw[..., half:]
    return values_ngw[..., 0]
