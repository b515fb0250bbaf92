"""Other quantizations of a model, made on this machine: by llama.cpp in a child process, or from base and adapter.

llama.cpp quantizes anew what is quantized already; what the first rounding lost does not come back, so Q8_0 of a model
in 4 bits is larger and no better, but may be faster. A child process does it, because llama.cpp cannot be interrupted
while at it, and because it ends the process where it does not like a file.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from importlib.resources import as_file
from pathlib import Path

from rag.adapter import adapt
from rag.engine.native import bindings, load_model
from rag.errors import InvalidRequest, ModelDamaged, ModelLoadFailed
from rag.models import ModelStore
from rag.registry import ModelSpec

Done = Callable[[int], None]

# llama.cpp's number of the type of file, and about how many bits a weight takes. Small models are large ones in bits a
# weight: their vocabulary stays in 6 or 8 bits, and rows that are no multiple of 256 cannot take the K types.
_FILE_TYPES = {
    "Q4_0": (2, 5.5),
    "IQ4_NL": (25, 5.5),
    "Q4_1": (3, 6.0),
    "Q4_K_S": (14, 6.0),
    "Q4_K_M": (15, 6.5),
    "Q5_0": (8, 6.5),
    "Q5_1": (9, 7.0),
    "Q5_K_M": (17, 7.0),
    "Q6_K": (18, 8.7),
    "Q8_0": (7, 8.7),
}
# Those that `rag.adapter` can write.
_ADAPTED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q6_K", "Q8_0")

POLL_SECONDS = 0.2


class Quantizer:
    """Makes other quantizations of one model of the registry."""

    def __init__(self, store: ModelStore, spec: ModelSpec) -> None:
        self._model = store.locate(spec.name)
        self._adapted = next((source for source in spec.source if source.base), None)
        self._store = store
        self.own, self._parameters = describe(self._model.file)
        if self._adapted is not None:  # the file's metadata are the base's
            self.own = self._adapted.quantization

    @property
    def known(self) -> tuple[str, ...]:
        """The quantizations that can be made of this model, its own aside."""
        names = _ADAPTED if self._adapted else tuple(_FILE_TYPES)
        return tuple(name for name in names if name != self.own)

    def check(self, names: tuple[str, ...]) -> None:
        """Raise `InvalidRequest` where one cannot be made."""
        for name in names:
            if name not in self.known:
                raise InvalidRequest(
                    f"{self._model.spec.name} cannot be made {name}", hint=f"It can be made {', '.join(self.known)}."
                )

    def about_bytes(self, name: str) -> int:
        """Return about how large the file will be, rather too much than too little."""
        return int(self._parameters * _FILE_TYPES[name][1] / 8)

    def make(self, name: str, out: Path, done: Done) -> None:
        """Write the model in another quantization to `out`; `done` is told the bytes written since the last call.

        What is half written is removed. Raises `ModelLoadFailed`, `ModelMissing` where the adapter's base is not here.
        """
        part = out.with_suffix(".part")
        try:
            if self._adapted is None:
                requantize(self._model.file, part, name, done)
            else:
                base = self._store.locate(self._adapted.base).file
                packed = resources.files("configs") / "adapters" / self._adapted.adapter
                with as_file(packed) as adapter:
                    adapt(base, adapter, part, name, done)
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)


def describe(file: Path) -> tuple[str, int]:
    """Return the quantization of a GGUF file ("" where it is none of ours) and its number of parameters."""
    llama = bindings()
    model = load_model(llama, file, vocabulary_only=True)
    buffer = ctypes.create_string_buffer(32)
    llama.llama_model_meta_val_str(model, b"general.file_type", buffer, len(buffer))
    count = int(llama.llama_model_n_params(model))
    llama.llama_model_free(model)
    names = {str(number): name for name, (number, _) in _FILE_TYPES.items()}
    return names.get(buffer.value.decode(), ""), count


def requantize(source: Path, out: Path, name: str, done: Done) -> None:
    """Let llama.cpp write `source` in another quantization, in a child process that ends with this one's interruption.

    Raises `ModelLoadFailed` with what it said.
    """
    command = [sys.executable, "-m", "rag.quantize", str(source), str(out), name]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        try:
            written = 0
            while True:
                try:
                    _, said = child.communicate(timeout=POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    now = out.stat().st_size if out.is_file() else 0
                    done(now - written)
                    written = now
        except BaseException:
            child.kill()
            raise
    if child.returncode < 0:
        raise ModelLoadFailed(
            f"llama.cpp crashed with {signal.Signals(-child.returncode).name} when making {name} of {source.name}"
        )
    if child.returncode != 0:
        lines = said.strip().splitlines()
        raise ModelLoadFailed(lines[-1] if lines else f"making {name} of {source.name} failed")


def _quantize(source: Path, out: Path, name: str) -> None:
    llama = bindings()
    parameters = llama.llama_model_quantize_default_params()
    parameters.ftype = _FILE_TYPES[name][0]
    parameters.allow_requantize = True
    status = llama.llama_model_quantize(os.fsencode(source), os.fsencode(out), ctypes.byref(parameters))
    if status != 0:
        raise ModelDamaged(f"llama.cpp could not make {name} of {source.name} (status {status})")


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would wait for llama.cpp to come back
    try:
        _quantize(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    except (ModelDamaged, ModelLoadFailed) as error:
        sys.exit(error.message)


if __name__ == "__main__":
    _main()
