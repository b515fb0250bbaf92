"""The compiled llama-cpp-python wheel: built once for each kind of machine and kept in `wheel_cache`.

llama-cpp-python comes as source only. Two builds:
  native    every instruction of this CPU but AMX. Compiled for AMX, llama.cpp dies at the first token under hypervisors
            that advertise AMX without letting a guest use it.
  portable  AVX2, FMA and F16C (CPUs from 2013 on) on x86-64, the baseline elsewhere: for images that run on other CPUs.

    python scripts/llama_wheel.py [--build native|portable]   print the wheel's path, compile it first where needed
    python scripts/llama_wheel.py --show                      print what the key is made of, and whether it is there
    python scripts/llama_wheel.py --adopt WHEEL               keep a wheel that was built elsewhere under this key
"""

import argparse
import contextlib
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from base import SetupError, output, requirement_lines, run, say
from wheel_cache import Inputs, adopt_wheel, build_key, cache_root, ensure_wheel, find_wheel

HERE = Path(__file__).resolve().parent
SDIST_LOCK = HERE / "llama.lock"
BUILD_LOCK = HERE / "llama-build.lock"
BUILDS = ("native", "portable")

# What the bindings do not load: the multimodal library, tools, server, tests.
NOT_NEEDED = (
    "-DLLAVA_BUILD=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_TOOLS=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_OPENSSL=OFF",
)
AMX_OFF = ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")
PORTABLE_X86 = ("SSE42", "AVX", "AVX2", "FMA", "F16C", "BMI2")


def build_inputs(build: str, environ: Mapping[str, str] = os.environ) -> Inputs:
    """Everything that shapes the compiled wheel. It fits every Python 3 (`py3-none`), so that is no part of it."""
    compiler = find_compiler(environ)
    instructions = cmake_flags(build, platform.machine(), compiler)
    return {
        "source": " ".join(line.rstrip(" \\") for line in requirement_lines(SDIST_LOCK)),
        "build": build,
        "cmake": [*instructions, *NOT_NEEDED, *shlex.split(environ.get("CMAKE_ARGS", ""))],
        "cpu": cpu_features() if build == "native" else [],
        "platform": f"{sysconfig.get_platform()} {' '.join(platform.libc_ver())}".strip(),
        "compiler": output([compiler, "--version"]).partition("\n")[0] if compiler else "",
    }


