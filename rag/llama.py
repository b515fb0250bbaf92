"""The local language model: llama.cpp through the low-level bindings of llama-cpp-python.

One `LlamaGenerator` owns one model and one context with one sequence; a lock lets one request in at a time. The
sequence keeps the tokens of the last request, and a new prompt is read only from where it differs: the
instructions and worked examples, the same for every question, are read once.
"""

import codecs
import ctypes
import functools
import os
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rag.chat_template import ChatTemplate, TextPart
from rag.datatypes import FinishReason, Message, Piece, Sampling, Usage
from rag.errors import ModelLoadFailed, PromptTooLong
from rag.protocols import FloatArray
from rag.tuning import UNTUNED, Tuning


class LlamaGenerator:
    """A GGUF model ready to answer. Implements `Generator` and `TokenCounter`; safe to share between threads.

    `extra_buffers=False` gives up llama.cpp's repacked weights: slower prefill, but it avoids AMX kernels, which
    fault under some hypervisors. Raises `ModelLoadFailed` where llama.cpp refuses the file; a native crash cannot be
    caught here, so `rag.probe` tries an unknown file in a child process first.
    """

    def __init__(
        self,
        path: Path,
        *,
        context: int = 4096,
        threads: int = 0,
        extra_buffers: bool = True,
        tuning: Tuning = UNTUNED,
    ) -> None:
        self.path = path
        self.context = context
        self.tuning = tuning.model_copy(update={"threads": threads}) if threads else tuning
        self._lock = threading.Lock()
        self._in_memory: list[int] = []  # the tokens whose keys and values the context holds, in order
        self._llama = _bindings()
        self._model = self._load(extra_buffers)
        self._vocab = self._llama.llama_model_get_vocab(self._model)
        self._context = self._create_context()
        self._batch = self._llama.llama_batch_init(self.tuning.batch, 0, 1)
        self._vocabulary_size = self._llama.llama_vocab_n_tokens(self._vocab)
        self._template = self._read_template()

    def close(self) -> None:
        """Free the model. Further use raises."""
        with self._lock:
            if self._model:
                self._llama.llama_batch_free(self._batch)
                self._llama.llama_free(self._context)
                self._llama.llama_model_free(self._model)
            self._model = self._context = None

    def count(self, text: str) -> int:
        """Return the number of tokens of `text` as document text (control tokens spelt in it are plain text)."""
        return len(self.tokens(text))

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of `text` as document text."""
        return self._tokenize(text, special=False)

    @property
    def end_of_turn(self) -> int:
        """The token with which the model ends its answer."""
        token: int = self._llama.llama_vocab_eot(self._vocab)
        return token if token >= 0 else int(self._llama.llama_vocab_eos(self._vocab))

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the prompt's tokens. Only the template's own text becomes control tokens, never a message's."""
        return [t for part in self._template.render(messages) for t in self._encode_part(part)]

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        """Read the prompt and yield the answer piece by piece; empty pieces come while the prompt is being read.

        Close the iterator to cancel; the model is free within one prefill step. Raises `PromptTooLong`.
        """
        prompt = self.encode(messages)
        if len(prompt) + sampling.max_tokens > self.context:
            raise PromptTooLong(
                f"the prompt takes {len(prompt)} tokens and the answer up to {sampling.max_tokens}, "
                f"more than the model's context of {self.context}",
                hint="Ask a shorter question, lower max_tokens, or raise generator.context.",
            )
        with self._lock:
            if self._model is None:
                raise ModelLoadFailed("the model has been closed")
            cached = self._keep_common_prefix(prompt)
            for start in range(cached, len(prompt), self.tuning.batch):
                self._decode(prompt[start : start + self.tuning.batch])
                yield Piece("", usage=Usage(len(prompt), cached, 0))
            yield from self._generate(len(prompt), cached, sampling)

    def _generate(self, prompt_tokens: int, cached: int, sampling: Sampling) -> Generator[Piece, None, None]:
        random = np.random.default_rng(sampling.seed)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = StopText(sampling.stop)
        reason: FinishReason = "length"
        produced = 0
        logits_v, decline = self._without_declining(self._logits(), sampling.decline)
        for _ in range(sampling.max_tokens):
            token, logprob = choose_token(logits_v, sampling, random)
            produced += 1
            if self._llama.llama_vocab_is_eog(self._vocab, token):
                reason = "stop"
                # The end token's probability counts: it says how sure the model is that the answer is complete.
                yield Piece("", logprob, 1, decline=decline)
                break
            piece = text.add(decoder.decode(self._token_bytes(token)))
            yield Piece(piece, logprob, 1, decline=decline)
            if text.stopped:
                reason = "stop"
                break
            self._decode([token])
            logits_v, decline = self._logits(), None
        rest = text.finish(decoder.decode(b"", final=True))
        yield Piece(rest, finish_reason=reason, usage=Usage(prompt_tokens, cached, produced))

    def _without_declining(self, logits_v: FloatArray, phrase: str) -> tuple[FloatArray, float | None]:
        """Return the first token's logits with the one that begins `phrase` ruled out, and how likely that was.

        The first token stands for the phrase: reading on to its end would cost two more steps of writing a passage.
        An answer that begins with the very same token is lost; "unanswerable" begins with "un", without a space before.
        """
        if not phrase:
            return logits_v, None
        token = self._tokenize(phrase, special=False)[0]
        rest_v = logits_v.copy()
        rest_v[token] = -np.inf
        return rest_v, float(np.exp(logits_v[token] - _log_total(logits_v)))

    def _keep_common_prefix(self, prompt: Sequence[int]) -> int:
        """Drop from the context what this prompt does not share; return how many tokens stay.

        The last prompt token is always read again, since its logits are needed.
        """
        shared = 0
        for old, new in zip(self._in_memory, prompt[:-1], strict=False):
            if old != new:
                break
            shared += 1
        memory = self._llama.llama_get_memory(self._context)
        if not self._llama.llama_memory_seq_rm(memory, 0, shared, -1):
            self._llama.llama_memory_clear(memory, True)  # recurrent models cannot forget a part
            shared = 0
        del self._in_memory[shared:]
        return shared

    def _decode(self, tokens: Sequence[int]) -> None:
        """Append tokens to the sequence; logits are kept for the last one."""
        batch, position = self._batch, len(self._in_memory)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i == len(tokens) - 1
        status = self._llama.llama_decode(self._context, batch)
        if status != 0:
            self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)
            self._in_memory.clear()
            raise ModelLoadFailed(f"llama.cpp could not run {self.path.name} (status {status})")
        self._in_memory.extend(tokens)

    def _logits(self) -> FloatArray:
        pointer = self._llama.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(pointer, shape=(self._vocabulary_size,))

    def _encode_part(self, part: TextPart) -> list[int]:
        return self._tokenize(part.text, special=part.trusted)

    def _tokenize(self, text: str, *, special: bool) -> list[int]:
        return _tokenize(self._llama, self._vocab, text, special=special)

    def _token_bytes(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        n = self._llama.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        return buffer.raw[: max(n, 0)]

    def _load(self, extra_buffers: bool) -> Any:
        parameters = self._llama.llama_model_default_params()
        parameters.n_gpu_layers = 0
        parameters.use_extra_bufts = extra_buffers
        return _load(self._llama, self.path, parameters)

    def _create_context(self) -> Any:
        parameters = self._llama.llama_context_default_params()
        parameters.n_ctx = self.context
        parameters.n_seq_max = 1
        self.tuning.fill(parameters, available_cores())
        parameters.no_perf = True
        context = self._llama.llama_init_from_model(self._model, parameters)
        if not context:
            self._llama.llama_model_free(self._model)
            raise ModelLoadFailed(
                f"llama.cpp cannot give {self.path.name} a context of {self.context} tokens",
                hint="Lower generator.context.",
            )
        return context

    def _read_template(self) -> ChatTemplate:
        source = self._llama.llama_model_chat_template(self._model, None)
        if not source:
            raise ModelLoadFailed(
                f"{self.path.name} carries no chat template: it is a base model",
                hint="Choose an instruct model; `smallhold models list` shows some.",
            )
        bos = self._token_text(self._llama.llama_vocab_bos(self._vocab))
        eos = self._token_text(self._llama.llama_vocab_eos(self._vocab))
        adds_bos = bool(self._llama.llama_vocab_get_add_bos(self._vocab))
        return ChatTemplate(source.decode(), bos=bos, eos=eos, adds_bos=adds_bos)

    def _token_text(self, token: int) -> str:
        return self._llama.llama_vocab_get_text(self._vocab, token).decode() if token >= 0 else ""


class LlamaVocabulary:
    """The tokenizer of a GGUF model without its weights, loaded in a moment. Implements `TokenCounter`.

    Raises `ModelLoadFailed` where llama.cpp refuses the file.
    """

    def __init__(self, path: Path) -> None:
        self._llama = _bindings()
        parameters = self._llama.llama_model_default_params()
        parameters.vocab_only = True
        self._model = _load(self._llama, path, parameters)
        self._vocab = self._llama.llama_model_get_vocab(self._model)

    def count(self, text: str) -> int:
        """Return the number of tokens of `text` (control tokens spelt in it are plain text)."""
        return len(_tokenize(self._llama, self._vocab, text, special=False))

    def close(self) -> None:
        """Free it. Do not use it any further."""
        self._llama.llama_model_free(self._model)


def _load(llama: Any, path: Path, parameters: Any) -> Any:
    model = llama.llama_model_load_from_file(os.fsencode(path), parameters)
    if not model:
        raise ModelLoadFailed(
            f"llama.cpp cannot load {path}",
            hint="The file is damaged or of a kind this llama.cpp does not know; "
            "`smallhold models verify` checks the weights of the registry.",
        )
    return model


def _tokenize(llama: Any, vocab: Any, text: str, *, special: bool) -> list[int]:
    data = text.encode("utf-8", "replace")
    room = len(data) + 8
    tokens = (ctypes.c_int32 * room)()
    n: int = llama.llama_tokenize(vocab, data, len(data), tokens, room, False, special)
    return tokens[:n]


class StopText:
    """Text on its way out, held back while its end might be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [s for s in stops if s]
        self._held = ""
        self.stopped = False

    def add(self, text: str) -> str:
        """Take new text and return what may be shown; `stopped` becomes true once a stop string is complete."""
        self._held += text
        cuts = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if cuts:
            self.stopped = True
            out, self._held = self._held[: min(cuts)], ""
            return out
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out

    def finish(self, text: str) -> str:
        """Return all that is still held; nothing once stopped."""
        return "" if self.stopped else self.add(text) + self._held


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` begin `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def choose_token(logits_v: FloatArray, sampling: Sampling, random: np.random.Generator) -> tuple[int, float]:
    """Choose from logits `(v,)`; return the token and its natural-log probability under the unscaled softmax."""
    token = int(logits_v.argmax()) if sampling.temperature == 0 else _sample(logits_v, sampling, random)
    return token, float(logits_v[token]) - _log_total(logits_v)


def _log_total(logits_v: FloatArray) -> float:
    """Return the logarithm of the softmax's denominator."""
    peak = float(logits_v.max())
    return peak + float(np.log(np.exp(logits_v - peak).sum()))


def _sample(logits_v: FloatArray, sampling: Sampling, random: np.random.Generator) -> int:
    scaled = (logits_v.astype(np.float64) - float(logits_v.max())) / sampling.temperature
    p = np.exp(scaled)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    # Nucleus sampling (Holtzman et al. 2020): the fewest likeliest tokens that reach top_p together.
    keep = order[: int(np.searchsorted(np.cumsum(p[order]), sampling.top_p)) + 1]
    return int(random.choice(keep, p=p[keep] / p[keep].sum()))


def available_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _bindings() -> Any:
    """Import llama_cpp's low-level module, with llama.cpp's chatter on stderr switched off.

    Idle OpenMP threads are told to sleep, not to spin: beside one other busy process on 2 cores that made reading 4
    times and writing 8 times faster (medians 5.7 to 1.2 s for 220 tokens, 2.4 to 0.5 s for 24), and alone it costs
    0.01 s a written token (benchmarks/llama_speed.py). The library reads the variable once, when it is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        from llama_cpp import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise ModelLoadFailed(
            f"llama-cpp-python cannot be imported: {error}", hint="Run `make install`; it compiles it for this machine."
        ) from error
    llama_cpp.llama_log_set(_silent_log(), ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


@functools.cache  # llama.cpp keeps the pointer: the callback must live as long as the process
def _silent_log() -> Any:
    from llama_cpp import llama_cpp

    return llama_cpp.llama_log_callback(lambda _level, _text, _data: None)
