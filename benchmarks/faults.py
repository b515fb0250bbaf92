"""What kills, failing disks, damaged files and broken input leave of an index: never a wrong answer or a lost document.

    python -m benchmarks.faults                          the full counts: some 20 minutes
    python -m benchmarks.faults --share 0.01             a sample, in seconds
    python -m benchmarks.faults --parts moments,flips    some of it

    steps      kill -9 before each call that changes the disk while a run publishes, one after another
    moments    kill -9 at 200 random moments of a run
    calls      each write, fsync, rename and mkdir of a run fails in its turn: disk full, and one I/O error
    writes     200 runs in which no file may grow beyond a random size, which libraries meet in their own writes
    cuts       500 files of an index cut off somewhere
    flips      500 files of an index with one bit turned
    inputs     2,000 damaged documents, of all formats that are at hand, put through a real run
    memory     ten runs over `--articles`, every document changed each time, the vectors of what stayed taken over

A disturbed run must leave the old state or the new one, whole, and the next run the new one; what a run acknowledged
must be there; damaged bytes must be named, never answered from; a broken document must be indexed or refused with a
reason. The exit code is 1 where anything was otherwise; `--out` gets the counts, and of what went wrong the first 20.
"""

import argparse
import errno
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import indexer.segment
from benchmarks.checks import conclude
from benchmarks.inputs import ARTICLES, inputs, memory
from benchmarks.stage import NEW, Stage, Tally, make, state
from rag.console import err
from rag.errors import IndexDamaged, IndexIncompatible, SmallholdError, Unavailable

KILLS, WRITES, DAMAGES, INPUTS, ROUNDS = 200, 200, 500, 2_000, 10

_KILLED_BEFORE = ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir")
_FAILING = ("fsync", "rename", "replace", "mkdir")
_REFUSED = 3  # exit code of a child whose run was refused with a typed error
_NOT_READ = {"lock", ".stamps"}  # files of an index directory that no reader reads


def kill_steps(stage: Stage, share: float) -> Tally:
    """Kill a run before each call that changes the disk, in every so many-th of them."""
    tally, step, seen = Tally(), 1, list[int | None]()
    while True:
        with stage.copy() as directory:
            code = _in_child(lambda d=directory, n=step: _run_killed_at(d, n))  # type: ignore[misc]
            seen.append(stage.judge(directory, f"killed before call {step}", tally, acknowledged=code == 0))
        if code == 0:
            break
        tally.counts["killed"] += 1
        if code != -signal.SIGKILL:
            tally.wrong.append(f"killed before call {step}: the run ended with {code}")
            break
        step += max(1, round(1 / share / 4))
    tally.counts["calls of a run"] = step - 1
    tally.checks["killed on both sides of the switch"] = {0, 1} <= set(seen[:-1])
    # One moment parts them: no old state after a new one.
    tally.checks["one moment parts the old from the new"] = seen == sorted(seen, key=lambda found: found or 0)
    return tally


def _run_killed_at(directory: Path, step: int) -> None:
    calls = 0

    def wrap(call: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **kwargs: object) -> object:
            nonlocal calls
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return counted

    for name in _KILLED_BEFORE:
        setattr(os, name, wrap(getattr(os, name)))
    make(directory, NEW)


def kill_moments(stage: Stage, share: float) -> Tally:
    """Kill runs after random times, up to about as long as one takes, which depends on how busy the machine is."""
    tally, chance = Tally(), random.Random(1)
    with stage.copy() as directory:
        began = time.perf_counter()
        _in_child(lambda d=directory: make(d, NEW))  # type: ignore[misc]
        longest = time.perf_counter() - began
    for number in range(_part_of(KILLS, share)):
        with stage.copy() as directory:
            after = chance.uniform(0, longest)
            code = _in_child(lambda d=directory: make(d, NEW), after)  # type: ignore[misc]
            tally.counts["ended before" if code == 0 else "killed"] += 1
            longest *= 0.9 if code == 0 else 1.05  # so that two of three are killed, early and late
            if code not in {0, -signal.SIGKILL}:
                tally.wrong.append(f"kill {number}: the run ended with {code}")
            stage.judge(directory, f"kill {number} after {after:.4f} s", tally, acknowledged=code == 0)
    tally.checks["some were killed on the way"] = tally.counts["killed"] > 0
    return tally


