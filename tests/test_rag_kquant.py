"""What is written in 6 bits, read back by the gguf package."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from rag.kquant import BLOCK, q6_k
from rag.protocols import FloatArray


def read_back(weights: FloatArray) -> FloatArray:
    packed = q6_k(weights)
    assert packed.shape == (len(weights), weights.shape[1] // BLOCK * 210)
    return np.asarray(dequantize(packed, GGMLQuantizationType.Q6_K), np.float32)


def test_weights_that_six_bits_hold_come_back_as_they_were() -> None:
    random = np.random.default_rng(0)
    scales = random.integers(-127, 128, size=(3, 4, 16, 1))
    scales[:, :, 5] = -128
    codes = random.integers(-31, 32, size=(3, 4, 16, 16))
    codes[..., 3] = -32
    weights = (2.0**-9 * scales * codes).astype(np.float32).reshape(3, 4 * BLOCK)
    assert np.array_equal(read_back(weights), weights)


@pytest.mark.parametrize("size", [1e-2, 1.0, 300.0])
def test_the_error_is_a_fortieth_of_the_spread(size: float) -> None:
    weights = (np.random.default_rng(1).normal(size=(40, 2 * BLOCK)) * size).astype(np.float32)
    error = read_back(weights) - weights
    assert np.sqrt((error**2).mean()) < weights.std() / 40
    # Every weight is within a step of its group, a thirty-second of the group's largest.
    largest = np.abs(weights).reshape(-1, 16).max(axis=1)
    assert (np.abs(error).reshape(-1, 16).max(axis=1) < 1.5 / 32 * largest).all()


def test_zeros_stay_zeros_also_beside_others() -> None:
    weights = np.zeros((2, 2 * BLOCK), np.float32)
    weights[1, :BLOCK] = np.linspace(-1, 1, BLOCK)
    weights[1, 40:56] = 0
    back = read_back(weights)
    assert not back[0].any()
    assert not back[1, 40:56].any()
    assert not back[1, BLOCK:].any()
    assert np.abs(back - weights).max() < 0.03


def test_one_large_weight_leaves_its_group_alone() -> None:
    weights = np.full((1, BLOCK), 0.01, np.float32)
    weights[0, 17] = -5.0
    back = read_back(weights)
    assert back[0, 17] == pytest.approx(-5.0, rel=0.01)
    assert np.abs(back[0, :16] - 0.01).max() < 0.02  # the scales of the block are 128th parts of the largest


def test_large_matrices_are_the_same_in_pieces() -> None:
    weights = np.random.default_rng(2).normal(size=(1500, BLOCK)).astype(np.float32)
    assert np.array_equal(q6_k(weights), np.concatenate([q6_k(weights[:700]), q6_k(weights[700:])]))
