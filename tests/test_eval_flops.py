"""Operations by hand, and the shape of a GGUF file written here."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from eval.flops import Architecture, Tensor, architectures, question_flops, read_architecture, read_tensors


def write_gguf(path: Path, *, tied: bool = True, head: int | None = None) -> Path:
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(8)
    writer.add_head_count(4)
    if head is not None:
        writer.add_key_length(head)
    writer.add_token_list(["a", "", "word", "\u00e9"])
    writer.add_token_scores([0.1, 0.2, 0.3, 0.4])
    writer.add_tensor("token_embd.weight", np.zeros((10, 8), dtype=np.float32))
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((8, 8), dtype=np.float32))
    if not tied:
        writer.add_tensor("output.weight", np.zeros((10, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_every_new_token_passes_every_weight() -> None:
    shape = Architecture(parameters=1000)
    assert question_flops(shape, prompt=10, cached=4, completion=2) == 2 * 1000 * 8
    assert question_flops(shape, prompt=0, cached=0, completion=0) == 0


def test_attention_grows_with_the_position() -> None:
    shape = Architecture(parameters=1000, layers=2, width=8)
    # Positions 1 to 3: 1 + 2 + 3 = 6, each 4 x 2 layers x 8 wide.
    assert question_flops(shape, prompt=2, cached=0, completion=1) == 2 * 1000 * 3 + 4 * 2 * 8 * 6
    # With 2 of 3 at hand, position 3 alone remains.
    assert question_flops(shape, prompt=3, cached=2, completion=0) == 2 * 1000 + 4 * 2 * 8 * 3


def test_the_shape_of_a_file(tmp_path: Path) -> None:
    # 10 x 8 tied embeddings and 8 x 8: 144 weights that every token passes.
    assert read_architecture(write_gguf(tmp_path / "a.gguf")) == Architecture(parameters=144, layers=2, width=8)
    # A separate output layer: the input embeddings are looked up, not multiplied.
    assert read_architecture(write_gguf(tmp_path / "b.gguf", tied=False)).parameters == 144
    # Heads wider than the embedding shared among them.
    assert read_architecture(write_gguf(tmp_path / "c.gguf", head=4)).width == 16


def test_the_tensors_of_a_file(tmp_path: Path) -> None:
    tensors = read_tensors(write_gguf(tmp_path / "a.gguf"))
    assert tensors == {"token_embd.weight": Tensor(80, 320, 2), "blk.0.attn_q.weight": Tensor(64, 256, 2)}
    with pytest.raises(ValueError, match="no GGUF"):
        read_tensors(tmp_path / "missing.gguf")


def test_what_is_no_weights_is_refused(tmp_path: Path) -> None:
    for name, content in (("a", b""), ("b", b"not a model, whatever its name says" * 9)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="no GGUF"):
            read_architecture(tmp_path / name)
    with pytest.raises(ValueError, match="no GGUF"):
        read_architecture(tmp_path / "missing")


def test_a_file_cut_within_its_vocabulary_is_refused(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole").read_bytes()
    cut = whole.index(b"word") + 2
    (tmp_path / "cut").write_bytes(whole[:cut])
    with pytest.raises(ValueError, match="no GGUF"):
        read_architecture(tmp_path / "cut")


def test_a_shape_is_read_once_and_kept_with_the_run(tmp_path: Path) -> None:
    weights = write_gguf(tmp_path / "weights")
    out = tmp_path / "out"
    shape = Architecture(parameters=144, layers=2, width=8)
    assert architectures(out, ["m", "gone"], lambda name: weights if name == "m" else None) == {"m": shape}
    weights.unlink()
    assert architectures(out, ["m"], lambda name: None) == {"m": shape}
    (out / "models.json").write_text("[1, 2")
    assert architectures(out, ["m"], lambda name: None) == {}


def test_a_file_of_ones_own_is_read_anew(tmp_path: Path) -> None:
    own = write_gguf(tmp_path / "own.gguf")
    assert architectures(tmp_path, [str(own)], Path)[str(own)].width == 8
    write_gguf(own, head=4)
    assert architectures(tmp_path, [str(own)], Path)[str(own)].width == 16
