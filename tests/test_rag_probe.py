import json
import sys
from pathlib import Path

import pytest

from rag import probe as probe_module
from rag.errors import ModelLoadFailed
from rag.probe import Finding, ProbeResult, look, probe, runnable


@pytest.mark.model
def test_a_whole_model_runs_and_is_remembered(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "probes.json"
    found = look(tiny_model, memory)
    assert not found.crashes
    assert list(json.loads(memory.read_text()).values()) == [found._asdict()]
    assert 10 < probe(tiny_model).pace < 100_000
    monkeypatch.setattr(probe_module, "probe", lambda *_, **__: pytest.fail("probed again"))
    assert look(tiny_model, memory) == found


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
    shim.write_text('#!/bin/sh\nfor last; do :; done\n[ "$last" = plain ] || kill -ILL $$\necho 9\n')
    shim.chmod(0o755)
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    monkeypatch.setattr(sys, "executable", str(shim))
    assert look(model, tmp_path / "probes.json") == Finding(repacked=False, crashes=True)
    found = {"repacked": False, "crashes": True, "int8": False}
    assert list(json.loads((tmp_path / "probes.json").read_text()).values()) == [found]


@pytest.mark.parametrize(
    ("repacked", "plain", "better"), [(60.0, 80.0, False), (80.0, 60.0, True), (80.0, 84.0, True), (0.0, 0.0, True)]
)
def test_weights_are_repacked_unless_they_are_read_slower_then(
    repacked: float, plain: float, better: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, memory = tmp_path / "m.gguf", tmp_path / "probes.json"
    model.write_bytes(b"GGUF")
    paces = {"repacked": repacked, "plain": plain}
    monkeypatch.setattr(probe_module, "probe", lambda path, way: ProbeResult(True, pace=paces.get(way, 0.0)))
    assert look(model, memory) == Finding(better)
    assert runnable(model, memory) is better


def test_where_only_repacked_weights_run_they_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    monkeypatch.setattr(probe_module, "probe", lambda path, way: ProbeResult("repacked" in way, pace=9.0))
    assert look(model, tmp_path / "probes.json") == Finding(repacked=True)


@pytest.mark.parametrize(
    ("paces", "found"),
    [
        ({"repacked": 80, "plain": 60, "int8": 200, "int8 repacked": 90}, Finding(repacked=True, int8=True)),
        ({"repacked": 80, "plain": 60, "int8": 200, "int8 repacked": 85}, Finding(repacked=True)),
        ({"repacked": 60, "plain": 80, "int8": 90, "int8 repacked": 50}, Finding(repacked=False, int8=True)),
        ({"repacked": 60, "plain": 80, "int8": 80}, Finding(repacked=False)),
        ({"plain": 80, "int8": 150}, Finding(repacked=False, crashes=True, int8=True)),
        ({"repacked": 80, "plain": 60}, Finding(repacked=True)),  # of another architecture
    ],
)
def test_prompts_are_read_in_int8_where_that_is_faster(
    paces: dict[str, float], found: Finding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, memory = tmp_path / "m.gguf", tmp_path / "probes.json"
    model.write_bytes(b"GGUF")
    results = {way: ProbeResult(True, pace=pace) for way, pace in paces.items()}
    monkeypatch.setattr(probe_module, "probe", lambda path, way: results.get(way, ProbeResult(False, "no")))
    assert look(model, memory) == found


@pytest.mark.parametrize("written", ["[]", "{", '{"k": true}', '{"k": {"repacked": true}}', "3"])
def test_what_is_no_finding_is_forgotten(written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, memory = tmp_path / "m.gguf", tmp_path / "probes.json"
    model.write_bytes(b"GGUF")
    memory.write_text(written)
    monkeypatch.setattr(probe_module, "probe", lambda path, way: ProbeResult(True))
    assert look(model, memory) == Finding(repacked=True)
    assert list(json.loads(memory.read_text()).values()) == [{"repacked": True, "crashes": False, "int8": False}]


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="no model file"):
        runnable(tmp_path / "none.gguf", tmp_path / "probes.json")
