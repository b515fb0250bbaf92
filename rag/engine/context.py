"""What llama.cpp keeps of what it read: sequences of keys and values in one unified cache, read in batches.

A cell holds one token's keys and values and may belong to several sequences: copying a prefix from one sequence to
another costs nothing. Not safe between threads; the scheduler's thread owns it.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from rag.engine.layout import Half, LayoutUnknown, State, StateLayout
from rag.engine.native import Model
from rag.errors import ModelLoadFailed
from rag.machine import available_cores
from rag.protocols import FloatArray
from rag.tuning import UNTUNED, Tuning

TokenArray = npt.NDArray[np.int32]

# Logits beyond one for each sequence, for scoring. Qwen's row of 151,936 takes 0.6 MB, and the buffer is always there.
SPARE_OUTPUTS = 16


class Part(NamedTuple):
    """A run of tokens of one sequence in a batch; logits are wanted of its last `outputs` tokens."""

    sequence: int
    position: int
    tokens_n: TokenArray
    outputs: int


class PrefillStopped(Exception):
    """Reading ahead of llama.cpp was given up."""


class Prefill(Protocol):
    """What computes the keys and values of a prompt's tokens in place of llama.cpp.

    They have `layers`, each of `width` numbers a token. From `least` tokens at once on it is the faster one.
    """

    layers: int
    width: int
    least: int

    def read(self, tokens_n: TokenArray, past: Half | None, stopped: Callable[[], bool]) -> Half:
        """Return keys and values `(2, layers, n, width)` of tokens that come after those of `past`, if any.

        Raises `PrefillStopped` soon after `stopped` says so.
        """
        ...

    def close(self) -> None:
        """Free it."""
        ...


class ContextFull(Exception):
    """No cells are free for the batch; nothing of it was read."""


class Stopped(Exception):
    """The batch was given up; nothing of it was read. Where a model cannot forget parts its sequences are empty now."""


class DecodeFailed(Exception):
    """llama.cpp could not run the batch; what the context holds is not known any more."""


class ContextLike(Protocol):
    """What the scheduler needs of a context. `identity` names all that a saved state depends on beside the model.

    `batch` tokens may be read at once and logits be had of `outputs` of them; `cells` tokens are kept, in sequences
    numbered from 0 to `sequences` - 1. While `stop` is true, `read` gives up soon; any thread may set it.
    """

    cells: int
    batch: int
    outputs: int
    sequences: int
    identity: str
    forgets_parts: bool
    stop: bool

    def read(self, parts: Sequence[Part]) -> None:
        """Append each part to its sequence. Raises `ContextFull`, `Stopped`, `DecodeFailed`."""
        ...

    def logits(self, row: int) -> FloatArray:
        """Return a view `(v,)` of the logits of one token of the last batch, by its place in it."""
        ...

    def share(self, source: int, target: int, length: int) -> None:
        """Let an empty sequence begin with the first `length` tokens of another one."""
        ...

    def cut(self, sequence: int, length: int) -> None:
        """Keep only the first `length` tokens of a sequence."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...

    def save(self, sequence: int) -> State:
        """Return the keys and values of a sequence as bytes."""
        ...

    def size(self, sequence: int) -> int:
        """Return the number of bytes that `save` would return."""
        ...

    def restore(self, sequence: int, state: State) -> bool:
        """Put saved keys and values into an empty sequence; False where they do not fit in."""
        ...

    def close(self) -> None:
        """Free it."""
        ...


