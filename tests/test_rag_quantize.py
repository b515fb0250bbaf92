"""Making other quantizations: what can be made of which model, and that nothing half made stays behind."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rag import quantize
from rag.errors import InvalidRequest, ModelLoadFailed
from rag.models import ModelStore
from rag.quantize import Quantizer, describe, requantize
from rag.registry import ModelSpec, Registry

CONTENT = b"weights"


def spec(name: str, content: bytes, source: dict[str, object]) -> ModelSpec:
    file = {"path": "m.gguf", "sha256": hashlib.sha256(content).hexdigest()}
    record = {"name": name, "kind": "generator", "license": "Apache-2.0", "about": "", "files": [file]}
    return ModelSpec.model_validate({**record, "source": [source]})


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """A plain model and one that is made of it; what makes files is a stand-in that writes what it was given."""

    def join(base: Path, adapter: Path, out: Path, quantization: str, done: Callable[[int], None]) -> None:
        out.write_bytes(base.read_bytes() + quantization.encode())
        done(1)

    monkeypatch.setattr("rag.models.adapt", join)
    monkeypatch.setattr("rag.quantize.adapt", join)
    monkeypatch.setattr("rag.quantize.describe", lambda file: ("Q4_K_M", 8_000_000))
    (tmp_path / "w.gguf").write_bytes(CONTENT)
    plain = spec("plain", CONTENT, {"path": str(tmp_path / "w.gguf")})
    source = {"base": "plain", "adapter": "reader-0.5b.gguf", "quantization": "Q8_0"}
    return ModelStore(Registry(model=(plain, spec("reader", CONTENT + b"Q8_0", source))), tmp_path / "store")


def quantizer(store: ModelStore, name: str) -> Quantizer:
    store.locate("plain")
    return Quantizer(store, store.registry.get(name))


def test_a_plain_model_can_be_made_what_llama_cpp_makes_its_own_aside(store: ModelStore) -> None:
    made = quantizer(store, "plain")
    assert made.own == "Q4_K_M"
    assert {"Q4_0", "IQ4_NL", "Q5_0", "Q6_K", "Q8_0"} <= set(made.known)
    with pytest.raises(InvalidRequest, match="cannot be made Q4_K_M"):
        made.check(("Q4_0", "Q4_K_M"))
    assert made.about_bytes("Q4_0") == 5_500_000  # 5.5 bits a weight


def test_a_model_with_an_adapter_is_made_of_its_base(store: ModelStore, tmp_path: Path) -> None:
    made = quantizer(store, "reader")
    assert made.own == "Q8_0"  # the registry's word: the file's metadata are the base's
    assert made.known == ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q6_K")
    told: list[int] = []
    made.make("Q4_0", tmp_path / "Q4_0.gguf", told.append)
    assert (tmp_path / "Q4_0.gguf").read_bytes() == CONTENT + b"Q4_0"
    assert told == [1]


def test_what_is_half_written_is_removed(store: ModelStore, tmp_path: Path) -> None:
    def interrupt(n: int) -> None:
        raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    made = quantizer(store, "reader")
    with pytest.raises(KeyboardInterrupt):
        made.make("Q4_0", tmp_path / "Q4_0.gguf", interrupt)
    assert sorted(tmp_path.iterdir()) == sorted({*before, tmp_path / "store"})


def child(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Put a shell script in the place of the interpreter; $4 is the file to write."""
    (folder / "python").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "python").chmod(0o755)
    monkeypatch.setattr(quantize.sys, "executable", str(folder / "python"))
    monkeypatch.setattr(quantize, "POLL_SECONDS", 0.01)


def test_an_interruption_ends_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, tmp_path, f'echo $$ > "{tmp_path}/pid.part"; mv "{tmp_path}/pid.part" "$4"; exec sleep 500')

    def interrupt(n: int) -> None:
        if n:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        requantize(tmp_path / "m.gguf", tmp_path / "out", "Q4_0", interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "out").read_text()), 0)


def test_a_crash_of_llama_cpp_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, tmp_path, "kill -SEGV $$")
    with pytest.raises(ModelLoadFailed, match=r"crashed with SIGSEGV when making Q4_0 of m\.gguf"):
        requantize(tmp_path / "m.gguf", tmp_path / "out", "Q4_0", lambda n: None)
    child(monkeypatch, tmp_path, "echo first >&2; echo it said this >&2; exit 1")
    with pytest.raises(ModelLoadFailed, match=r"^it said this$"):
        requantize(tmp_path / "m.gguf", tmp_path / "out", "Q4_0", lambda n: None)


@pytest.mark.model
def test_llama_cpp_quantizes_a_quantized_model(tiny_model: Path, tmp_path: Path) -> None:
    own, parameters = describe(tiny_model)
    assert (own, parameters) == ("Q4_1", 134_515_008)
    told: list[int] = []
    requantize(tiny_model, tmp_path / "m.gguf", "Q8_0", told.append)
    assert describe(tmp_path / "m.gguf") == ("Q8_0", parameters)
    assert sum(told) <= (tmp_path / "m.gguf").stat().st_size
    with pytest.raises(ModelLoadFailed):
        requantize(tmp_path / "missing.gguf", tmp_path / "n.gguf", "Q8_0", told.append)
