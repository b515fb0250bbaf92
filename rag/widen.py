"""A model made wider by zeros, for kernels that take rows of a multiple of 256 alone.

Qwen's 0.5B is 896 wide, which is three and a half blocks of llama.cpp's K types. Without those its matrices fall to
types whose products take longer: of the same weights Q8_0 is read with at 141 tokens a second and Q6_K, 1024 wide, at
226 (docs/lab.md). Nothing is added to what the model computes: the further channels are 0 and stay 0, the further heads
see all alike and nothing takes up what they see.
"""

from typing import Any, NamedTuple

import numpy as np

from rag.errors import ModelDamaged
from rag.protocols import FloatArray


class Width(NamedTuple):
    """How wide a Qwen2 model is, and how wide it becomes. `heads` and their `size` go with the width."""

    old: int
    new: int
    size: int
    groups: int  # heads that share their keys and values: that many groups

    @classmethod
    def of(cls, model: Any, multiple: int) -> "Width":
        """Return what makes the rows of an opened GGUF model a multiple of so many. Raises `ModelDamaged`."""
        try:
            old, heads, groups = (
                int(model.get_field(f"qwen2.{name}").contents())
                for name in ("embedding_length", "attention.head_count", "attention.head_count_kv")
            )
        except AttributeError as error:
            raise ModelDamaged("only models of the Qwen2 architecture can be made wider") from error
        width = cls(old, -(-old // multiple) * multiple, old // heads, groups)
        if width.new % (width.size * groups):
            raise ModelDamaged(f"a width of {width.new} cannot be shared among {groups} groups of heads")
        return width

    def metadata(self, name: str, value: Any) -> Any:
        """Return what the wider model says instead of `value`."""
        if name == "qwen2.embedding_length":
            return self.new
        if name == "qwen2.attention.head_count":
            return self.new // self.size
        if name == "qwen2.attention.layer_norm_rms_epsilon":  # added to a mean, which now is one over more channels
            return value * self.old / self.new
        return value

    def shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that `tensor` gives a tensor of this name and shape."""
        kind = name.split(".")[-2]
        if kind == "attn_output":
            return self.new, self.new
        if kind == "attn_q":
            return (self.new,) * len(shape)
        if kind == "ffn_down":
            return self.new, shape[1]
        if kind in {"attn_k", "attn_v"} and len(shape) == 1:
            return shape
        return *shape[:-1], self.new

    def tensor(self, name: str, values: FloatArray) -> FloatArray:
        """Return the wider tensor: a matrix `(out, in)`, or what is added to or multiplied with all channels."""
        kind = name.split(".")[-2]
        if kind.endswith("norm"):  # by the root of the mean of squares, which the zeros make smaller
            return self._channels(values * np.float32(np.sqrt(self.old / self.new)))
        if kind == "attn_q":
            return self._heads(values if values.ndim == 1 else self._channels(values))
        if kind == "attn_output":
            return self._channels(self._heads(values.T)).T
        if kind == "ffn_down":
            return self._channels(values.T).T
        if kind in {"attn_k", "attn_v"} and values.ndim == 1:
            return values
        return self._channels(values)

    def _channels(self, values: FloatArray) -> FloatArray:
        """Add zeros to the last axis."""
        return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, self.new - self.old)])

    def _heads(self, values: FloatArray) -> FloatArray:
        """Add heads of zeros to the first axis, at the end of each group."""
        old, new = (length // (self.groups * self.size) for length in (self.old, self.new))
        apart = values.reshape(self.groups, old, self.size, *values.shape[1:])
        more = [(0, 0), (0, new - old)] + [(0, 0)] * (apart.ndim - 2)
        return np.pad(apart, more).reshape(self.new, *values.shape[1:])
