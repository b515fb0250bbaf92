"""The compiled llama-cpp-python wheel: made once for each kind of machine, whole or not at all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from base import SetupError
from llama_wheel import (
    build_inputs,
    cmake_flags,
    compile_commands,
    compile_environment,
    cpu_features,
    require_tools,
)
from wheel_cache import Inputs, adopt_wheel, build_key, cache_root, ensure_wheel, find_wheel

ROOT = Path(__file__).resolve().parent.parent
WHEEL = "llama_cpp_python-0.3.36-py3-none-any.whl"
INPUTS: Inputs = {
    "source": "llama-cpp-python==0.3.36 --hash=sha256:00",
    "build": "native",
    "cmake": ["-DGGML_NATIVE=ON"],
    "cpu": ["avx2", "fma"],
    "platform": "linux-x86_64 glibc 2.36",
    "compiler": "c++ 12.2.0",
}


def test_the_key_holds_everything_that_shapes_the_code() -> None:
    changed: list[Inputs] = [
        {"source": "llama-cpp-python==0.3.37 --hash=sha256:00"},
        {"source": "llama-cpp-python==0.3.36 --hash=sha256:01"},
        {"build": "portable"},
        {"cmake": ["-DGGML_NATIVE=OFF"]},
        {"cpu": ["avx2", "avx512f", "fma"]},
        {"platform": "linux-aarch64 glibc 2.36"},
        {"compiler": "c++ 13.1.0"},
    ]
    keys = {build_key(INPUTS)} | {build_key({**INPUTS, **change}) for change in changed}
    assert len(keys) == 8
    assert {next(iter(change)) for change in changed} == INPUTS.keys()
    assert build_key(dict(reversed(INPUTS.items()))) == build_key(INPUTS)


def test_inputs_of_this_machine_are_whole_and_steady() -> None:
    inputs = build_inputs("native", {"PATH": os.environ["PATH"], "CMAKE_ARGS": "-DA='b c' -DD=1"})
    assert inputs.keys() == INPUTS.keys()
    assert inputs["cmake"][-2:] == ["-DA=b c", "-DD=1"]
    assert inputs["source"].startswith("llama-cpp-python==")
    assert "--hash=sha256:" in inputs["source"]
    assert inputs == build_inputs(
        "native", {"PATH": os.environ["PATH"], "CMAKE_ARGS": "-DD=1".join(["-DA='b c' ", ""])}
    )
    assert build_inputs("portable", {})["cpu"] == []


def test_amx_is_off_and_everything_else_native_on_x86_alone() -> None:
    off = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
    assert cmake_flags("native", "x86_64", None) == [
        "-DGGML_NATIVE=ON",
        f"-DCMAKE_C_FLAGS={off}",
        f"-DCMAKE_CXX_FLAGS={off}",
    ]
    assert cmake_flags("native", "aarch64", None) == ["-DGGML_NATIVE=ON"]
    assert cmake_flags("portable", "aarch64", None) == ["-DGGML_NATIVE=OFF"]
    assert {"-DGGML_NATIVE=OFF", "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON"} <= set(
        cmake_flags("portable", "x86_64", None)
    )


def test_a_compiler_that_knows_no_amx_is_not_told_of_it(tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\ncase "$*" in *amx-bf16*) exit 1;; esac\n')
    compiler.chmod(0o755)
    assert cmake_flags("native", "x86_64", str(compiler))[1] == "-DCMAKE_C_FLAGS=-mno-amx-tile -mno-amx-int8"


def test_cpu_features_are_read_from_the_first_core(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: sse2 avx2 fma\nprocessor\t: 1\nflags\t\t: sse2\n")
    assert cpu_features(cpuinfo) == ["avx2", "fma", "sse2"]
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert cpu_features(cpuinfo) == ["asimd", "fp"]


def test_cache_root_follows_the_environment() -> None:
    assert cache_root({"SMALLHOLD_CACHE": "/a"}) == Path("/a")
    assert cache_root({"XDG_CACHE_HOME": "/b"}) == Path("/b/smallhold")
    assert cache_root({}) == Path.home() / ".cache/smallhold"


def compiled(_inputs: Inputs, scratch: Path, log: Path) -> Path:
    log.write_text("compiled\n")
    wheel = scratch / WHEEL
    wheel.write_bytes(b"machine code")
    return wheel


def never(_inputs: Inputs, _scratch: Path, _log: Path) -> Path:
    raise AssertionError("compiled again")


def test_a_wheel_is_compiled_once(tmp_path: Path) -> None:
    first = ensure_wheel(tmp_path, INPUTS, compiled)
    assert first == tmp_path / build_key(INPUTS) / WHEEL
    assert first.read_bytes() == b"machine code"
    assert ensure_wheel(tmp_path, INPUTS, never) == first
    assert find_wheel(tmp_path, {**INPUTS, "cpu": []}) is None
    assert not [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".") or entry.suffix == ".log"]


def test_a_damaged_wheel_is_compiled_again(tmp_path: Path) -> None:
    wheel = ensure_wheel(tmp_path, INPUTS, compiled)
    wheel.write_bytes(b"machine cod!")
    assert find_wheel(tmp_path, INPUTS) is None
    assert ensure_wheel(tmp_path, INPUTS, compiled).read_bytes() == b"machine code"
    (wheel.parent / "build.json").write_text("{")
    assert find_wheel(tmp_path, INPUTS) is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SetupError])
def test_a_build_that_ends_early_leaves_only_its_log(tmp_path: Path, error: type[BaseException]) -> None:
    def stopped(inputs: Inputs, scratch: Path, log: Path) -> Path:
        compiled(inputs, scratch, log)
        raise error

    with pytest.raises(error):
        ensure_wheel(tmp_path, INPUTS, stopped)
    key = build_key(INPUTS)
    assert {entry.name for entry in tmp_path.iterdir()} == {f"{key}.lock", f"{key}.log"}
    killed = tmp_path / f".{key}-left"  # a kill -9 leaves its scratch folder to the next build
    killed.mkdir()
    ensure_wheel(tmp_path, INPUTS, compiled)
    assert not killed.exists()


def test_a_machine_without_compiler_takes_a_wheel_that_was_carried_there(tmp_path: Path) -> None:
    wheel = ensure_wheel(tmp_path, INPUTS, compiled)
    assert find_wheel(tmp_path, {**INPUTS, "compiler": ""}) == wheel
    assert find_wheel(tmp_path, {**INPUTS, "compiler": "", "cpu": ["avx2"]}) is None
    assert find_wheel(tmp_path, {**INPUTS, "compiler": "c++ 13.1.0"}) is None


def test_a_wheel_can_be_adopted_by_name_and_version(tmp_path: Path) -> None:
    built = tmp_path / WHEEL
    built.write_bytes(b"from elsewhere")
    other = tmp_path / "llama_cpp_python-0.3.35-py3-none-any.whl"
    other.write_bytes(b"older")
    adopted = adopt_wheel(tmp_path / "wheels", INPUTS, built)
    assert ensure_wheel(tmp_path / "wheels", INPUTS, never) == adopted
    assert built.exists()
    for wrong in (other, tmp_path / "absent" / WHEEL):
        with pytest.raises(SetupError, match=r"is no wheel of llama-cpp-python 0\.3\.36"):
            adopt_wheel(tmp_path / "wheels", INPUTS, wrong)


def test_missing_tools_are_named_with_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no C\+\+ compiler\n.*apt-get install g\+\+"):
        require_tools({**INPUTS, "compiler": ""})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match=r"there is no cmake\n.*apt-get install cmake"):
        require_tools(INPUTS)


def test_compiling_takes_only_hashed_sources_and_stays_in_its_folder(tmp_path: Path) -> None:
    venv, tools, wheel = compile_commands(tmp_path)
    assert venv[-3:] == ["-m", "venv", str(tmp_path / "venv")]
    assert "--require-hashes" in tools
    assert "--require-hashes" in wheel
    assert {"--no-build-isolation", "--no-cache-dir", "--no-deps"} <= set(wheel)
    assert wheel[-1] == str(tmp_path / "out")
    environ = compile_environment({**INPUTS, "cmake": ["-DA=b c", "-DD=1"]}, tmp_path)
    assert environ["CMAKE_ARGS"] == "'-DA=b c' -DD=1"
    assert Path(environ["TMPDIR"]).parent == tmp_path


SLOW_BUILD = """
import os, sys, time
from pathlib import Path
import llama_wheel, wheel_cache
from base import run

child = f"import time; open({sys.argv[2]!r}, 'w').close(); time.sleep(60)"
llama_wheel.compile_commands = lambda scratch: [[sys.executable, "-c", child]]
llama_wheel.require_tools = lambda inputs: None
inputs = {"source": "llama-cpp-python==0.3.36", "build": "native", "cmake": [], "compiler": "c++"}
run(lambda: print(wheel_cache.ensure_wheel(Path(sys.argv[1]), inputs, llama_wheel.compile_with_pip)) or 0)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_a_build_stops_its_children_and_clears_up(tmp_path: Path, number: signal.Signals) -> None:
    wheels, started = tmp_path / "wheels", tmp_path / "started"
    command = [sys.executable, "-c", SLOW_BUILD, str(wheels), str(started)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(500):
            if started.exists():
                break
            time.sleep(0.02)
        assert started.exists()
        process.send_signal(number)
        _, told = process.communicate(timeout=20)  # ends only when the child, which holds stderr, is gone too
    assert process.returncode == 130
    assert "interrupted" in told
    assert {entry.suffix for entry in wheels.iterdir()} == {".lock", ".log"}