class Context:
    """A llama.cpp context with one unified cache of `cells` cells for all sequences. Implements `ContextLike`.

    What is wanted without logits `prefill` reads, if there is one, and the rest llama.cpp. Raises `ModelLoadFailed`
    where llama.cpp cannot create it, or lays out its cache in another way than `prefill` has to write it.
    """

    def __init__(
        self, model: Model, *, cells: int, sequences: int, tuning: Tuning = UNTUNED, prefill: Prefill | None = None
    ) -> None:
        self.cells, self.sequences = cells, sequences
        self._prefill = prefill
        self.batch = tuning.alone + sequences  # beside the prompts there is room for a token of every answer
        self.outputs = min(self.batch, sequences + SPARE_OUTPUTS)
        self.forgets_parts = model.forgets_parts
        self._llama = model.llama
        self._vocabulary_size = model.vocabulary.size
        parameters = self._parameters(tuning)
        # The state's layout follows from these and from llama.cpp's version, which the model's fingerprint names.
        self.identity = f"k{parameters.type_k} v{parameters.type_v} f{parameters.flash_attn_type}"
        self._context = self._llama.llama_init_from_model(model.handle, parameters)
        if not self._context:
            raise ModelLoadFailed(
                f"llama.cpp cannot give {model.path.name} a context of {cells} tokens",
                hint="Lower generator.context or generator.sequences.",
            )
        self._memory = self._llama.llama_get_memory(self._context)
        self._make_batch()
        self._stop = _stoppable(self._llama, self._context)
        self._rows: list[int] = []  # of each token of the last batch, the place of its logits in llama.cpp's
        self._layout = self._find_layout(prefill) if prefill else None

    @property
    def stop(self) -> bool:
        """Whether `read` is to give up, within a node of the graph: some 20 to a layer. Any thread may set it."""
        return bool(self._stop[0] != b"\0")

    @stop.setter
    def stop(self, stop: bool) -> None:
        self._stop[0] = stop

    def read(self, parts: Sequence[Part]) -> None:
        """Append each part to its sequence. Raises `ContextFull`, `Stopped`, `DecodeFailed`."""
        ahead: list[int] = []
        try:
            for part in parts:
                ahead.append(self._read_ahead(part))
            rest = [_after(part, count) for part, count in zip(parts, ahead, strict=True)]
            self._decode(rest)
        except (ContextFull, Stopped):
            for part, count in zip(parts, ahead, strict=False):
                if count:
                    self.cut(part.sequence, part.position)
            raise
        self._rows = _rows(ahead, rest)

    def _read_ahead(self, part: Part) -> int:
        """Append tokens of a part whose logits are not wanted without llama.cpp; return how many.

        None where they are so few that llama.cpp is as fast, or where no cells in a row are free, which it does not
        need. Raises `Stopped`.
        """
        count = len(part.tokens_n) - part.outputs
        if self._prefill is None or self._layout is None or count < self._prefill.least:
            return 0
        past = self._layout.unpack(self.save(part.sequence)) if part.position else None
        try:
            fresh = self._prefill.read(part.tokens_n[:count], past, lambda: self.stop)
        except PrefillStopped:
            raise Stopped from None
        # A state takes the place of all that its sequence holds, so it goes into a spare one and is shared from there.
        spare = self.sequences
        if not self.restore(spare, self._layout.pack(fresh, part.position)):
            return 0
        self._llama.llama_memory_seq_cp(self._memory, spare, part.sequence, -1, -1)
        self.cut(spare, 0)
        return count

    def _find_layout(self, prefill: Prefill) -> StateLayout:
        """Read the layout of states off one of two tokens."""
        try:
            self._decode([Part(self.sequences, 0, np.zeros(2, np.int32), 1)])
            layout = StateLayout.of(self.save(self.sequences), prefill.layers, prefill.width)
        except (LayoutUnknown, DecodeFailed) as error:
            self.close()
            raise ModelLoadFailed(f"llama.cpp's cache cannot be written: {error}") from error
        self.clear()
        return layout

    def _decode(self, parts: Sequence[Part]) -> None:
        """Append each part to its sequence by llama.cpp. Raises `ContextFull`, `Stopped`, `DecodeFailed`."""
        parts = [part for part in parts if len(part.tokens_n)]
        if not parts:
            return
        start = 0
        for part in parts:
            end = start + len(part.tokens_n)
            self._tokens_b[start:end] = part.tokens_n
            self._positions_b[start:end] = np.arange(part.position, part.position + end - start, dtype=np.int32)
            self._sequences_b[start:end] = part.sequence
            self._outputs_b[start:end] = 0
            self._outputs_b[end - part.outputs : end] = 1
            start = end
        self._batch.n_tokens = start
        status = self._llama.llama_decode(self._context, self._batch)
        if status == 1:
            raise ContextFull
        if status == 2:
            # llama.cpp takes back the micro-batch it was at and keeps those before it, so that some parts may be there.
            for part in parts:
                self.cut(part.sequence, part.position if self.forgets_parts else 0)
            raise Stopped
        if status != 0:
            raise DecodeFailed(f"llama.cpp could not run a batch (status {status})")

    def logits(self, row: int) -> FloatArray:
        """Return a view `(v,)` of the logits of one token of the last batch; the next `read` overwrites it."""
        pointer = self._llama.llama_get_logits_ith(self._context, self._rows[row])
        return np.ctypeslib.as_array(pointer, shape=(self._vocabulary_size,))

    def share(self, source: int, target: int, length: int) -> None:
        """Let an empty sequence begin with the first `length` tokens of another one."""
        self._llama.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def cut(self, sequence: int, length: int) -> None:
        """Keep only the first `length` tokens of a sequence; models that do not `forgets_parts` allow 0 alone."""
        self._llama.llama_memory_seq_rm(self._memory, sequence, length, -1)

    def clear(self) -> None:
        """Forget everything."""
        self._llama.llama_memory_clear(self._memory, True)

    def save(self, sequence: int) -> State:
        """Return the keys and values of a sequence as bytes."""
        state_n = np.empty(self.size(sequence), np.uint8)
        n = self._llama.llama_state_seq_get_data(self._context, _bytes(state_n), len(state_n), sequence)
        return state_n[:n]

    def size(self, sequence: int) -> int:
        """Return the number of bytes that `save` would return; nothing is copied for it."""
        return int(self._llama.llama_state_seq_get_size(self._context, sequence))

    def restore(self, sequence: int, state: State) -> bool:
        """Put saved keys and values into an empty sequence; False, and it stays empty, where they do not fit in."""
        n = self._llama.llama_state_seq_set_data(self._context, _bytes(state), len(state), sequence)
        if not n:
            self.cut(sequence, 0)
        return bool(n)

    def close(self) -> None:
        """Free it, and what reads prompts for it. Do not use it any further."""
        self._llama.llama_free(self._context)
        if self._prefill:
            self._prefill.close()

    def _parameters(self, tuning: Tuning) -> Any:
        parameters = self._llama.llama_context_default_params()
        tuning.fill(parameters, available_cores())
        parameters.n_ctx = self.cells
        parameters.n_batch = self.batch
        if tuning.micro_batch == tuning.batch:  # the answers' tokens are not to make a second, small computation
            parameters.n_ubatch = self.batch
        parameters.n_seq_max = self.sequences + (self._prefill is not None)
        parameters.n_outputs_max = self.outputs
        parameters.kv_unified = True
        parameters.no_perf = True
        return parameters

    def _make_batch(self) -> None:
        """Lay the batch over numpy arrays, so that filling it needs no loop over tokens."""
        self._tokens_b = np.zeros(self.batch, np.int32)
        self._positions_b = np.zeros(self.batch, np.int32)
        self._sequences_b = np.zeros(self.batch, np.int32)
        self._counts_b = np.ones(self.batch, np.int32)
        self._outputs_b = np.zeros(self.batch, np.int8)
        integers, first = ctypes.POINTER(ctypes.c_int32), self._sequences_b.ctypes.data
        places = [ctypes.cast(first + 4 * i, integers) for i in range(self.batch)]
        self._places = (integers * self.batch)(*places)
        self._batch = self._llama.llama_batch(
            0,
            self._tokens_b.ctypes.data_as(integers),
            None,
            self._positions_b.ctypes.data_as(integers),
            self._counts_b.ctypes.data_as(integers),
            ctypes.cast(self._places, ctypes.POINTER(integers)),
            self._outputs_b.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )


def _after(part: Part, count: int) -> Part:
    """Return a part without its first tokens."""
    return part._replace(position=part.position + count, tokens_n=part.tokens_n[count:])


def _rows(ahead: Sequence[int], rest: Sequence[Part]) -> list[int]:
    """Return for each token of a batch its place among those that llama.cpp read, -1 where it did not."""
    rows, start = [], 0
    for count, part in zip(ahead, rest, strict=True):
        end = start + len(part.tokens_n)
        rows += [-1] * count + list(range(start, end))
        start = end
    return rows


def _stoppable(llama: Any, context: Any) -> Any:
    """Let llama.cpp ask after every node of a graph whether to stop; return the text that says so once it has a letter.

    The one asked is the C library's strlen: a text of no letters is false, one of one letter true. A Python function
    would take the interpreter's lock some 500 times a step, in the thread that is to compute, and wait for it whenever
    another one is at work.
    """
    text = ctypes.create_string_buffer(2)
    strlen = ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p).value
    llama.llama_set_abort_callback(context, llama.ggml_abort_callback(strlen), ctypes.addressof(text))
    return text


def _bytes(state: State) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
