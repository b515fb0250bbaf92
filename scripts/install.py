"""Sets up the virtual environment, step by step; a step whose inputs have not changed is skipped.

    python scripts/install.py dependencies   venv, locked packages, PyTorch, the compiled llama-cpp-python
    python scripts/install.py package        that, and smallhold itself
    python scripts/install.py dev            that, and what tests, lint and types need

`make` calls it, and the Dockerfile calls `make`.
"""

import argparse
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from base import SetupError, requirement_lines, run, say
from environment import Environment
from llama_wheel import BUILDS, build_inputs, compile_with_pip
from wheel_cache import build_key, cache_root, ensure_wheel

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("dependencies", "package", "dev")
STEPS = ("dependencies", "torch", "llama", "dev", "package")


def install(env: Environment, target: str, *, build: str, cpu_torch: bool, editable: bool) -> None:
    """All steps up to `target`."""
    with env.alone():
        env.create()
        install_locked(env, "dependencies", ROOT / "requirements.lock")
        install_torch(env, cpu_only=cpu_torch)
        install_llama(env, build)
        if target == "dependencies":
            return
        if target == "dev":
            install_locked(env, "dev", ROOT / "requirements-dev.lock")
        install_package(env, editable=editable)
        check(env)


def install_locked(env: Environment, step: str, lock: Path) -> None:
    """The packages of a lock file, each checked against its hashes. Nothing of theirs is run."""
    made_from = _fingerprint(lock)
    if env.done(step, made_from):
        return
    say(f"== {step}: {sum('==' in line for line in requirement_lines(lock))} packages of {lock.name}")
    by_hash = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", str(lock))
    env.do(step, made_from, lambda: env.pip("install", *by_hash))


def install_torch(env: Environment, *, cpu_only: bool, environ: Mapping[str, str] = os.environ) -> None:
    """PyTorch at its pinned version, from `SMALLHOLD_TORCH_INDEX` or from where pip's own configuration has it.

    All that the CPU build needs is locked and in place by now: a build that wants more is the CUDA build.
    """
    pinned = "".join(requirement_lines(ROOT / "scripts" / "torch.txt"))
    if env.done("torch", pinned):
        return
    index = environ.get("SMALLHOLD_TORCH_INDEX", "")
    source = ["--find-links" if Path(index).is_dir() else "--extra-index-url", index] if index else []
    more = [name for name in env.pip_plan(*source, pinned) if name != "torch"]
    if more:
        advice = (
            f"the {pinned} that pip finds is no CPU build: it brings {len(more)} more packages, several GB in all.\n"
            "Set SMALLHOLD_TORCH_INDEX to an index of CPU wheels (PyTorch's site names it) or a folder with the wheel."
        )
        if cpu_only:
            raise SetupError(advice)
        say(f"note: {advice}\nGoing on with it.")
    say(f"== torch: {pinned}")
    env.do("torch", pinned, lambda: env.pip("install", *source, pinned))


def install_llama(env: Environment, build: str) -> None:
    """llama-cpp-python, compiled for this machine unless that was done before."""
    inputs = build_inputs(build)
    key = build_key(inputs)
    if env.done("llama", key):
        return
    wheel = ensure_wheel(cache_root() / "wheels", inputs, compile_with_pip)
    say(f"== llama: {wheel.name}, {build} build {key}")
    env.do("llama", key, lambda: env.pip("install", "--quiet", "--no-deps", "--force-reinstall", str(wheel)))


def install_package(env: Environment, *, editable: bool) -> None:
    """smallhold itself; its build needs nothing that is not in place. A copy is always made anew."""
    made_from = f"{_fingerprint(ROOT / 'pyproject.toml')} {ROOT}" if editable else "a copy"
    if editable and env.done("package", made_from):
        return
    say(f"== package: smallhold {'in' if editable else 'from'} {ROOT}")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--force-reinstall")
    env.do("package", made_from, lambda: env.pip("install", *options, *(["--editable"] if editable else []), str(ROOT)))


def check(env: Environment) -> None:
    """That all packages fit together."""
    made_from = env.finished(*STEPS)
    if not env.done("check", made_from):
        env.do("check", made_from, lambda: env.pip("check"))


def _fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    """The command line; see the head of this file."""
    parser = argparse.ArgumentParser(description="Sets up the virtual environment.")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", metavar="DIR")
    parser.add_argument("--llama-build", choices=BUILDS, default="native")
    parser.add_argument("--torch", choices=("any", "cpu"), default="any", help="cpu refuses a CUDA build")
    parser.add_argument("--copy", action="store_true", help="install a copy of smallhold, not a link to this folder")
    args = parser.parse_args()
    env = Environment(args.venv)
    install(env, args.target, build=args.llama_build, cpu_torch=args.torch == "cpu", editable=not args.copy)
    return 0


if __name__ == "__main__":
    run(main)
