"""A model made wider computes what it computed before."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rag.errors import ModelDamaged
from rag.protocols import FloatArray
from rag.widen import Width

# A model of 6 heads of 4, in 2 groups: 24 wide, and 48 inside.
HEADS, GROUPS, SIZE, WIDTH, INNER, WORDS, EPSILON = 6, 2, 4, 24, 48, 11, 1e-2


def fields(**changes: int) -> Any:
    values = {
        "qwen2.embedding_length": WIDTH,
        "qwen2.attention.head_count": HEADS,
        "qwen2.attention.head_count_kv": GROUPS,
        **{f"qwen2.{name}": value for name, value in changes.items()},
    }
    contents = {name: SimpleNamespace(contents=lambda value=value: value) for name, value in values.items()}
    return SimpleNamespace(get_field=contents.get)


def model() -> dict[str, FloatArray]:
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (WORDS, WIDTH),
        "blk.0.attn_norm.weight": (WIDTH,),
        "blk.0.attn_q.weight": (WIDTH, WIDTH),
        "blk.0.attn_q.bias": (WIDTH,),
        "blk.0.attn_k.weight": (GROUPS * SIZE, WIDTH),
        "blk.0.attn_k.bias": (GROUPS * SIZE,),
        "blk.0.attn_v.weight": (GROUPS * SIZE, WIDTH),
        "blk.0.attn_v.bias": (GROUPS * SIZE,),
        "blk.0.attn_output.weight": (WIDTH, WIDTH),
        "blk.0.ffn_norm.weight": (WIDTH,),
        "blk.0.ffn_gate.weight": (INNER, WIDTH),
        "blk.0.ffn_up.weight": (INNER, WIDTH),
        "blk.0.ffn_down.weight": (WIDTH, INNER),
        "output_norm.weight": (WIDTH,),
        "output.weight": (WORDS, WIDTH),
    }
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def logits(tensors: dict[str, FloatArray], words: list[int], *, heads: int, epsilon: float) -> FloatArray:
    """One layer of Qwen2 without positions, in NumPy."""

    def weight(name: str) -> FloatArray:
        return tensors[f"blk.0.{name}.weight"].astype(np.float64)

    def normed(x_tc: FloatArray, scale_c: FloatArray) -> FloatArray:
        return x_tc / np.sqrt((x_tc**2).mean(axis=-1, keepdims=True) + epsilon) * scale_c

    def projected(x_tc: FloatArray, name: str, parts: int) -> FloatArray:
        out = x_tc @ weight(name).T + tensors[f"blk.0.{name}.bias"]
        return out.reshape(len(x_tc), parts, SIZE).swapaxes(0, 1)

    x_tc = tensors["token_embd.weight"][words].astype(np.float64)
    inside_tc = normed(x_tc, weight("attn_norm"))
    q_hts = projected(inside_tc, "attn_q", heads)
    k_hts, v_hts = (projected(inside_tc, name, GROUPS).repeat(heads // GROUPS, axis=0) for name in ("attn_k", "attn_v"))
    weights_htt = np.exp(q_hts @ k_hts.swapaxes(1, 2) / np.sqrt(SIZE))
    weights_htt /= weights_htt.sum(axis=-1, keepdims=True)
    x_tc = x_tc + (weights_htt @ v_hts).swapaxes(0, 1).reshape(len(words), -1) @ weight("attn_output").T
    inside_tc = normed(x_tc, weight("ffn_norm"))
    gate_ti = inside_tc @ weight("ffn_gate").T
    inner_ti = gate_ti / (1 + np.exp(-gate_ti)) * (inside_tc @ weight("ffn_up").T)
    x_tc = x_tc + inner_ti @ weight("ffn_down").T
    return np.asarray(normed(x_tc, tensors["output_norm.weight"]) @ tensors["output.weight"].T.astype(np.float64))


def test_the_wider_model_says_the_same() -> None:
    tensors, words = model(), [3, 1, 4, 1, 5]
    width = Width.of(fields(), 32)
    wide = {name: width.tensor(name, values) for name, values in tensors.items()}
    assert {name: values.shape for name, values in wide.items()} == {
        name: width.shape(name, values.shape) for name, values in tensors.items()
    }
    assert wide["blk.0.ffn_gate.weight"].shape == (INNER, 32)
    heads, epsilon = (
        width.metadata(f"qwen2.attention.{name}", value)
        for name, value in (("head_count", HEADS), ("layer_norm_rms_epsilon", EPSILON))
    )
    assert (heads, width.metadata("qwen2.embedding_length", WIDTH)) == (8, 32)
    before = logits(tensors, words, heads=HEADS, epsilon=EPSILON)
    after = logits(wide, words, heads=heads, epsilon=epsilon)
    assert np.abs(before).max() > 1
    assert np.allclose(after, before, atol=1e-5)


def test_other_metadata_stay() -> None:
    width = Width.of(fields(), 32)
    assert width.metadata("qwen2.attention.head_count_kv", GROUPS) == GROUPS
    assert width.metadata("general.name", "reader") == "reader"


def test_what_cannot_be_widened_is_refused() -> None:
    with pytest.raises(ModelDamaged, match="Qwen2"):
        Width.of(SimpleNamespace(get_field=lambda name: None), 32)
    with pytest.raises(ModelDamaged, match="shared among 3"):
        Width.of(fields(**{"attention.head_count_kv": 3}), 32)
