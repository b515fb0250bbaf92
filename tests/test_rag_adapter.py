from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize

from rag.adapter import adapt
from rag.errors import ModelDamaged

RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(64, 96)).astype(np.float32)
A = RANDOM.normal(size=(4, 96)).astype(np.float32)
B = RANDOM.normal(size=(64, 4)).astype(np.float32)
NORM = np.arange(96, dtype=np.float32)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    writer = GGUFWriter(tmp_path / "base.gguf", "qwen2")
    writer.add_string("general.name", "base")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_float32("qwen2.rope.freq_base", 1000.0)
    writer.add_tensor(
        "blk.0.attn_q.weight", quantize(WEIGHTS, GGMLQuantizationType.Q8_0), raw_dtype=GGMLQuantizationType.Q8_0
    )
    writer.add_tensor("output_norm.weight", NORM)
    return finish(writer, tmp_path / "base.gguf")


def finish(writer: GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def adapter(path: Path, name: str = "blk.0.attn_q.weight", a: np.ndarray = A, b: np.ndarray = B) -> Path:  # type: ignore[type-arg]
    writer = GGUFWriter(path, "qwen2")
    writer.add_type("adapter")
    writer.add_float32("adapter.lora.alpha", 8.0)
    writer.add_tensor(f"{name}.lora_a", a)
    writer.add_tensor(f"{name}.lora_b", b)
    return finish(writer, path)


def test_the_low_rank_matrices_are_added_and_the_rest_is_kept(base: Path, tmp_path: Path) -> None:
    written: list[int] = []
    adapt(base, adapter(tmp_path / "a.gguf"), tmp_path / "out.gguf", "Q8_0", written.append)
    reader = GGUFReader(tmp_path / "out.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    changed = tensors["blk.0.attn_q.weight"]
    # alpha 8 over rank 4: twice the product. Q8_0 steps are 1/127 of the largest of 32 weights, at most about 0.15.
    wanted = dequantize(quantize(WEIGHTS, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0) + 2 * B @ A
    assert np.abs(dequantize(changed.data, changed.tensor_type) - wanted).max() < 0.1
    assert np.abs(2 * B @ A).max() > 5
    assert np.array_equal(tensors["output_norm.weight"].data, NORM)
    fields = {name: reader.fields[name].contents() for name in ("general.architecture", "general.name")}
    assert fields == {"general.architecture": "qwen2", "general.name": "base"}
    assert reader.fields["tokenizer.ggml.tokens"].contents() == ["a", "b"]
    assert reader.fields["qwen2.rope.freq_base"].contents() == 1000.0
    assert sum(written) == sum(tensor.n_bytes for tensor in reader.tensors)


def test_the_result_is_the_same_bytes_each_time(base: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        adapt(base, adapter(tmp_path / "a.gguf"), tmp_path / name, "Q4_0", lambda n: None)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_an_adapter_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    stranger = adapter(tmp_path / "a.gguf", name="blk.7.attn_q.weight")
    with pytest.raises(ModelDamaged, match=r"has no blk\.7"):
        adapt(base, stranger, tmp_path / "out.gguf", "Q8_0", lambda n: None)
    wide = adapter(tmp_path / "b.gguf", a=np.ones((4, 32), np.float32))
    with pytest.raises(ModelDamaged, match="does not fit"):
        adapt(base, wide, tmp_path / "out.gguf", "Q8_0", lambda n: None)


def test_a_model_is_no_adapter(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelDamaged, match="no LoRA adapter"):
        adapt(base, base, tmp_path / "out.gguf", "Q8_0", lambda n: None)


def test_rows_that_are_no_blocks_are_made_wider(tmp_path: Path) -> None:
    """Six heads of 16 in two groups: 96 wide, and blocks of 256."""
    named = ("token_embd", "blk.0.attn_q", "blk.0.ffn_gate")
    five_bits = quantize(np.tile(WEIGHTS, (2, 1))[:96], GGMLQuantizationType.Q5_0)
    writer = GGUFWriter(tmp_path / "base.gguf", "qwen2")
    writer.add_embedding_length(96)
    writer.add_head_count(6)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    for name in named:
        writer.add_tensor(f"{name}.weight", five_bits, raw_dtype=GGMLQuantizationType.Q5_0)
    writer.add_tensor("output_norm.weight", NORM)
    base = finish(writer, tmp_path / "base.gguf")
    written: list[int] = []
    both = adapter(tmp_path / "a.gguf", b=np.tile(B, (2, 1))[:96])
    adapt(base, both, tmp_path / "out.gguf", "Q6_K", written.append)

    reader = GGUFReader(tmp_path / "out.gguf")
    made = {tensor.name.removesuffix(".weight"): tensor for tensor in reader.tensors}
    weights = {name: dequantize(made[name].data, made[name].tensor_type) for name in named}
    was = dequantize(five_bits, GGMLQuantizationType.Q5_0)
    # What a prompt looks up row by row stays what it was; products are made of 6 bits, adapted or not.
    assert [made[name].tensor_type.name for name in named] == ["Q5_0", "Q6_K", "Q6_K"]
    assert np.array_equal(weights["token_embd"], np.pad(was, ((0, 0), (0, 160))))
    assert weights["blk.0.ffn_gate"].shape == (96, 256)
    assert np.abs(weights["blk.0.ffn_gate"][:, :96] - was).max() < 0.1
    wanted = (was + 2 * np.tile(B, (2, 1))[:96] @ A).reshape(2, 48, 96)
    heads = weights["blk.0.attn_q"].reshape(2, 128, 256)
    assert np.abs(heads[:, :48, :96] - wanted).max() < 0.7  # of weights up to 20
    assert not heads[:, 48:].any()
    assert not heads[:, :, 96:].any()
    assert np.allclose(made["output_norm"].data[:96], NORM * (96 / 256) ** 0.5)
    said = {
        name: reader.fields[f"qwen2.{name}"].contents()
        for name in ("embedding_length", "attention.head_count", "attention.head_count_kv")
    }
    assert said == {"embedding_length": 256, "attention.head_count": 16, "attention.head_count_kv": 2}
    assert reader.fields["qwen2.attention.layer_norm_rms_epsilon"].contents() == pytest.approx(1e-5 * 96 / 256)
    assert sum(written) == sum(tensor.n_bytes for tensor in reader.tensors)
