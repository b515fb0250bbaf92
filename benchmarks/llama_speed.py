"""Reading and writing speed of llama.cpp, side by side: sleeping against spinning threads, this build against others.

    python -m benchmarks.llama_speed                         threads, alone and beside a busy process
    python -m benchmarks.llama_speed --wheel portable=FILE   builds: the installed one against a compiled wheel

Every variant is a child process of its own and they take turns, so that the machine's moods fall on all of them alike;
the table shows medians and, in brackets, the least and the most.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

PROMPT = "The quick brown fox jumps over the lazy dog and runs. " * 18
WRITTEN = 24
REPEATS = 5


class Variant(NamedTuple):
    """One way of running: a label, the variables it sets, and whether another process keeps a core busy."""

    label: str
    environment: dict[str, str]
    crowded: bool = False


THREADS = [
    Variant(f"{name}, {'beside a busy process' if crowded else 'alone'}", variables, crowded)
    for crowded in (False, True)
    for name, variables in {
        "sleeping (as shipped)": {"OMP_WAIT_POLICY": "passive"},
        "spinning (GCC's default, 300,000 rounds)": {"GOMP_SPINCOUNT": "300000"},
        "spinning 1,000 rounds": {"GOMP_SPINCOUNT": "1000"},
    }.items()
]


def measure(model: str) -> None:
    """Print seconds to read and to write as JSON; runs in a child."""
    from rag.datatypes import Message, Sampling
    from rag.engine.generator import LlamaGenerator

    generator = LlamaGenerator(Path(model), context=1024)
    times = []
    for i in range(REPEATS + 1):
        began, read = time.perf_counter(), 0.0
        messages = [Message("user", f"{i} {PROMPT}")]
        for piece in generator.stream(messages, Sampling(max_tokens=WRITTEN)):
            if piece.tokens and not read:
                read = time.perf_counter() - began
        times.append((read, time.perf_counter() - began - read))
    print(json.dumps({"tokens": len(generator.encode(messages)), "times": times[1:]}))


def run(variant: Variant, model: Path) -> dict[str, Any]:
    """Run one variant in a child and return what it printed."""
    environment = {**os.environ, **variant.environment}
    command = [sys.executable, __file__, "--child", str(model)]
    with busy_process() if variant.crowded else idle():
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


@contextmanager
def busy_process() -> Iterator[None]:
    """Keep one core busy while the block runs."""
    process = multiprocessing.Process(target=spin, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


@contextmanager
def idle() -> Iterator[None]:
    """Do nothing."""
    yield


def spin() -> None:
    """Use a core."""
    while True:
        pass


def row(label: str, rounds: list[dict[str, Any]]) -> str:
    cells = []
    for column in (0, 1):
        values = [times[column] for result in rounds for times in result["times"]]
        cells.append(f"{statistics.median(values):6.2f} ({min(values):.2f} to {max(values):.2f})")
    return f"{label:<52} {cells[0]:>24} {cells[1]:>24}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--wheel", action="append", default=[], metavar="LABEL=FILE")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        measure(arguments.child)
        return

    from eval.machine import describe_machine
    from rag.build import model_store
    from rag.config import load_settings

    model = model_store(load_settings()).locate(arguments.model).file
    with tempfile.TemporaryDirectory() as unpacked:
        variants = THREADS
        if arguments.wheel:
            variants = [Variant("installed build", {})]
            for i, named in enumerate(arguments.wheel):
                label, _, file = named.partition("=")
                folder = Path(unpacked) / str(i)
                zipfile.ZipFile(file).extractall(folder)
                variants.append(
                    Variant(label, {"PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"})
                )
        results: dict[str, list[dict[str, object]]] = {v.label: [] for v in variants}
        for _ in range(arguments.rounds):
            for variant in variants:
                results[variant.label].append(run(variant, model))
    tokens = next(iter(results.values()))[0]["tokens"]
    print(json.dumps(describe_machine()))
    print(f"{arguments.model}, seconds, median (least to most) of {REPEATS * arguments.rounds}")
    print(f"{'':<52} {f'read {tokens} tokens':>24} {f'write {WRITTEN} tokens':>24}")
    for label, rounds in results.items():
        print(row(label, rounds))


if __name__ == "__main__":
    main()
