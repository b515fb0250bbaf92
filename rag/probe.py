"""Try a model in a child process before this one loads it, so that a native crash is a message and not a death.

llama.cpp may crash at the first decode (AMX kernels under some hypervisors, a build for another CPU) or while it parses
a damaged file. A probe loads the model and reads and writes a few tokens, with llama.cpp's repacked weights and as they
are in the file: which of the two reads faster differs by quantization and CPU; and then with prompts in int8
(`rag.engine.prefill`). What it found is remembered for this file, this build and this CPU, so that it costs seconds
once.
"""

import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rag.datatypes import Message, Sampling
from rag.errors import ModelLoadFailed

TIMEOUT_SECONDS = 300
# Weights as they are must read so much faster than repacked ones, which write a little faster. (The 1.5B in Q4_K_M
# reads 80 tokens a second so, and 63 repacked; writes 10.7 and 11.3: Xeon with VNNI, 2 cores.)
WORTH_IT = 1.1
# How far keys and values in int8 may be from llama.cpp's (`rag.engine.layout`): the 0.5B's are off by 0.03 and 0.06.
FARTHEST = 0.2


class ProbeResult(NamedTuple):
    """How a probe ended: `ok`, and at how many tokens a second a prompt was read; or `reason` in one line."""

    ok: bool
    reason: str = ""
    pace: float = 0.0


class Finding(NamedTuple):
    """How a model is best run here: with llama.cpp's repacked weights or without, which may be since those crash.

    `int8` is whether prompts are read faster in int8.
    """

    repacked: bool
    crashes: bool = False
    int8: bool = False


def runnable(path: Path, memory: Path) -> bool:
    """Make sure that a model runs here; return whether it is to be run with llama.cpp's repacked weights.

    What `look` finds; raises the same.
    """
    return look(path, memory).repacked


def look(path: Path, memory: Path) -> Finding:
    """Try a model, unless that was done before. `memory` is the JSON file in which earlier findings are kept.

    Raises `ModelLoadFailed` with the fix where it does not run at all.
    """
    if not path.is_file():
        raise ModelLoadFailed(f"there is no model file {path}")
    key = f"{path.resolve()} {_stamp(path)} {build_key()}"
    known = _read(memory)
    if key in known:
        return known[key]
    repacked, plain = probe(path, "repacked"), probe(path, "plain")
    if not repacked.ok and not plain.ok:
        raise ModelLoadFailed(f"{path} cannot be run: {plain.reason}", hint=_fix(plain.reason))
    better = repacked.ok and not (plain.ok and plain.pace > WORTH_IT * repacked.pace)
    int8 = probe(path, "int8" if not better else "int8 repacked")
    faster = int8.ok and int8.pace > WORTH_IT * (repacked if better else plain).pace
    known[key] = Finding(better, crashes=not repacked.ok, int8=faster)
    _write(memory, known)
    return known[key]


def probe(path: Path, way: str = "repacked") -> ProbeResult:
    """Load a model, read a prompt and generate two tokens in a child process.

    `way` is "repacked" or "plain", for llama.cpp's weights, or "int8", with or without "repacked".
    """
    command = [sys.executable, "-m", "rag.probe", str(path), way]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        return ProbeResult(False, f"it gave no answer within {TIMEOUT_SECONDS} s")
    if done.returncode == 0:
        return ProbeResult(True, pace=float(done.stdout or 0))
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return ProbeResult(False, f"llama.cpp crashed with {name}")
    lines = done.stderr.strip().splitlines()
    return ProbeResult(False, lines[-1] if lines else f"the probe ended with status {done.returncode}")


def build_key() -> str:
    """Return a short name of the llama.cpp build and the CPU it runs on."""
    spec = find_spec("llama_cpp")
    libraries = sorted(Path(spec.origin).parent.glob("lib/*")) if spec and spec.origin else []
    text = "".join(f"{library.name}{_stamp(library)}" for library in libraries) + _cpu_flags()
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _fix(reason: str) -> str:
    if "crashed" in reason:
        return (
            "If the file is whole (`smallhold models verify`), llama.cpp was built for another CPU. Run "
            "`make install`, which compiles it for this one; where that crashes too, "
            "`make install LLAMA_BUILD=portable`."
        )
    return "`smallhold models verify` checks the weights; `smallhold models pull` replaces damaged ones."


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}:{status.st_mtime_ns}"


def _read(memory: Path) -> dict[str, Finding]:
    """Return earlier findings; what is no record of two flags is none of ours, or an older version's."""
    try:
        found: dict[str, Any] = dict(json.loads(memory.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
    return {
        key: Finding(**value)
        for key, value in found.items()
        if isinstance(value, dict) and value.keys() == set(Finding._fields)
    }


def _write(memory: Path, findings: dict[str, Finding]) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=memory.parent, delete=False, encoding="utf-8") as file:
        json.dump({key: finding._asdict() for key, finding in findings.items()}, file, indent=1)
    Path(file.name).replace(memory)


def _check_int8(path: Path) -> None:
    """Raise `ModelLoadFailed` where keys and values in int8 are not those of llama.cpp, whatever the reason."""
    from rag.engine.context import Context, Part
    from rag.engine.layout import StateLayout, distance
    from rag.engine.native import Model
    from rag.engine.prefill import open_prefill

    model, prefill = Model(path, extra_buffers=False), open_prefill(path)
    context = Context(model, cells=256, sequences=1)
    tokens_n = np.array(
        model.encode([Message("user", "Red boats lie in 3 rows behind the old harbour wall. " * 8)]), np.int32
    )
    context.read([Part(0, 0, tokens_n, 0)])
    wanted = StateLayout(b"", prefill.layers, prefill.width).unpack(context.save(0))
    found = distance(prefill.read(tokens_n, None, lambda: False), wanted)
    for part in (context, prefill, model):
        part.close()
    if not max(found) < FARTHEST:
        raise ModelLoadFailed(f"in int8 keys are off by {found[0]:.3f} and values by {found[1]:.3f}")


def _main() -> None:
    from rag.engine.generator import LlamaGenerator

    try:
        way = sys.argv[2].split()
        if "int8" in way:
            _check_int8(Path(sys.argv[1]))
        generator = LlamaGenerator(Path(sys.argv[1]), context=512, extra_buffers="repacked" in way, int8="int8" in way)
        # More than one token is read at once, since prefill and decoding run different kernels. The first prompt takes
        # the weights into memory, the second one is timed: of three words a repetition, 120 tokens and what is around.
        pieces = list(generator.stream([Message("user", "The sky is " * 16)], Sampling(max_tokens=2)))
        began = time.perf_counter()
        timed = list(generator.stream([Message("user", "A blue sea " * 40)], Sampling(max_tokens=1)))
        seconds = time.perf_counter() - began
        generator.close()
    except ModelLoadFailed as error:
        sys.exit(error.message)
    if not pieces:
        sys.exit("it generated nothing")
    usage = timed[-1].usage
    print(f"{(usage.prompt - usage.cached) / seconds if usage else 0:.1f}")


if __name__ == "__main__":
    _main()
