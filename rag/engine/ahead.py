"""Prompts read ahead: the part that may come again is put on disk before anybody asks.

It is the batch counterpart of what the scheduler does with the prompts of questions, without scheduling: one sequence,
one thread, one state after the other. Keys, states and files are the same, so that either finds what the other kept.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from rag.datatypes import Message
from rag.engine.context import Context, ContextFull, ContextLike, DecodeFailed, Part, TokenArray
from rag.engine.files import PrefixFiles, identity_of
from rag.engine.native import Model
from rag.engine.prefill import open_prefill
from rag.engine.prefix import WORTH_SAVING, repeatable
from rag.engine.states import key_of, shared_length
from rag.errors import InvalidRequest, ModelLoadFailed, Unavailable
from rag.protocols import TokenCounter
from rag.tuning import UNTUNED, Tuning

# So many tokens of the first prompt are read to learn what a token takes: a moment, and the state's constant part, some
# hundred bytes, is then less than a thousandth of it.
_SAMPLE = 32


class Encoder(TokenCounter, Protocol):
    """What is needed of a model beside its context, such as `Model`."""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the prompt's tokens."""
        ...

    def close(self) -> None:
        """Free it."""
        ...


class ReadAhead:
    """Reads beginnings of prompts and keeps each as a state in `files`. Owns model and context; for one thread.

    `step` tokens are read between two chances to interrupt. Raises `InvalidRequest` for a recurrent model, whose states
    cannot be cut to what two prompts have in common.
    """

    def __init__(self, model: Encoder, context: ContextLike, files: PrefixFiles, *, step: int, name: str) -> None:
        if not context.forgets_parts:
            raise InvalidRequest(f"{name} is a recurrent model: nothing that it has read can be used again")
        self.files = files
        self._model, self._context = model, context
        self._step, self._name = step, name
        self._held_n: TokenArray = np.empty(0, np.int32)  # what sequence 0 has read
        self._token_bytes = 0.0

    def count(self, text: str) -> int:
        """Return the number of tokens of `text` as document text."""
        return self._model.count(text)

    def prefix(self, messages: Sequence[Message], *, answer: int) -> TokenArray | None:
        """Return the beginning of a prompt that is worth keeping for others like it.

        None where prompt and `answer` tokens do not fit the context, or it is so short that it is read as fast.
        """
        prompt = self._model.encode(messages)
        length = repeatable(prompt, messages, self._model.encode)
        if len(prompt) + answer > self._context.cells or length < WORTH_SAVING:
            return None
        return np.array(prompt[:length], np.int32)

    def kept(self, tokens_n: TokenArray) -> bytes | None:
        """Return the key of a state that begins with all of these tokens, None where there is none."""
        match = self.files.longest(tokens_n)
        return match.key if match.shared == len(tokens_n) else None

    def expected_size(self, tokens_n: TokenArray) -> int:
        """Return about how many bytes of disk the state of these tokens takes, a little more rather than less."""
        if not self._token_bytes:
            sample_n = tokens_n[:_SAMPLE]
            self._advance(sample_n)
            self._token_bytes = self._context.size(0) / len(sample_n)
        return self.files.expected_size(len(tokens_n), round(self._token_bytes * len(tokens_n)))

    def read(self, tokens_n: TokenArray) -> bytes:
        """Read these tokens and keep their state; return its key. What the tokens before had in common is not read.

        Raises `ModelLoadFailed` where llama.cpp fails, `Unavailable` where the disk does not take the state.
        """
        self._advance(tokens_n)
        key = key_of(tokens_n)
        self.files.put(key, self._context.save(0))
        if self.kept(tokens_n) is None:
            raise Unavailable(
                f"what was read of {self._name} cannot be written to disk",
                hint="The warning before this says why. What is there already stays; the same command goes on from it.",
            )
        return key

    def close(self) -> None:
        """Free model and context. Do not use it any further."""
        self._context.close()
        self._model.close()

    def _advance(self, tokens_n: TokenArray) -> None:
        """Let sequence 0 hold these tokens and nothing else."""
        start = shared_length(self._held_n, tokens_n)
        self._context.cut(0, start)
        self._held_n = tokens_n[:start]
        try:
            for at in range(start, len(tokens_n), self._step):
                self._context.read([Part(0, at, tokens_n[at : at + self._step], 0)])
        except (ContextFull, DecodeFailed) as error:
            raise ModelLoadFailed(f"{self._name} could not be run: {str(error) or 'its context is full'}") from error
        self._held_n = tokens_n


def open_ahead(
    path: Path,
    folder: Path,
    *,
    context: int,
    budget: int,
    threads: int = 0,
    extra_buffers: bool = True,
    int8: bool = False,
    tuning: Tuning = UNTUNED,
    build: str = "",
) -> ReadAhead:
    """Load a model to read ahead with, for the generator of the same arguments. Raises `ModelLoadFailed`."""
    tuning = tuning.model_copy(update={"threads": threads}) if threads else tuning
    model = Model(path, extra_buffers=extra_buffers)
    try:
        prefill = open_prefill(path, tuning.threads) if int8 else None
        native = Context(model, cells=context, sequences=1, tuning=tuning, prefill=prefill)
    except BaseException:
        model.close()
        raise
    files = PrefixFiles(folder, identity_of(path, native, build), budget)
    return ReadAhead(model, native, files, step=tuning.alone, name=path.name)