def _in_child(work: Callable[[], None], kill_after: float | None = None) -> int:
    """Run something in a child process, killed after so many seconds; return its exit code, negative for a signal."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Disk:
    """Calls that change a disk; the one numbered `fails` gets an error, and all after it if the disk is full."""

    def __init__(self, fails: int, error: int) -> None:
        self.fails = fails
        self.error = error
        self.calls = 0

    def wrap(self, call: Callable[..., object]) -> Callable[..., object]:
        """Return the call with its error in its turn."""

        def checked(*args: object, **kwargs: object) -> object:
            self.calls += 1
            if self.calls == self.fails or (self.calls > self.fails and self.error == errno.ENOSPC):
                raise OSError(self.error, os.strerror(self.error))
            return call(*args, **kwargs)

        return checked

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Let every fsync, rename, replacement, mkdir and writing of a file go through here."""
        with ExitStack() as patches:
            for name in _FAILING:
                patches.enter_context(patch.object(os, name, self.wrap(getattr(os, name))))
            for name in ("write_bytes", "write_text"):
                patches.enter_context(patch.object(Path, name, self.wrap(getattr(Path, name))))
            new_database = self.wrap(indexer.segment._new_database)
            patches.enter_context(patch.object(indexer.segment, "_new_database", new_database))
            yield


def failing_calls(stage: Stage, share: float) -> Tally:
    """Let each call fail in its turn, until a run does not get so far."""
    tally = Tally()
    for error in (errno.ENOSPC, errno.EIO):
        number, failed, seen = 1, True, set[int | None]()
        while failed:
            with stage.copy() as directory:
                case = f"call {number}: {os.strerror(error)}"
                disk, acknowledged = Disk(number, error), False
                try:
                    with disk.in_force():
                        make(directory, NEW)
                    acknowledged = True
                except Unavailable as refused:
                    if not refused.hint:
                        tally.wrong.append(f"{case}: an error without a hint")
                except Exception as other:
                    tally.wrong.append(f"{case}: {type(other).__name__}: {other}")
                failed = disk.calls >= number
                seen.add(stage.judge(directory, case, tally, acknowledged=acknowledged))
            tally.counts[errno.errorcode[error]] += failed
            number += max(1, round(1 / share / 4))
        tally.checks[f"both states were seen ({os.strerror(error)})"] = {0, 1} <= seen
    return tally


