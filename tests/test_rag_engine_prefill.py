"""Prompts read in int8 beside llama.cpp's own reading, over a small Qwen2 model of random weights."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter, RopeScalingType

from benchmarks.prefill import measure
from rag.datatypes import Chunk, Sampling, ScoredChunk, Span
from rag.engine.context import Context, ContextFull, Part, PrefillStopped, Stopped
from rag.engine.generator import LlamaGenerator
from rag.engine.layout import Half, LayoutUnknown, StateLayout
from rag.engine.native import bindings, load_model
from rag.engine.prefill import Int8Prefill, open_prefill
from rag.engine.weights import Weights
from rag.errors import ModelLoadFailed
from rag.prompt import load_prompt
from rag.protocols import FloatArray
from rag.widen import Width
from tests.conftest import located
from tests.engine_fakes import until
from tests.gguf_fakes import qwen2_matrices

LAYERS, WIDE, SIZE, HEADS, GROUPS, INNER, TOKENS = 3, 256, 64, 4, 2, 384, 64
KEYS = GROUPS * SIZE
IDS = np.random.default_rng(7).integers(0, TOKENS, 60).astype(np.int32)


def write_model(
    path: Path, architecture: str = "qwen2", *, scaling: bool = False, width: int = WIDE, beyond: str = ""
) -> Path:
    """Write a model whose tokens stand for nothing, made wider by zeros; the tensor `beyond` is not all 0 there."""
    wider = Width(WIDE, width, SIZE, GROUPS)
    rng = np.random.default_rng(3)
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(width // SIZE)
    writer.add_head_count_kv(GROUPS)
    writer.add_layer_norm_rms_eps(wider.metadata("qwen2.attention.layer_norm_rms_epsilon", 1e-6))
    writer.add_rope_freq_base(10_000.0)
    if scaling:
        writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(TOKENS)

    def matrix(name: str, out: int, into: int) -> None:
        values = wider.tensor(name, rng.standard_normal((out, into)) / into**0.5)
        if name == beyond:
            values[-1, -1] = 1
        writer.add_tensor(name, values.astype(np.float16))

    def vector(name: str, values: FloatArray) -> None:
        writer.add_tensor(name, wider.tensor(name, values).astype(np.float32))

    matrix("token_embd.weight", TOKENS, WIDE)
    vector("output_norm.weight", np.ones(WIDE))
    for layer in range(LAYERS):
        for name, out, into in qwen2_matrices(WIDE, KEYS, INNER):
            matrix(f"blk.{layer}.{name}.weight", out, into)
        for name, width in (("attn_q", WIDE), ("attn_k", KEYS), ("attn_v", KEYS)):
            vector(f"blk.{layer}.{name}.bias", rng.standard_normal(width) / 4)
        for name in ("attn_norm", "ffn_norm"):
            vector(f"blk.{layer}.{name}.weight", 1 + rng.standard_normal(WIDE) / 4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class Opened:
    """As much of a `Model` as a context needs: the file has no chat template."""

    forgets_parts = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.llama = bindings()
        self.handle = load_model(self.llama, path)
        self.vocabulary: Any = type("Vocabulary", (), {"size": TOKENS})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("qwen2") / "tiny.gguf")


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Any]:
    opened = Opened(path)
    yield opened
    opened.llama.llama_model_free(opened.handle)


@pytest.fixture
def prefill(path: Path) -> Int8Prefill:
    try:
        return open_prefill(path)
    except ModelLoadFailed as error:
        pytest.skip(error.message)


@pytest.fixture
def plain(model: Any) -> Iterator[Context]:
    with closing(Context(model, cells=256, sequences=3)) as context:
        yield context


@pytest.fixture
def context(model: Any, prefill: Int8Prefill) -> Iterator[Context]:
    with closing(Context(model, cells=256, sequences=3, prefill=prefill)) as context:
        yield context


def error_of(found: Any, wanted: Any) -> float:
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def saved(context: Context, sequence: int = 0) -> Half:
    state_n = context.save(sequence)
    return StateLayout.of(state_n, LAYERS, KEYS).unpack(state_n)


def test_keys_and_values_are_those_of_llama_cpp(prefill: Int8Prefill, plain: Context) -> None:
    plain.read([Part(0, 0, IDS, 1)])
    wanted = saved(plain)
    found = prefill.read(IDS, None, lambda: False)
    assert found.shape == wanted.shape == (2, LAYERS, len(IDS), KEYS)
    assert error_of(found, wanted) < 0.03
    other = prefill.read(IDS[::-1].copy(), None, lambda: False)
    assert error_of(other, wanted) > 0.5  # the measure sees tokens in other places


def test_zeros_that_make_a_model_wider_are_not_multiplied(prefill: Int8Prefill, tmp_path: Path) -> None:
    wide = 384
    wanted = prefill.read(IDS, None, lambda: False)
    wider = open_prefill(write_model(tmp_path / "wider.gguf", width=wide))
    assert error_of(wider.read(IDS, None, lambda: False), wanted) < 0.01
    assert [len(layer.output.scale) for layer in wider._layers if layer.output] == [WIDE] * (LAYERS - 1)
    for name in ("attn_q", "attn_output", "ffn_up", "ffn_down"):
        with pytest.raises(ModelLoadFailed, match="layer 1 is wider"):
            open_prefill(write_model(tmp_path / f"{name}.gguf", width=wide, beyond=f"blk.1.{name}.weight"))


def test_a_token_is_read_alike_alone_and_among_others(prefill: Int8Prefill) -> None:
    whole = prefill.read(IDS, None, lambda: False)
    first = prefill.read(IDS[:23], None, lambda: False)
    rest = prefill.read(IDS[23:], first, lambda: False)
    assert error_of(np.concatenate([first, rest], axis=2), whole) < 0.01


def test_llama_cpp_goes_on_from_what_was_read(context: Context, plain: Context) -> None:
    for one in (context, plain):
        one.read([Part(0, 0, IDS[:30], 0)])
        one.share(0, 1, 30)
        one.read([Part(1, 30, IDS[30:], 1)])
    rows = [one.logits(len(IDS) - 31) for one in (context, plain)]
    assert error_of(*rows) < 0.05
    for one in (context, plain):
        one.read([Part(1, len(IDS), IDS[:1], 1)])
    assert error_of(context.logits(0), plain.logits(0)) < 0.05


def test_logits_are_found_by_the_place_in_the_batch(context: Context, plain: Context) -> None:
    parts = [Part(0, 0, IDS[:2], 2), Part(1, 0, IDS[:40], 3), Part(2, 0, IDS[40:], 1)]
    for one in (context, plain):
        one.read(parts)
    for row in (0, 1, 39, 40, 41, 61):
        assert error_of(context.logits(row), plain.logits(row)) < 0.05, row


def test_what_does_not_fit_leaves_the_sequence_as_it_was(model: Any, prefill: Int8Prefill) -> None:
    with closing(Context(model, cells=256, sequences=2, prefill=prefill)) as context:
        tokens_n = np.resize(IDS, 200)
        context.read([Part(0, 0, tokens_n, 0)])
        before = context.save(0).tobytes()
        with pytest.raises(ContextFull):
            context.read([Part(1, 0, tokens_n[:100], 1)])
        with pytest.raises(ContextFull):
            context.read([Part(1, 0, tokens_n[:30], 0), Part(0, 200, tokens_n[:60], 1)])
        assert context.save(0).tobytes() == before
        context.read([Part(1, 0, tokens_n[:40], 1)])


def test_without_free_cells_in_a_row_llama_cpp_reads(
    context: Context, plain: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells between those of others take what llama.cpp reads, and no state: it wants them side by side."""
    tokens_n = np.resize(IDS, 120)
    for one in (context, plain):
        for sequence in (0, 1):
            one.read([Part(sequence, 0, tokens_n, 0)])
        one.cut(0, 0)
        one.read([Part(2, 0, tokens_n[:90], 0)])
        one.cut(2, 70)
        one.cut(1, 100)
        one.read([Part(0, 0, tokens_n[:80], 1)])
    assert error_of(context.logits(79), plain.logits(79)) < 0.05
    monkeypatch.setattr(context, "restore", lambda sequence, state: False)
    for one in (context, plain):
        one.cut(0, 0)
        one.read([Part(0, 0, tokens_n[:70], 1)])
    assert error_of(context.logits(69), plain.logits(69)) < 0.005  # by llama.cpp itself


