import json
import sys
from pathlib import Path

import pytest

from rag import probe as probe_module
from rag.errors import ModelLoadFailed
from rag.probe import ProbeResult, probe, runnable


@pytest.mark.model
def test_a_whole_model_runs_and_is_remembered(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "probes.json"
    assert runnable(tiny_model, memory)
    assert list(json.loads(memory.read_text()).values()) == [True]
    monkeypatch.setattr(probe_module, "probe", lambda *_, **__: pytest.fail("probed again"))
    assert runnable(tiny_model, memory)


@pytest.mark.model
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "header"])
def test_damaged_files_are_a_message(tiny_model: Path, tmp_path: Path, damage: str) -> None:
    whole = tiny_model.read_bytes()
    content = {
        "cut": whole[: len(whole) // 2],
        "garbage": b"GGUF" + bytes(range(256)) * 4000,
        "empty": b"",
        "header": whole[:4] + b"\xff" * 64 + whole[68:2_000_000],
    }[damage]
    file = tmp_path / "bad.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelLoadFailed, match=r"bad\.gguf cannot be run") as caught:
        runnable(file, tmp_path / "probes.json")
    assert "smallhold models" in caught.value.hint
    assert not (tmp_path / "probes.json").exists()


def test_a_native_crash_is_told_apart_with_its_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that kills itself with SIGSEGV stands for a build with kernels that this CPU cannot run."""
    shim = tmp_path / "python"
    shim.write_text("#!/bin/sh\nkill -SEGV $$\n")
    shim.chmod(0o755)
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    monkeypatch.setattr(sys, "executable", str(shim))
    assert probe(model) == ProbeResult(False, "llama.cpp crashed with SIGSEGV")
    with pytest.raises(ModelLoadFailed) as caught:
        runnable(model, tmp_path / "probes.json")
    assert "LLAMA_BUILD=portable" in caught.value.hint


def test_a_crash_of_the_repacked_kernels_alone_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = tmp_path / "python"
    shim.write_text('#!/bin/sh\nfor last; do :; done\n[ "$last" = plain ] || kill -ILL $$\n')
    shim.chmod(0o755)
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    monkeypatch.setattr(sys, "executable", str(shim))
    assert runnable(model, tmp_path / "probes.json") is False
    assert list(json.loads((tmp_path / "probes.json").read_text()).values()) == [False]


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="no model file"):
        runnable(tmp_path / "none.gguf", tmp_path / "probes.json")