def refused_writes(stage: Stage, share: float) -> Tally:
    """Let the kernel refuse any file that grows beyond a random size: SQLite, FAISS and numpy each meet it."""
    tally, chance = Tally(), random.Random(5)
    largest = max(path.stat().st_size for path in stage.folder.rglob("*") if path.is_file())
    for number in range(_part_of(WRITES, share)):
        with stage.copy() as directory:
            most = chance.randrange(largest + largest // 10)
            code = _in_child(lambda d=directory, m=most: _run_limited(d, m))  # type: ignore[misc]
            tally.counts["refused" if code else "published"] += 1
            case = f"run {number}, no file above {most} bytes"
            if code not in {0, _REFUSED}:
                tally.wrong.append(f"{case}: it ended with {code}")
            stage.judge(directory, case, tally, acknowledged=code == 0)
    tally.checks["some were refused"] = tally.counts["refused"] > 0
    return tally


def _run_limited(directory: Path, most: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    try:
        make(directory, NEW)
    except Unavailable:
        os._exit(_REFUSED)


def damage(stage: Stage, count: int, damaged: Callable[[bytearray, random.Random], bytes], seed: int) -> Tally:
    """Damage a file of an index so many times; it must be named, or be none that the answers depend on."""
    tally, chance = Tally(), random.Random(seed)
    files = [p for p in sorted(stage.base.rglob("*")) if p.is_file() and p.name not in _NOT_READ]
    for number in range(count):
        name = chance.choice(files).relative_to(stage.base)
        with stage.copy() as directory:
            before = (directory / name).read_bytes()
            (directory / name).write_bytes(damaged(bytearray(before), chance))
            _judge_damaged(stage, directory, f"{number}: {name}", tally)
    tally.checks["nine of ten were named"] = tally.counts["named"] >= 0.9 * count
    return tally


def _judge_damaged(stage: Stage, directory: Path, case: str, tally: Tally) -> None:
    try:
        found = state(directory)
    except (IndexDamaged, IndexIncompatible) as error:
        tally.counts["named"] += 1
        if not error.hint:
            tally.wrong.append(f"{case}: an error without a hint")
    except Exception as error:
        tally.wrong.append(f"{case}: {type(error).__name__}: {error}")
    else:
        tally.counts["without effect"] += 1
        if found != stage.outcomes[0]:
            tally.wrong.append(f"{case}: another answer")
        return
    # Nor does a writer make a whole index of it: it refuses, or the damage stays, or went with what it dropped.
    with suppress(SmallholdError):
        make(directory, NEW)
    try:
        after = state(directory)
    except SmallholdError:
        return
    if after != stage.outcomes[1]:
        tally.wrong.append(f"{case}: another answer after the next run")


def cut(data: bytearray, chance: random.Random) -> bytes:
    """Cut a file off somewhere."""
    return bytes(data[: chance.randrange(len(data))])


def flip(data: bytearray, chance: random.Random) -> bytes:
    """Turn one bit of a file."""
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _part_of(count: int, share: float) -> int:
    return max(1, round(count * share))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts, print, write; 1 where something was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = "steps,moments,calls,writes,cuts,flips,inputs,memory"
    parser.add_argument("--share", type=float, default=1.0, help="of the full counts, above 0 (%(default)s)")
    parser.add_argument("--parts", default=names, help="which of %(default)s")
    parser.add_argument("--articles", type=Path, default=ARTICLES, help="folder of documents for memory")
    parser.add_argument("--out", type=Path, default=Path("out/faults.json"))
    args = parser.parse_args(arguments)
    if not 0 < args.share <= 1:
        parser.error("--share lies above 0 and is at most 1")
    wanted = args.parts.split(",")
    if unknown := set(wanted) - set(names.split(",")):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        stage, share = Stage(Path(folder)), args.share
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "steps": lambda: kill_steps(stage, share).report(),
            "moments": lambda: kill_moments(stage, share).report(),
            "calls": lambda: failing_calls(stage, share).report(),
            "writes": lambda: refused_writes(stage, share).report(),
            "cuts": lambda: damage(stage, _part_of(DAMAGES, share), cut, 2).report(),
            "flips": lambda: damage(stage, _part_of(DAMAGES, share), flip, 3).report(),
            "inputs": lambda: inputs(Path(folder), _part_of(INPUTS, share)),
            "memory": lambda: memory(Path(folder), args.articles, ROUNDS, share),
        }
        for name in wanted:
            err.print(f"{name} ...")
            began = time.perf_counter()
            report[name] = {**parts[name](), "seconds": round(time.perf_counter() - began, 1)}
    return conclude(report, args.out, share=args.share)


def single_threaded() -> dict[str, str]:
    """Return the environment of a process that forks: its libraries must not have begun threads of their own."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


if __name__ == "__main__":
    if os.environ.get("OMP_NUM_THREADS") != "1" or os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.faults", *sys.argv[1:]], single_threaded())
    sys.exit(main())
