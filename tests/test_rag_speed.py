"""The bare loop with a made-up llama.cpp, which notes what it is given."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.engine.journal import BARE, Journal
from benchmarks.engine.limits import measure_reading, measure_writing
from rag.errors import ModelLoadFailed
from rag.speed import BareLoop, Speedometer
from rag.tuning import Tuning

TOKENS = [5, 6, 7]


class Llama:
    """Notes the tokens, positions and wanted logits of every batch."""

    def __init__(self, *, status: int = 0, makes_contexts: bool = True) -> None:
        self.status, self.makes_contexts = status, makes_contexts
        self.batches: list[tuple[list[int], list[int], list[bool]]] = []
        self.freed: list[str] = []
        self.cleared = 0
        self.parameters = SimpleNamespace()

    def llama_context_default_params(self) -> SimpleNamespace:
        return self.parameters

    def llama_init_from_model(self, model: str, parameters: SimpleNamespace) -> str | None:
        return "context" if self.makes_contexts else None

    def llama_batch_init(self, size: int, embeddings: int, sequences: int) -> SimpleNamespace:
        def row() -> list[int]:
            return [-1] * size

        return SimpleNamespace(token=row(), pos=row(), n_seq_id=row(), seq_id=[[-1] for _ in row()], logits=row())

    def llama_decode(self, context: str, batch: Any) -> int:
        n = batch.n_tokens
        assert batch.seq_id[:n] == [[0]] * n
        assert batch.n_seq_id[:n] == [1] * n
        self.batches.append((batch.token[:n], batch.pos[:n], batch.logits[:n]))
        return self.status

    def llama_synchronize(self, context: str) -> None:
        pass

    def llama_get_memory(self, context: str) -> str:
        return "memory"

    def llama_memory_clear(self, memory: str, data: bool) -> None:
        self.cleared += 1

    def llama_batch_free(self, batch: Any) -> None:
        self.freed.append("batch")

    def llama_model_free(self, model: str) -> None:
        self.freed.append(model)

    def llama_free(self, context: str) -> None:
        self.freed.append(context)


def loop(llama: Llama) -> BareLoop:
    return BareLoop(llama, "model", TOKENS, Tuning(threads=1, batch=4, micro_batch=4), room=64, name="small.gguf")


def test_reading_goes_by_batches_and_writing_by_tokens_one_after_the_other() -> None:
    llama = Llama()
    bare = loop(llama)
    assert bare.read(6) >= 0
    assert bare.write(2) >= 0
    bare.clear()
    bare.read(1)
    assert llama.batches == [
        ([5, 6, 7, 5], [0, 1, 2, 3], [False, False, False, True]),
        ([6, 7], [4, 5], [False, True]),
        ([5], [6], [True]),
        ([6], [7], [True]),
        ([5], [0], [True]),
    ]
    assert (llama.parameters.n_ctx, llama.parameters.n_batch, llama.parameters.n_seq_max) == (64, 4, 1)
    bare.close()
    assert llama.freed == ["batch", "context"]


def test_what_llama_cpp_cannot_do_is_an_error() -> None:
    with pytest.raises(ModelLoadFailed, match=r"cannot run small\.gguf"):
        loop(Llama(makes_contexts=False))
    with pytest.raises(ModelLoadFailed, match="status 2"):
        loop(Llama(status=2)).read(1)


def test_the_benchmark_measures_with_the_same_loop() -> None:
    llama, journal = Llama(), Journal()
    bare = loop(llama)
    measure_writing(journal, 0, bare, depth=5, tokens=3)
    assert [positions for _, positions, _ in llama.batches] == [[0, 1, 2, 3], [4], [5], [6], [7]]
    measure_reading(journal, 0, bare, 8)
    assert [positions for _, positions, _ in llama.batches[5:]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    (pace,) = journal.values("seconds_per_token", BARE)
    assert journal.values("decode_tokens_per_second", BARE) == [1 / pace]
    assert len(journal.values("prefill_tokens_per_second", BARE)) == 1


def test_prompts_are_timed_as_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    llama, counts = Llama(), list[int]()

    class Reader:
        layers, width, least = 1, 1, 8

        def read(self, tokens_n: Any, past: Any, stopped: Any) -> Any:
            assert tokens_n.tolist()[:4] == [5, 6, 7, 5] and past is None and not stopped()
            counts.append(len(tokens_n))

        def close(self) -> None:
            llama.freed.append("prefill")

    monkeypatch.setattr("rag.speed.bindings", lambda: llama)
    monkeypatch.setattr("rag.speed.load_model", lambda llama, path, extra_buffers: "model")
    monkeypatch.setattr("rag.speed.Vocabulary", lambda llama, model: SimpleNamespace(tokens=lambda text: TOKENS))
    speedometer = Speedometer(Path("small.gguf"), prefill=Reader())
    few = {"batch": 4, "micro_batch": 4}
    speedometer.sample(Tuning(**few), prompt=6, written=2)
    assert counts == [5, 5]  # the first one warms up
    again = [positions for _, positions, _ in llama.batches[4:]]
    assert again == [
        [0, 1, 2, 3],
        [4],
        [5],
        [6],
        [7],
    ]  # the last one read and what is written
    speedometer.sample(Tuning(flash_attention="off", **few), prompt=6, written=2)
    assert counts == [5, 5]
    speedometer.close()
    assert llama.freed[-2:] == ["prefill", "model"]
