"""A language model that is loaded when it is first asked: most questions of a cascade never need the large one."""

import threading
from collections.abc import Callable, Generator, Sequence
from typing import Protocol

from rag.datatypes import Message, Piece, Sampling
from rag.errors import Unavailable
from rag.protocols import LanguageModel


class Closeable(LanguageModel, Protocol):
    """A language model that holds memory or connections."""

    def close(self) -> None:
        """Release them."""
        ...


class LazyModel:
    """Loads a model with `load` on first use. Implements `LanguageModel`; safe to share between threads.

    A loading that fails raises its error to whoever asked, and the next one tries again. Once closed it raises
    `Unavailable`.
    """

    def __init__(self, load: Callable[[], Closeable]) -> None:
        self._load = load
        self._loading = threading.Lock()  # held for as long as loading takes, minutes perhaps
        self._lock = threading.Lock()  # guards what follows
        self._model: Closeable | None = None
        self._closed = False

    @property
    def loaded(self) -> Closeable | None:
        """The model, None where nobody has needed it yet."""
        return self._model

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        """Yield the answer, loading the model before the first piece."""
        return (yield from self._loaded().stream(messages, sampling))

    def count(self, text: str) -> int:
        """Return the number of tokens of `text` in the model's own vocabulary, for which it is loaded."""
        return self._loaded().count(text)

    def close(self) -> None:
        """Release the model where there is one. One that is still being loaded is not waited for. Idempotent."""
        with self._lock:
            model, self._model, self._closed = self._model, None, True
        if model is not None:
            model.close()

    def _loaded(self) -> Closeable:
        with self._loading:
            with self._lock:
                if self._model is not None or self._closed:
                    return self._open()
            model = self._load()
            with self._lock:
                if not self._closed:
                    self._model = model
                    return model
        model.close()
        return self._open()

    def _open(self) -> Closeable:
        if self._model is None:
            raise Unavailable("the model has been closed")
        return self._model