def cmake_flags(build: str, machine: str, compiler: str | None) -> list[str]:
    """The flags that choose the instruction set."""
    x86 = machine.lower() in ("x86_64", "amd64")
    if build == "portable":
        return ["-DGGML_NATIVE=OFF", *(f"-DGGML_{name}=ON" for name in PORTABLE_X86 if x86)]
    off = " ".join(flag for flag in AMX_OFF if x86 and (compiler is None or _knows(compiler, flag)))
    return ["-DGGML_NATIVE=ON", *(f"-DCMAKE_{language}_FLAGS={off}" for language in ("C", "CXX") if off)]


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """The CPU's features by the kernel's names, sorted; its model where the kernel lists none."""
    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    listed = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    if listed:
        return sorted(set(listed[1].split()))
    return [output(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.processor()]


def find_compiler(environ: Mapping[str, str]) -> str | None:
    """The C++ compiler that cmake would take."""
    names = [environ["CXX"]] if environ.get("CXX") else ["c++", "g++", "clang++"]
    return next((found for name in names if (found := shutil.which(name))), None)


def compile_with_pip(inputs: Inputs, scratch: Path, log: Path) -> Path:
    """Compile in `scratch` with pip, cmake and hash-checked sources; the whole output goes to `log`."""
    require_tools(inputs)
    pinned = inputs["source"].split()[0]
    say(f"Compiling {pinned} ({inputs['build']}): once for this machine, 5 to 15 minutes on 2 cores.")
    with log.open("w", encoding="utf-8") as sink:
        for command in compile_commands(scratch):
            run_logged(command, compile_environment(inputs, scratch), sink)
    return next((scratch / "out").glob("*.whl"))


def compile_commands(scratch: Path) -> list[list[str]]:
    """A venv with the build tools by hash, then the wheel out of the source by hash."""
    pip = [str(scratch / "venv/bin/python"), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
    tools = ["install", "--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", str(BUILD_LOCK)]
    # No isolation: the build tools are those just installed. No cache: see `wheel_cache`.
    wheel = ["wheel", "-v", "--no-build-isolation", "--no-cache-dir", "--no-deps", "--no-binary", ":all:"]
    source = ["--require-hashes", "-r", str(SDIST_LOCK), "--wheel-dir", str(scratch / "out")]
    return [[sys.executable, "-I", "-m", "venv", str(scratch / "venv")], [*pip, *tools], [*pip, *wheel, *source]]


def compile_environment(inputs: Inputs, scratch: Path) -> dict[str, str]:
    """The environment of a build that leaves nothing outside `scratch`."""
    temporary = scratch / "tmp"
    temporary.mkdir(exist_ok=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "CMAKE_BUILD_PARALLEL_LEVEL": str(cores or 1),
        **os.environ,
        "CMAKE_ARGS": shlex.join(inputs["cmake"]),
        "TMPDIR": str(temporary),
    }


def require_tools(inputs: Inputs) -> None:
    """Raise `SetupError` with the command that installs what is missing."""
    if not inputs["compiler"]:
        raise SetupError(
            "llama-cpp-python must be compiled, and there is no C++ compiler\n"
            "Install one (Debian, Ubuntu: apt-get install g++; macOS: xcode-select --install), or bring a wheel that "
            "was built on a machine like this: python scripts/llama_wheel.py --adopt WHEEL"
        )
    for tools in (["cmake"], ["ninja", "make"]):
        if not any(shutil.which(tool) for tool in tools):
            raise SetupError(
                f"llama-cpp-python must be compiled, and there is no {' or '.join(tools)}\n"
                f"Install it (Debian, Ubuntu: apt-get install {tools[-1]}; macOS: brew install {tools[-1]})."
            )


def run_logged(command: list[str], environ: dict[str, str], sink: TextIO) -> None:
    """Run in a process group of its own, so that stopping stops the compilers too."""
    tail: deque[str] = deque(maxlen=30)
    progress = _Progress()
    with subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                sink.write(line)
                tail.append(line)
                progress.see(line)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            progress.end()
    if process.returncode:
        raise SetupError(f"compiling llama-cpp-python failed\n\n{''.join(tail)}\nThe whole output: {sink.name}")


class _Progress:
    """Ninja's `[12/140]` and make's `[ 12%]` as one changing line on a terminal, as a line every tenth elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = -1

    def see(self, line: str) -> None:
        found = re.match(r"\s*\[\s*(\d+)(?:/(\d+)|%)\]", line)
        percent = 100 * int(found[1]) // int(found[2] or 100) if found else -1
        if percent < self._shown + (1 if self._terminal else 10):
            return
        self._shown = percent
        start, end = ("\r", "") if self._terminal else ("", "\n")
        print(f"{start}  {percent:3d} %", end=end, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._terminal and self._shown >= 0:
            print(file=sys.stderr)


def _knows(compiler: str, flag: str) -> bool:
    """Whether the compiler takes `flag`. One that does not know AMX cannot use it either."""
    command = [compiler, "-Werror", flag, "-x", "c++", "-E", os.devnull]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def main() -> int:
    """The command line; see the head of this file."""
    parser = argparse.ArgumentParser(description="Prints the path of the compiled llama-cpp-python wheel.")
    parser.add_argument("--build", choices=BUILDS, default="native")
    parser.add_argument("--show", action="store_true", help="print what the key is made of; compile nothing")
    parser.add_argument("--adopt", type=Path, metavar="WHEEL", help="keep a wheel that was built elsewhere")
    args = parser.parse_args()
    inputs = build_inputs(args.build)
    wheels = cache_root() / "wheels"
    if args.show:
        wheel = find_wheel(wheels, inputs)
        print(json.dumps({"key": build_key(inputs), "wheel": str(wheel) if wheel else None, **inputs}, indent=2))
    elif args.adopt:
        print(adopt_wheel(wheels, inputs, args.adopt))
    else:
        print(ensure_wheel(wheels, inputs, compile_with_pip))
    return 0


if __name__ == "__main__":
    run(main)
