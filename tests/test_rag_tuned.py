"""The readable file of a tuning: when it counts, when it is left alone, and that the builder reads it."""

import hashlib
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from rag import tuned as module
from rag.build import LocalModel, local_model
from rag.config import load_settings
from rag.errors import ModelDamaged
from rag.machine import available_cores
from rag.models import ModelStore
from rag.registry import ModelSpec, Registry
from rag.tuned import TUNED, Tuned, drop_tuned, find_tuned, forget_tuning, keep_tuned, this_machine, verify_tuned
from rag.tuning import UNTUNED, Tuning

FINGERPRINT = "0123456789abcdef"
WEIGHTS = b"weights in four bits"
FAST = Tuning(threads=1, batch=256, micro_batch=64, flash_attention="on", kv_type="q8_0")


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cpu_model", lambda: "a processor")
    monkeypatch.setattr(module, "installed", lambda package: "1.0")


def record(**changes: object) -> Tuned:
    fields = {"quantization": "Q4_0", "settings": FAST, "measured": {"f1": 0.5, "data": 'a "set"'}, **changes}
    return Tuned.model_validate({**this_machine(FINGERPRINT), **fields})


def kept(folder: Path) -> Tuned:
    (folder / "Q4_0.gguf").write_bytes(WEIGHTS)
    return keep_tuned(folder, record(), folder / "Q4_0.gguf")


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    tuned = kept(tmp_path)
    assert find_tuned(tmp_path, FINGERPRINT) == tuned
    assert tuned.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert (tmp_path / tuned.file).read_bytes() == WEIGHTS
    assert sorted(p.name for p in tmp_path.iterdir()) == [tuned.file, "tuned.json", TUNED]
    assert tuned.file == f"tuned-q4_0-{tuned.sha256[:8]}.gguf"


def test_without_a_file_nothing_is_tuned_and_nothing_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert find_tuned(tmp_path, FINGERPRINT) is None
    assert caplog.records == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("cpu", lambda patch: patch.setattr(module, "cpu_model", lambda: "another")),
        ("llama_cpp_python", lambda patch: patch.setattr(module, "installed", lambda package: "1.1")),
    ],
)
def test_on_another_machine_it_is_ignored_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, change: object
) -> None:
    kept(tmp_path)
    change(monkeypatch)  # type: ignore[operator]
    assert find_tuned(tmp_path, FINGERPRINT) is None
    assert f"it was measured with {name}" in caplog.text


def test_for_other_weights_it_is_ignored_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept(tmp_path)
    assert find_tuned(tmp_path, "fedcba9876543210") is None
    assert "it was measured with fingerprint" in caplog.text


def test_changed_weights_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / kept(tmp_path).file
    before = file.stat()
    file.write_bytes(WEIGHTS[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert find_tuned(tmp_path, FINGERPRINT) is not None  # size and time are those of the file that was hashed
    with pytest.raises(ModelDamaged, match="was refused"):
        verify_tuned(tmp_path)
    assert find_tuned(tmp_path, FINGERPRINT) is None
    assert "was refused: its SHA-256 is" in caplog.text


def test_missing_weights_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / kept(tmp_path).file).unlink()
    assert find_tuned(tmp_path, FINGERPRINT) is None
    assert "is missing" in caplog.text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"^", "nonsense\n"),
        (r'file = ".*"', 'file = "../elsewhere.gguf"'),
        (r"micro_batch = 64", "micro_batch = 512"),
        (r'flash_attention = "on"', 'flash_attention = "off"'),
        (r"threads = 1", "threads = -1"),
        (r"\[settings\]", "[settings]\nunknown = 1"),
        (r"$", "#" * 200_000),
    ],
)
def test_a_spoilt_file_is_ignored_with_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, old: str, new: str
) -> None:
    kept(tmp_path)
    text = (tmp_path / TUNED).read_text()
    spoilt = re.sub(old, new, text, count=1)
    assert spoilt != text
    (tmp_path / TUNED).write_text(spoilt)
    assert find_tuned(tmp_path, FINGERPRINT) is None
    assert "is ignored, the registry's weights are used" in caplog.text


