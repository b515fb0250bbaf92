"""Texts to vectors: order, batches and errors with a fake model, meaning with the real one."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from rag import embedder as embedder_module
from rag.embedder import SentenceEmbedder
from rag.errors import ModelDamaged, ModelLoadFailed
from rag.protocols import FloatArray


class FakeModel:
    """The vector of a text is the direction (its length, 1, 0). Keeps its batches and notices when two run at once."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.running = 0

    def encode(self, texts: list[str], *, batch_size: int, **options: object) -> FloatArray:
        assert options == {"normalize_embeddings": True, "convert_to_numpy": True, "show_progress_bar": False}
        assert batch_size == len(texts)
        self.running += 1
        assert self.running == 1
        self.batches.append(texts)
        time.sleep(0.001)
        self.running -= 1
        vectors = np.array([[len(text), 1, 0] for text in texts], np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder without weights, for 3 dimensions and 256 tokens: a character each, but a run of b is one."""
    write(tmp_path / "config.json", {"hidden_size": 3, "max_position_embeddings": 512})
    write(tmp_path / "modules.json", [{"type": "sentence_transformers.models.Transformer", "path": ""}])
    write(tmp_path / "sentence_bert_config.json", {"max_seq_length": 256})
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("b+|[^b]"), "isolated")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[FakeModel]:
    """The fake models that were loaded."""
    models: list[FakeModel] = []

    def load(_: SentenceEmbedder) -> FakeModel:
        time.sleep(0.01)
        models.append(FakeModel())
        return models[-1]

    monkeypatch.setattr(SentenceEmbedder, "_load", load)
    return models


def write(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def test_batches_hold_texts_of_like_length_and_the_order_is_kept(folder: Path, loaded: list[FakeModel]) -> None:
    done: list[int] = []
    texts = ["a" * length for length in (1, 5, 2, 4, 3)]
    vectors = SentenceEmbedder(folder, "fake", "f", batch=2).embed(texts, done.append)
    assert vectors.dtype == np.float32
    assert (vectors[:, 0] / vectors[:, 1]).tolist() == pytest.approx([1, 5, 2, 4, 3])
    assert [[len(text) for text in batch] for batch in loaded[0].batches] == [[5, 4], [3, 2], [1]]
    assert done == [2, 2, 1]


def test_a_batch_is_measured_in_tokens_and_not_in_characters(folder: Path, loaded: list[FakeModel]) -> None:
    texts = ["b" * 90, "aaaa", "b" * 70 + "a", "aaaaa"]
    SentenceEmbedder(folder, "fake", "f", batch=2).embed(texts)
    assert loaded[0].batches == [["aaaaa", "aaaa"], ["b" * 70 + "a", "b" * 90]]


def test_a_batch_holds_as_many_tokens_as_pay(
    folder: Path, loaded: list[FakeModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedder_module, "_BATCH_TOKENS", 512)
    texts = ["a" * length for length in (256, 600, 9000, 128, 128, 128, 100, 1)]
    SentenceEmbedder(folder, "fake", "f").embed(texts)
    # What is longer than the model reads counts as what it reads: 256.
    assert [[len(text) for text in batch] for batch in loaded[0].batches] == [
        [256, 600],
        [9000, 128],
        [128, 128, 100, 1],
    ]


def test_a_text_longer_than_a_batch_goes_alone(
    folder: Path, loaded: list[FakeModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedder_module, "_BATCH_TOKENS", 3)
    SentenceEmbedder(folder, "fake", "f").embed(["aaaa", "", "aaa"])
    assert loaded[0].batches == [["aaaa"], ["aaa"], [""]]


def test_a_folder_without_its_tokenizer_is_refused(folder: Path, loaded: list[FakeModel]) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelDamaged, match=r"tokenizer\.json"):
        SentenceEmbedder(folder, "fake", "f").embed(["text"])
    assert loaded == []


def test_nothing_to_embed_loads_nothing(folder: Path, loaded: list[FakeModel]) -> None:
    assert SentenceEmbedder(folder, "fake", "f").embed([]).shape == (0, 3)
    assert loaded == []


def test_threads_share_one_model_and_take_turns(folder: Path, loaded: list[FakeModel]) -> None:
    embedder = SentenceEmbedder(folder, "fake", "f")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: embedder.embed(["x" * n])[0], range(1, 40)))
    assert len(loaded) == 1
    assert [round(float(vector[0] / vector[1])) for vector in found] == list(range(1, 40))


def test_what_is_no_text_is_embedded_all_the_same(folder: Path, loaded: list[FakeModel]) -> None:
    SentenceEmbedder(folder, "fake", "f").embed(["half \ud83d pair"])
    assert loaded[0].batches == [["half ? pair"]]


def test_the_folder_tells_dimension_and_length(folder: Path) -> None:
    embedder = SentenceEmbedder(folder, "fake", "abc")
    assert (embedder.name, embedder.fingerprint) == ("fake", "abc")
    assert (embedder.dimension, embedder.max_tokens) == (3, 256)
    (folder / "sentence_bert_config.json").unlink()
    assert SentenceEmbedder(folder, "fake", "abc").max_tokens == 512


def test_a_dense_layer_sets_the_dimension(folder: Path) -> None:
    write(folder / "modules.json", [{"type": "a.Transformer", "path": ""}, {"type": "b.Dense", "path": "2_Dense"}])
    write(folder / "2_Dense/config.json", {"in_features": 3, "out_features": 7})
    assert SentenceEmbedder(folder, "fake", "f").dimension == 7


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"hidden_size": "wide"}', None])
def test_a_folder_that_describes_no_model_is_refused(folder: Path, content: str | None) -> None:
    path = folder / "config.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ModelDamaged, match=r"config\.json") as caught:
        SentenceEmbedder(folder, "fake", "f")
    assert "smallhold models verify" in caught.value.hint


def test_no_heavy_library_is_imported_before_it_is_needed() -> None:
    script = (
        "import sys, rag.embedder, rag.index, rag.retrieve, indexer.sync\n"
        "print([m for m in ('torch', 'sentence_transformers', 'faiss', 'bm25s', 'Stemmer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.model
def test_weights_that_cannot_be_loaded_are_one_clear_error(folder: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="the embedder fake cannot be loaded"):
        SentenceEmbedder(folder, "fake", "f").embed(["text"])


@pytest.mark.model
def test_real_vectors_mean_something(embedder: SentenceEmbedder) -> None:
    texts = [
        "The cat sat on the mat.",
        "A feline was sitting on the rug.",
        "Interest rates rose again in March.",
        "",
        "The central bank raised its rates last spring.",
        "😀 \ud83d " + "long " * 5000,
    ]
    vectors = embedder.embed(texts)
    assert vectors.shape == (6, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(6), abs=1e-5)
    cosine = vectors @ vectors.T
    assert min(cosine[0, 1], cosine[2, 4]) > 0.5
    assert max(cosine[0, 2], cosine[1, 2], cosine[0, 4], cosine[1, 4]) < 0.2


@pytest.mark.model
def test_real_vectors_do_not_depend_on_their_batch(embedder: SentenceEmbedder) -> None:
    texts = [f"Sentence {n}: " + "the mill grinds rye and wheat. " * (n % 7) for n in range(40)]
    together = embedder.embed(texts)
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    assert np.abs(together - alone).max() < 1e-5
