"""Sets up the environment of an engine that benchmarks/engine compares with, and prints its Python.

    python scripts/peers.py llama-cpp-python       its server, around the wheel that smallhold itself runs on
    python scripts/peers.py llama-server           llama.cpp's own server in xllamacpp, compiled for this CPU
    python scripts/peers.py llama-server --published   as it is published: for any CPU with AVX2, and slower

They lie in `<cache>/bench-peers/`; versions are pinned in benchmarks/peers.txt.
"""

import argparse
import hashlib
import os
import platform
import sys
from pathlib import Path
from typing import TextIO

from base import SetupError, requirement_lines, run, say
from environment import Environment
from llama_wheel import (
    build_inputs,
    cmake_flags,
    compile_environment,
    compile_with_pip,
    find_compiler,
    require_tools,
    run_logged,
)
from wheel_cache import Inputs, cache_root, ensure_wheel

PINNED = Path(__file__).resolve().parent.parent / "benchmarks" / "peers.txt"
PEERS = ("llama-cpp-python", "llama-server")

# xllamacpp's build would fetch these three from elsewhere, and no question here needs them.
NOT_FETCHED = ("-DLLAMA_LLGUIDANCE=OFF", "-DLLAMA_BUILD_BORINGSSL=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF")


def install_peer(peer: str, *, published: bool) -> Path:
    """Set up what is missing; return the environment's Python. Raises `SetupError`."""
    env = Environment(cache_root() / "bench-peers" / (f"{peer}-published" if published else peer))
    with env.alone():
        env.create()
        if peer == "llama-server":
            install_llama_server(env, published=published)
        else:
            install_llama_cpp_python(env)
    return env.python


def install_llama_cpp_python(env: Environment) -> None:
    """The packages of its server by version, and the compiled wheel of the project's own cache."""
    packages = [line for line in requirement_lines(PINNED) if not line.startswith("xllamacpp")]
    wheel = ensure_wheel(cache_root() / "wheels", build_inputs("native"), compile_with_pip)
    made_from = _fingerprint(*packages, str(wheel))
    if not env.done("peer", made_from):
        options = ("--quiet", "--no-deps", "--only-binary", ":all:")
        env.do("peer", made_from, lambda: env.pip("install", *options, *packages, str(wheel)))


def install_llama_server(env: Environment, *, published: bool) -> None:
    """xllamacpp, compiled here or as it is published. It has no dependencies."""
    (pinned,) = (line for line in requirement_lines(PINNED) if line.startswith("xllamacpp"))
    what = pinned if published else str(ensure_wheel(cache_root() / "wheels", xllamacpp_inputs(pinned), compile_it))
    made_from = _fingerprint(what)
    if not env.done("peer", made_from):
        options = ("--quiet", "--no-deps", "--only-binary", ":all:")
        env.do("peer", made_from, lambda: env.pip("install", *options, what))


def xllamacpp_inputs(pinned: str) -> Inputs:
    """What shapes the compiled xllamacpp: the instruction set is the one that our own llama.cpp is compiled for."""
    instructions = cmake_flags("native", platform.machine(), find_compiler(os.environ))
    return {**build_inputs("native"), "source": pinned, "cmake": [*instructions, *NOT_FETCHED]}


def compile_it(inputs: Inputs, scratch: Path, log: Path) -> Path:
    """Compile in `scratch` with pip; the whole output goes to `log`."""
    require_tools(inputs)
    say(f"Compiling {inputs['source']}: once for this machine, 10 to 20 minutes on 2 cores.")
    pip = [str(scratch / "venv/bin/python"), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
    wheel = ["wheel", "-v", "--no-cache-dir", "--no-deps", "--no-binary", "xllamacpp", "--wheel-dir"]
    with log.open("w", encoding="utf-8") as sink:
        _logged([sys.executable, "-I", "-m", "venv", str(scratch / "venv")], inputs, scratch, sink)
        _logged([*pip, *wheel, str(scratch / "out"), inputs["source"]], inputs, scratch, sink)
    return next((scratch / "out").glob("*.whl"))


def _logged(command: list[str], inputs: Inputs, scratch: Path, sink: TextIO) -> None:
    run_logged(command, compile_environment(inputs, scratch), sink)


def _fingerprint(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def main() -> int:
    """The command line; see the head of this file."""
    parser = argparse.ArgumentParser(description="Sets up a peer's environment and prints its Python.")
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--published", action="store_true", help="take xllamacpp's published wheel; compile nothing")
    args = parser.parse_args()
    if args.published and args.peer != "llama-server":
        raise SetupError("--published is for llama-server: llama-cpp-python is published as source only")
    print(install_peer(args.peer, published=args.published))
    return 0


if __name__ == "__main__":
    run(main)