def test_a_new_choice_replaces_the_old_one(tmp_path: Path) -> None:
    old = kept(tmp_path)
    (tmp_path / "Q8_0.gguf").write_bytes(b"weights in eight bits")
    new = keep_tuned(tmp_path, record(quantization="Q8_0"), tmp_path / "Q8_0.gguf")
    assert find_tuned(tmp_path, FINGERPRINT) == new
    assert not (tmp_path / old.file).exists()
    settings_only = keep_tuned(tmp_path, record(quantization=""), None)
    assert find_tuned(tmp_path, FINGERPRINT) == settings_only
    assert list(tmp_path.glob("*.gguf")) == []


def test_interrupted_while_it_is_put_into_effect_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = kept(tmp_path)
    (tmp_path / "Q8_0.gguf").write_bytes(b"weights in eight bits")

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        keep_tuned(tmp_path, record(quantization="Q8_0"), tmp_path / "Q8_0.gguf")
    assert find_tuned(tmp_path, FINGERPRINT) == old


def test_dropping_keeps_the_notes_and_forgetting_does_not(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"the registry's")
    kept(tmp_path)
    (tmp_path / "tune.json").write_text("{}")
    (tmp_path / "tuning").mkdir()
    assert drop_tuned(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "tune.json", "tuning"]
    assert not drop_tuned(tmp_path)
    kept(tmp_path)
    assert forget_tuning(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf"]


def test_settings_that_llama_cpp_does_not_take_are_refused() -> None:
    with pytest.raises(ValidationError, match="micro_batch"):
        Tuning(batch=64, micro_batch=128)
    with pytest.raises(ValidationError, match="flash attention"):
        Tuning(kv_type="q8_0")


def test_the_parameters_of_llama_cpp() -> None:
    parameters = SimpleNamespace()
    FAST.fill(parameters, cores=4)
    assert vars(parameters) == {
        "n_batch": 256, "n_ubatch": 64, "n_threads": 1, "n_threads_batch": 1, "flash_attn_type": 1, "type_k": 8,
        "type_v": 8,
    }  # fmt: skip
    UNTUNED.fill(parameters, cores=4)
    assert (parameters.n_threads, parameters.flash_attn_type, parameters.type_k) == (4, -1, 1)


def registered(tmp_path: Path) -> ModelStore:
    (tmp_path / "w.gguf").write_bytes(b"the registry's")
    spec = ModelSpec.model_validate(
        {
            "name": "m", "kind": "generator", "license": "Apache-2.0", "about": "",
            "files": [{"path": "m.gguf", "sha256": hashlib.sha256(b"the registry's").hexdigest()}],
            "source": [{"path": str(tmp_path / "w.gguf")}],
        }
    )  # fmt: skip
    return ModelStore(Registry(model=(spec,)), tmp_path / "store")


def test_the_builder_takes_what_was_tuned(tmp_path: Path) -> None:
    store = registered(tmp_path)
    settings = load_settings(flags={"generator": {"model": "m"}})
    plain = local_model(settings, store)
    model = store.locate("m")
    assert plain == LocalModel(model.path / "m.gguf", UNTUNED, model.fingerprint)
    (model.path / "Q4_0.gguf").write_bytes(WEIGHTS)
    many = FAST.model_copy(update={"threads": 1000})
    record_ = record(fingerprint=model.fingerprint, settings=many)
    kept_ = keep_tuned(model.path, record_, model.path / "Q4_0.gguf")
    found = local_model(settings, store)
    assert found.file == model.path / kept_.file
    assert found.tuning == FAST.model_copy(update={"threads": available_cores()})
    assert found.fingerprint != plain.fingerprint  # answers kept by an evaluation are not taken for these
    drop_tuned(model.path)
    assert local_model(settings, store) == plain


def test_the_hash_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = kept(tmp_path)

    def refuse(path: Path) -> str:
        raise AssertionError("hashed again")

    monkeypatch.setattr(module, "sha256_of", refuse)
    assert find_tuned(tmp_path, FINGERPRINT) == tuned
    assert list(json.loads((tmp_path / "tuned.json").read_text())) == [tuned.file]
    os.utime(tmp_path / tuned.file, ns=(1, 1))
    with pytest.raises(AssertionError, match="hashed again"):
        find_tuned(tmp_path, FINGERPRINT)
