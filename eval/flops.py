"""Floating-point operations of a question, from the shape of the model that read and wrote it.

Every token that is read or written passes every weight once, a multiplication and an addition: 2 x parameters (Kaplan
et al. 2020, table 1). Attention adds, for the token at position p, 4 x layers x width x p: its scores against all
earlier tokens and the sum that they weigh. Tokens found in the cache cost nothing again. The logits of prompt tokens
are counted although most engines leave them out (for a small model with a large vocabulary, up to a quarter too many);
the embedder and the search are not counted (under 1% of the smallest generator here).
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy.typing as npt
from pydantic import ValidationError

from eval.files import write_text
from eval.rows import Record
from rag.errors import SmallholdError

if TYPE_CHECKING:
    from gguf import GGUFReader

MODELS = "models.json"
_MAX_MODELS = 1_000_000

Locate = Callable[[str], Path | None]


class Architecture(Record):
    """The shape of a language model. `parameters` are the weights that a token passes.

    `layers` and `width` (of the queries: heads x size of a head) are 0 where they are not known: no quadratic term.
    """

    parameters: int
    layers: int = 0
    width: int = 0


class Tensor(NamedTuple):
    """A table of weights in a file: how many, on how many bytes, in how many dimensions (1: a bias or a scale)."""

    elements: int
    bytes: int
    dimensions: int


def question_flops(architecture: Architecture, *, prompt: int, cached: int, completion: int) -> float:
    """Return the operations for `prompt` tokens, `cached` of them at hand already, and `completion` written ones."""
    total, known = prompt + completion, min(cached, prompt)
    positions = (total * (total + 1) - known * (known + 1)) / 2
    attention = 4.0 * architecture.layers * architecture.width * positions
    return 2.0 * architecture.parameters * (total - known) + attention


def read_architecture(path: Path) -> Architecture:
    """Read a GGUF file's header; the weights themselves are not loaded.

    The table of input embeddings is looked up, not multiplied: it counts where it is the output layer as well. Many
    files of models that tie the two hold it twice, so that all tensors would add up to more than the model has.
    Raises `ValueError` where the file is no GGUF, or lacks what is asked of it.
    """
    try:
        reader = _header_reader(path)
        sizes = {tensor.name: int(tensor.n_elements) for tensor in reader.tensors}
        fields = {key: field for key, field in reader.fields.items() if not key.startswith("tokenizer.")}
        family = str(fields["general.architecture"].contents())
        layers, width = (int(fields[f"{family}.{key}"].contents()) for key in ("block_count", "embedding_length"))
        heads = int(fields[f"{family}.attention.head_count"].contents())
        size = fields.get(f"{family}.attention.key_length")
    except (OSError, KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"{path} is no GGUF file that can be read: {error}") from error
    looked_up = sizes.get("token_embd.weight", 0) if "output.weight" in sizes else 0
    return Architecture(
        parameters=sum(sizes.values()) - looked_up,
        layers=layers,
        width=heads * int(size.contents()) if size is not None else width,
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return what tensors a GGUF file holds, by name. Raises `ValueError` where it is none that can be read."""
    try:
        tensors = _header_reader(path).tensors
    except (OSError, KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"{path} is no GGUF file that can be read: {error}") from error
    return {t.name: Tensor(int(t.n_elements), int(t.n_bytes), len(t.shape)) for t in tensors}


def _header_reader(path: Path) -> "GGUFReader":
    """Return gguf's reader, which here steps over lists of strings instead of making an array of each.

    A vocabulary has 150,000 of them, which take ten seconds otherwise.
    """
    from gguf import GGUFReader, GGUFValueType

    class Header(GGUFReader):
        def _get_field_parts(
            self, orig_offs: int, raw_type: int
        ) -> tuple[int, list[npt.NDArray[Any]], list[int], list[GGUFValueType]]:
            head = self.data[orig_offs : orig_offs + 12].tobytes()
            kind = int.from_bytes(head[:4], "little")
            if raw_type != GGUFValueType.ARRAY or kind != GGUFValueType.STRING or self.byte_order == "S":
                return super()._get_field_parts(orig_offs, raw_type)
            place = orig_offs + 12
            for _ in range(int.from_bytes(head[4:], "little")):
                length = self.data[place : place + 8].tobytes()
                if len(length) < 8:
                    raise ValueError("the file ends within a list of strings")
                place += 8 + int.from_bytes(length, "little")
            return place - orig_offs, [], [], [GGUFValueType.ARRAY, GGUFValueType.STRING]

    return Header(path)


def architectures(out: Path, generators: Iterable[str], locate: Locate) -> dict[str, Architecture]:
    """Return the shapes of local models by name, those that can be known.

    Reading a header takes seconds, so what was found is kept in `OUT/models.json`: a report made elsewhere, without
    the weights, has it too. A file of the user's own may have changed under its name and is read anew.
    """
    kept = _kept(out)
    found = dict(kept)
    for name in sorted(set(generators)):
        if name in kept and not name.endswith(".gguf"):
            continue
        path = locate(name)
        if path is not None and (architecture := _readable(path)) is not None:
            found[name] = architecture
    if found != kept:
        write_text(out / MODELS, json.dumps({name: shape.model_dump() for name, shape in found.items()}) + "\n")
    return found


def locate_weights(name: str) -> Path | None:
    """Return the GGUF file of a registry model that is kept already, or the file itself; None where there is none."""
    from rag.build import model_store
    from rag.config import load_settings

    if name.endswith(".gguf"):
        path = Path(name).expanduser()
        return path if path.is_file() else None
    try:
        store = model_store(load_settings())
        return store.locate(name).file if store.is_kept(name) else None
    except (SmallholdError, OSError):
        return None


def _readable(path: Path) -> Architecture | None:
    try:
        return read_architecture(path)
    except ValueError:
        return None


def _kept(out: Path) -> dict[str, Architecture]:
    try:
        with (out / MODELS).open("rb") as file:
            content: dict[str, Any] = json.loads(file.read(_MAX_MODELS))
        return {name: Architecture.model_validate(shape) for name, shape in content.items()}
    except (OSError, ValueError, AttributeError, ValidationError):
        return {}
