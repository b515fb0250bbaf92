"""What a crash, a failing disk or a damaged file may leave of an index: the old state, the new one, or a clear error.

Samples; `SMALLHOLD_FAULTS=10` makes ten times as many of each (200 kills, 500 cuts, 500 flipped bits and more).
"""

import errno
import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import indexer.segment
from rag.errors import IndexDamaged, IndexIncompatible, SmallholdError, Unavailable
from rag.index import Index
from tests.conftest import WordEmbedder
from tests.test_indexer_segments import FINE, make
from tests.test_indexer_store import run_python

TIMES = int(os.environ.get("SMALLHOLD_FAULTS", "1"))

OLD = {f"d{n}": f"line {n} alpha\nbeta {n}\ngamma" for n in range(8)}
NEW = {**{name: text for name, text in OLD.items() if name not in {"d1", "d5"}}, "d2": "omega\nrye", "e": "mill\nweir"}


def state(directory: Path) -> object:
    """All that an index answers: texts, and the scores of some questions."""
    with Index.open(directory) as index:
        texts = {entry.id: index.document(entry.id).text for entry in index.documents()}
        chunks = [chunk.text for chunk in index.store.all_chunks()]
        questions = ("alpha beta", "omega", "line 3")
        lexical = [np.round(index.lexical.scores(question), 5).tolist() for question in questions]
        queries = WordEmbedder().embed(questions)
        dense = [np.round(index.vectors.rows(range(len(chunks))) @ query_d, 5).tolist() for query_d in queries]
        order = [index.vectors.search(query_d, 5)[1].tolist() for query_d in queries]
    return json.loads(json.dumps([texts, chunks, lexical, dense, order]))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of several segments, with deletions."""
    folder = tmp_path_factory.mktemp("base") / "index"
    for count in (3, 4, 5, 7, 8):
        make(folder, dict([*OLD.items()][:count]), FINE)
    return folder


@pytest.fixture(scope="module")
def outcomes(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, object]:
    """What the index answers before and after the run that the tests disturb."""
    after = tmp_path_factory.mktemp("after") / "index"
    shutil.copytree(base, after)
    make(after, NEW, FINE)
    return state(base), state(after)


class Disk:
    """Calls that change a disk; the one numbered `fails` gets an error, and all after it if the disk is full."""

    def __init__(self, fails: int, error: int) -> None:
        self.fails = fails
        self.error = error
        self.calls = 0

    def wrap(self, call: Callable[..., object]) -> Callable[..., object]:
        def checked(*args: object, **kwargs: object) -> object:
            self.calls += 1
            if self.calls == self.fails or (self.calls > self.fails and self.error == errno.ENOSPC):
                raise OSError(self.error, os.strerror(self.error))
            return call(*args, **kwargs)

        return checked


_CALLS = ("fsync", "rename", "replace", "mkdir")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["disk full", "one I/O error"])
def test_every_call_that_may_fail_leaves_the_old_or_the_new_state(
    base: Path, outcomes: tuple[object, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """Each fsync, rename, replacement and mkdir, and each writing of a file, fails in its turn."""
    number, failed, seen = 0, True, set()
    while failed:
        number += 1 if TIMES > 1 or number < 8 else 3
        directory = tmp_path / str(number)
        shutil.copytree(base, directory)
        disk = Disk(number, error)
        with monkeypatch.context() as patch:
            for name in _CALLS:
                patch.setattr(os, name, disk.wrap(getattr(os, name)))
            for name in ("write_bytes", "write_text"):
                patch.setattr(Path, name, disk.wrap(getattr(Path, name)))
            patch.setattr(indexer.segment, "_new_database", disk.wrap(indexer.segment._new_database))
            try:
                make(directory, NEW, FINE)
                failed = disk.calls >= number
            except Unavailable:
                pass
        found = outcomes.index(state(directory))  # one of the two, whole
        seen.add(found)
        make(directory, NEW, FINE)
        assert outcomes.index(state(directory)) == 1
        shutil.rmtree(directory)
    assert seen == {0, 1}
    assert number > 30


_KILLED = """
import os, random, shutil, signal, sys, time
from pathlib import Path
sys.path.insert(0, str(Path.cwd()))
from tests.test_indexer_faults import FINE, NEW, make
import faiss, Stemmer

base, folder, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
rng = random.Random(1)

def run(directory, after):
    child = os.fork()
    if not child:
        make(directory, NEW, FINE)
        os._exit(0)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == 0

shutil.copytree(base, folder / "whole")
start = time.perf_counter()
run(folder / "whole", 0.0) or make(folder / "whole", NEW, FINE)
took = time.perf_counter() - start
for number in range(count):
    directory = folder / str(number)
    shutil.copytree(base, directory)
    acknowledged = run(directory, rng.uniform(0, 1.2 * took))
    print(int(acknowledged), flush=True)
"""


def test_kill_at_random_moments_leaves_one_whole_state(
    base: Path, outcomes: tuple[object, object], tmp_path: Path
) -> None:
    """And what a run has acknowledged is there: a child that ended by itself has published."""
    said = run_python(_KILLED, str(base), str(tmp_path), str(20 * TIMES)).split()
    assert len(said) == 20 * TIMES
    for number, acknowledged in enumerate(said):
        directory = tmp_path / str(number)
        found = outcomes.index(state(directory))
        assert found == 1 or acknowledged == "0"
        make(directory, NEW, FINE)
        assert outcomes.index(state(directory)) == 1


def outcome(directory: Path) -> tuple[SmallholdError | None, object]:
    """What opening an index ends in: an error, or what it answers."""
    try:
        return None, state(directory)
    except SmallholdError as error:
        return error, None


def test_damaged_bytes_are_never_taken_for_an_answer(
    base: Path, outcomes: tuple[object, object], tmp_path: Path
) -> None:
    """Cuts and flipped bits anywhere in the files that a reader reads."""
    rng = random.Random(2)
    files = [p for p in sorted(base.rglob("*")) if p.is_file() and p.name not in {"lock", ".stamps"}]
    assert len(files) > 25
    damaged = 0
    for number in range(100 * TIMES):
        directory = tmp_path / "index"
        shutil.copytree(base, directory)
        path = directory / rng.choice(files).relative_to(base)
        data = bytearray(path.read_bytes())
        if number % 2:
            data = data[: rng.randrange(len(data))]
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        error, found = outcome(directory)
        if error is None:
            assert found == outcomes[0], path
        else:
            damaged += 1
            assert isinstance(error, IndexDamaged | IndexIncompatible)
            assert error.hint
            # Nor does a writer make a whole index of it: it refuses, or the damage stays, or went with what it dropped.
            with suppress(SmallholdError):
                make(directory, NEW, FINE)
            error, found = outcome(directory)
            assert error is not None or found == outcomes[1], path
        shutil.rmtree(directory)
    assert damaged > 90 * TIMES
