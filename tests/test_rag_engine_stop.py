"""Stopping llama.cpp in the midst of a batch, with the smallest real model."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from rag.datatypes import Message, Sampling
from rag.engine.context import Context, Part, Stopped, TokenArray
from rag.engine.generator import LlamaGenerator
from rag.engine.native import Model
from rag.engine.sampling import Writer
from rag.engine.scheduler import Scheduler
from rag.engine.task import Writing
from rag.errors import DeadlinePassed, Unavailable
from rag.protocols import FloatArray
from rag.tuning import UNTUNED, Tuning
from tests.engine_fakes import pieces

pytestmark = pytest.mark.model

LONG = [Message("user", "The ferry leaves Norrin Slip at nine. " * 60)]


@pytest.fixture
def model(tiny_model: Path) -> Iterator[Model]:
    model = Model(tiny_model)
    yield model
    model.close()


def held(context: Context, sequence: int) -> int:
    """How many tokens llama.cpp has of a sequence."""
    return 1 + int(context._llama.llama_memory_seq_pos_max(context._memory, sequence))


def last_logits(context: Context, tokens_n: TokenArray) -> FloatArray:
    context.read([Part(0, 128, tokens_n[128:256], 1)])
    return context.logits(127).copy()


def test_a_context_that_is_told_to_stop_reads_nothing_and_then_goes_on_as_before(model: Model) -> None:
    context = Context(model, cells=512, sequences=4)
    tokens_n = np.array(model.encode(LONG), np.int32)
    context.read([Part(0, 0, tokens_n[:128], 1)])
    wanted_v = last_logits(context, tokens_n)
    context.cut(0, 128)
    assert not context.stop
    context.stop = True
    assert context.stop
    with pytest.raises(Stopped):
        last_logits(context, tokens_n)
    assert held(context, 0) == 128
    context.stop = False
    assert np.array_equal(last_logits(context, tokens_n), wanted_v)
    context.close()


def test_micro_batches_that_were_read_before_the_stop_are_taken_back(model: Model) -> None:
    """llama.cpp keeps them: at 60% of four micro-batches, the first two."""
    context = Context(model, cells=512, sequences=4, tuning=Tuning(batch=128, micro_batch=32))
    tokens_n = np.array(model.encode(LONG), np.int32)
    parts = [Part(0, 10, tokens_n[10:38], 1), Part(1, 0, tokens_n[:100], 1)]
    context.read([Part(0, 0, tokens_n[:10], 1)])
    asked, limit = 0, 1 << 30

    def ask(_: object) -> bool:
        nonlocal asked
        asked += 1
        return asked > limit

    counting = model.llama.ggml_abort_callback(ask)
    model.llama.llama_set_abort_callback(context._context, counting, None)
    context.read(parts)
    wanted_v = context.logits(127).copy()
    context.cut(0, 10)
    context.cut(1, 0)
    limit, asked = asked * 6 // 10, 0
    cuts: list[tuple[int, int]] = []

    def cut(sequence: int, length: int) -> None:
        cuts.append((sequence, held(context, sequence)))
        Context.cut(context, sequence, length)

    context.cut = cut  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        context.read(parts)
    assert cuts == [(0, 38), (1, 36)], "two micro-batches of 32 were there"
    assert (held(context, 0), held(context, 1)) == (10, 0)
    limit = 1 << 30
    context.read(parts)
    assert np.array_equal(context.logits(127), wanted_v)
    context.close()


def cancel(engine: Scheduler, task: Writing) -> None:
    engine.cancel(task)


def let_its_deadline_pass(engine: Scheduler, task: Writing) -> None:
    task.ends_by = time.monotonic()
    engine._watch.look()


@pytest.mark.parametrize(("end", "error"), [(cancel, Unavailable), (let_its_deadline_pass, DeadlinePassed)])
def test_a_step_ends_with_the_only_one_who_wants_it(
    tiny_model: Path, end: Callable[[Scheduler, Writing], None], error: type[Exception]
) -> None:
    generator = LlamaGenerator(tiny_model, context=1024)
    engine, context = generator._scheduler, generator._scheduler._context
    sampling = Sampling(max_tokens=6)
    task = Writing(generator.encode(LONG), sampling, Writer(generator._vocabulary, sampling))
    read, stopped = context.read, []

    def reading(parts: Sequence[Part]) -> None:
        if parts[0].position == UNTUNED.alone and not task.done:
            end(engine, task)
        try:
            read(parts)
        except Stopped:
            stopped.append(parts[0].position)
            raise

    context.read = reading  # type: ignore[method-assign]
    engine.submit(task)
    with pytest.raises(error):
        pieces(task)
    assert stopped == [UNTUNED.alone]
    again = list(generator.stream(LONG, sampling))
    assert again[-1].usage is not None
    assert again[-1].usage.cached == UNTUNED.alone
    generator.close()
    fresh = LlamaGenerator(tiny_model, context=1024)
    assert [piece.text for piece in again if piece.tokens] == [
        piece.text for piece in fresh.stream(LONG, sampling) if piece.tokens
    ]
    fresh.close()
