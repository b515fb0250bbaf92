"""The model file: weights, vocabulary and chat template, through the low-level bindings of llama-cpp-python."""

import ctypes
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rag.chat_template import ChatTemplate
from rag.datatypes import Message
from rag.errors import ModelLoadFailed


class Vocabulary:
    """The tokenizer of a loaded model. Safe to share between threads."""

    def __init__(self, llama: Any, model: Any) -> None:
        self._llama = llama
        self.handle = llama.llama_model_get_vocab(model)
        self.size: int = llama.llama_vocab_n_tokens(self.handle)

    def tokens(self, text: str, *, special: bool = False) -> list[int]:
        """Return the tokens of `text`; control tokens spelt in it are plain text unless it is `special`."""
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        tokens = (ctypes.c_int32 * room)()
        n: int = self._llama.llama_tokenize(self.handle, data, len(data), tokens, room, False, special)
        return tokens[:n]

    def bytes_of(self, token: int) -> bytes:
        """Return what a token stands for, nothing for a control token; it may be a part of a character."""
        buffer = ctypes.create_string_buffer(256)
        n = self._llama.llama_token_to_piece(self.handle, token, buffer, len(buffer), 0, False)
        return buffer.raw[: max(n, 0)]

    def ends(self, token: int) -> bool:
        """Whether the model ends its answer with this token."""
        return bool(self._llama.llama_vocab_is_eog(self.handle, token))

    @property
    def end_of_turn(self) -> int:
        """The token with which the model ends its answer."""
        token: int = self._llama.llama_vocab_eot(self.handle)
        return token if token >= 0 else int(self._llama.llama_vocab_eos(self.handle))

    def chat_template(self, source: str) -> ChatTemplate:
        """Return the model's chat template with the names of this vocabulary's tokens."""
        bos = self._text(self._llama.llama_vocab_bos(self.handle))
        eos = self._text(self._llama.llama_vocab_eos(self.handle))
        adds_bos = bool(self._llama.llama_vocab_get_add_bos(self.handle))
        return ChatTemplate(source, bos=bos, eos=eos, adds_bos=adds_bos)

    def _text(self, token: int) -> str:
        return self._llama.llama_vocab_get_text(self.handle, token).decode() if token >= 0 else ""


class Model:
    """An instruct model's weights, loaded. Raises `ModelLoadFailed` where llama.cpp refuses the file.

    `extra_buffers=False` gives up llama.cpp's repacked weights: slower prefill, but it avoids AMX kernels, which
    fault under some hypervisors.
    """

    def __init__(self, path: Path, *, extra_buffers: bool = True) -> None:
        self.path = path
        self.llama = bindings()
        self.handle = load_model(self.llama, path, extra_buffers=extra_buffers)
        self.vocabulary = Vocabulary(self.llama, self.handle)
        self._template = self.vocabulary.chat_template(self._template_source())

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the prompt's tokens. Only the template's own text becomes control tokens, never a message's."""
        parts = self._template.render(messages)
        return [token for part in parts for token in self.vocabulary.tokens(part.text, special=part.trusted)]

    def count(self, text: str) -> int:
        """Return the number of tokens of `text` (control tokens spelt in it are plain text)."""
        return len(self.vocabulary.tokens(text))

    @property
    def forgets_parts(self) -> bool:
        """Whether a sequence can be cut short; a recurrent model keeps one state, which cannot be turned back."""
        llama = self.llama
        return not (llama.llama_model_is_recurrent(self.handle) or llama.llama_model_is_hybrid(self.handle))

    def close(self) -> None:
        """Free the weights. Do not use it any further."""
        self.llama.llama_model_free(self.handle)

    def _template_source(self) -> str:
        source = self.llama.llama_model_chat_template(self.handle, None)
        if not source:
            self.close()
            raise ModelLoadFailed(
                f"{self.path.name} carries no chat template: it is a base model",
                hint="Choose an instruct model; `smallhold models list` shows some.",
            )
        return str(source.decode())


class LlamaVocabulary:
    """The tokenizer of a GGUF model without its weights, loaded in a moment. Implements `TokenCounter`.

    Raises `ModelLoadFailed` where llama.cpp refuses the file.
    """

    def __init__(self, path: Path) -> None:
        self._llama = bindings()
        self._model = load_model(self._llama, path, vocabulary_only=True)
        self._vocabulary = Vocabulary(self._llama, self._model)

    def count(self, text: str) -> int:
        """Return the number of tokens of `text` (control tokens spelt in it are plain text)."""
        return len(self._vocabulary.tokens(text))

    def close(self) -> None:
        """Free it. Do not use it any further."""
        self._llama.llama_model_free(self._model)


def bindings() -> Any:
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


def load_model(llama: Any, path: Path, *, extra_buffers: bool = True, vocabulary_only: bool = False) -> Any:
    """Return llama.cpp's handle of a file's model. Raises `ModelLoadFailed` where it refuses the file."""
    parameters = llama.llama_model_default_params()
    parameters.n_gpu_layers = 0
    parameters.use_extra_bufts = extra_buffers
    parameters.vocab_only = vocabulary_only
    model = llama.llama_model_load_from_file(os.fsencode(path), parameters)
    if not model:
        raise ModelLoadFailed(
            f"llama.cpp cannot load {path}",
            hint="The file is damaged or of a kind this llama.cpp does not know; "
            "`smallhold models verify` checks the weights of the registry.",
        )
    return model


@functools.cache  # llama.cpp keeps the pointer: the callback must live as long as the process
def _silent_log() -> Any:
    from llama_cpp import llama_cpp

    return llama_cpp.llama_log_callback(lambda _level, _text, _data: None)