def test_a_stop_is_heard_between_layers(context: Context, prefill: Int8Prefill) -> None:
    context.read([Part(0, 0, IDS[:20], 1)])
    before = context.save(0).tobytes()
    asked: list[int] = []
    with pytest.raises(PrefillStopped):
        prefill.read(IDS, None, lambda: asked.append(1) or len(asked) == 2)  # type: ignore[func-returns-value]
    context.stop = True
    with pytest.raises(Stopped):
        context.read([Part(0, 20, IDS[20:], 1)])
    context.stop = False
    assert context.save(0).tobytes() == before
    context.read([Part(0, 20, IDS[20:], 1)])


def test_llama_cpp_reads_until_the_weights_are_made(
    model: Any, path: Path, prefill: Int8Prefill, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made, asked = threading.Event(), []
    load, read = Int8Prefill.load, Int8Prefill.read
    monkeypatch.setattr(Int8Prefill, "load", lambda self: (made.wait(), load(self)))
    monkeypatch.setattr(Int8Prefill, "read", lambda *args: (asked.append(1), read(*args))[1])
    with closing(Context(model, cells=256, sequences=1, prefill=open_prefill(path, later=True))) as context:
        context.read([Part(0, 0, IDS, 1)])
        assert not asked
        made.set()
        until(lambda: context._prefill.least == prefill.least)  # type: ignore[union-attr]
        context.clear()
        context.read([Part(0, 0, IDS, 1)])
        assert asked
    monkeypatch.setattr(Int8Prefill, "load", lambda self: (_ for _ in ()).throw(MemoryError("no room")))
    with closing(Context(model, cells=256, sequences=1, prefill=open_prefill(path, later=True))) as context:
        context.read([Part(0, 0, IDS, 1)])
    assert "prompts are not read in int8: no room" in caplog.text
    assert len(asked) == 1


def test_a_layout_that_is_not_known_is_refused(plain: Context) -> None:
    plain.read([Part(0, 0, IDS[:5], 1)])
    state_n = plain.save(0)
    layout = StateLayout.of(state_n, LAYERS, KEYS)
    assert layout.pack(layout.unpack(state_n), 0).tobytes() == state_n.tobytes()
    spoilt_n = state_n.copy()
    spoilt_n[12 + 4 + 5 * 12] ^= 1  # values laid out the other way
    for other_n in (state_n[:-1], state_n[:9], np.append(state_n, state_n[:1]), spoilt_n):
        with pytest.raises(LayoutUnknown):
            StateLayout.of(other_n, LAYERS, KEYS)
    with pytest.raises(LayoutUnknown):
        StateLayout.of(state_n, LAYERS + 1, KEYS)


def test_other_models_are_refused(tmp_path: Path, prefill: Int8Prefill) -> None:
    del prefill  # skips where the processor lacks what it takes
    with pytest.raises(ModelLoadFailed, match="only qwen2 models"):
        Int8Prefill(write_model(tmp_path / "other.gguf", "llama"))
    scaled = write_model(tmp_path / "scaled.gguf", scaling=True)
    with pytest.raises(ModelLoadFailed, match=r"a model with qwen2\.rope\.scaling\.type is not read"):
        Int8Prefill(scaled)
    (tmp_path / "none.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelLoadFailed, match="cannot read the header"):
        Int8Prefill(tmp_path / "none.gguf")
    whole = (tmp_path / "other.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelLoadFailed):
        Int8Prefill(tmp_path / "cut.gguf")


def test_the_benchmark_compares_the_two(plain: Context, context: Context, prefill: Int8Prefill) -> None:
    layout = StateLayout(b"", prefill.layers, prefill.width)
    row = measure({"llama.cpp": plain, "int8": context}, layout, IDS, 2)
    assert row["tokens"] == len(IDS)
    assert 0 < row["keys"] < 0.03 and 0 < row["values"] < 0.03
    for name in ("llama.cpp", "int8"):
        assert 0 < row[f"{name} least"] <= row[f"{name} median"] <= row[f"{name} most"]


def test_weights_are_read_by_rows_and_whole(path: Path) -> None:
    weights = Weights(path)
    whole = weights.values("token_embd.weight").reshape(TOKENS, WIDE)
    assert np.array_equal(weights.rows("token_embd.weight", WIDE, IDS), whole[IDS])
    assert whole.std() == pytest.approx(WIDE**-0.5, rel=0.05)
    assert "blk.0.attn_q.bias" in weights
    with pytest.raises(ModelLoadFailed, match=r"has no blk\.9"):
        weights.values("blk.9.attn_q.bias")
    with pytest.raises(ModelLoadFailed, match=r"does not say its qwen2\.none"):
        weights.whole("qwen2.none")
    weights.close()


@pytest.mark.model
def test_the_reader_finds_the_same_answers_as_likely(prefill: Int8Prefill) -> None:
    del prefill
    path, prompt = located("qwen2.5-coder-0.5b-reader").file, load_prompt("reader")
    asked = {"Who built the mill?": "Anna Kerr", "In which year did it burn down?": "1921", "What was milled?": "rye"}
    text = "The mill on the Arde was built by Anna Kerr in 1874. It milled rye until it burnt down in 1921. "
    chunk = Chunk("m#0", "m", text * 3, Span(0, len(text) * 3), {"title": "The mill"})
    found: list[list[list[list[float]]]] = []
    for int8 in (False, True):
        with closing(LlamaGenerator(path, context=1024, int8=int8)) as generator:
            prompts = [prompt.messages(question, [ScoredChunk(chunk, 1.0)]) for question in asked]
            found.append([generator.score(p, list(asked.values())) for p in prompts])
            told = ["".join(piece.text for piece in generator.stream(p, Sampling(max_tokens=12))) for p in prompts]
            assert all(answer in said for answer, said in zip(asked.values(), told, strict=True)), told
    for plain, read in zip(*found, strict=True):
        for one, other in zip(plain, read, strict=True):
            assert one == pytest.approx(other, abs=1.5)
    assert found[0] != found[1]  # or nothing was read in int8
