"""Writing an index: one writer, all or nothing, and nothing left of what is gone."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from indexer.store import IndexWriter
from indexer.sync import build
from rag.datatypes import Chunk, Document, Span
from rag.errors import IndexLocked, InvalidRequest, Unavailable
from rag.index import Index
from rag.manifest import (
    CURRENT,
    GENERATIONS,
    LOCK,
    MANIFEST,
    SEGMENTS,
    Manifest,
    Patterns,
    read_patterns,
    read_roots,
)
from rag.protocols import FloatArray

REPOSITORY = Path(__file__).parent.parent


class OneEmbedder:
    """Every text is the vector (1)."""

    name = "one"
    fingerprint = "one-1"
    dimension = 1

    def embed(self, texts: Sequence[str]) -> FloatArray:
        return np.ones((len(texts), 1), np.float32)


class WholeChunker:
    """Every document is one chunk."""

    tokens = 100
    overlap = 0
    fingerprint = "whole"

    def chunk(self, document: Document) -> list[Chunk]:
        span = Span(0, len(document.text))
        return [Chunk(f"{document.id}#0", document.id, document.text, span, {"title": document.title})]


def publish(directory: Path, **texts: str) -> str:
    documents = [Document(id_, f"file:///{id_}", "", text) for id_, text in texts.items()]
    return build(directory, documents, embedder=OneEmbedder(), chunker=WholeChunker()).generation


def texts_in(directory: Path) -> dict[str, str]:
    with Index.open(directory, "one-1") as index:
        return {entry.id: index.document(entry.id).text for entry in index.documents()}


def files_in(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def holds(directory: Path, text: str) -> list[str]:
    """The files with this text in them, whatever its case."""
    return [name for name, data in files_in(directory).items() if text.lower().encode() in data.lower()]


def test_the_directory_is_as_the_format_says(tmp_path: Path) -> None:
    assert publish(tmp_path, a="one", b="two") == "000001"
    assert sorted(files_in(tmp_path)) == [
        "CURRENT",
        "generations/000001/deleted.json",
        "generations/000001/manifest.json",
        "generations/000001/manifest.sha256",
        "lock",
        "segments/000001/catalog.sqlite",
        "segments/000001/lexical/counts.npy",
        "segments/000001/lexical/lengths.npy",
        "segments/000001/lexical/rows.npy",
        "segments/000001/lexical/starts.npy",
        "segments/000001/lexical/terms.txt",
        "segments/000001/store.sqlite",
        "segments/000001/vectors.faiss",
    ]
    assert (tmp_path / CURRENT).read_bytes() == b"000001\n"
    manifest = Manifest.model_validate_json((tmp_path / GENERATIONS / "000001" / MANIFEST).read_text())
    assert manifest.embedder.model_dump() == {"name": "one", "fingerprint": "one-1", "dimension": 1}
    assert manifest.chunker.model_dump() == {"tokens": 100, "overlap": 0, "fingerprint": "whole"}
    assert manifest.counts.model_dump() == {"documents": 2, "chunks": 2}
    assert manifest.roots == {}
    assert manifest.created.utcoffset() is not None


def test_the_same_documents_make_the_same_files(tmp_path: Path) -> None:
    publish(tmp_path / "x", a="the mill", b="the weir")
    publish(tmp_path / "y", c="the tower")
    publish(tmp_path / "y", b="the weir", a="the mill")
    x = files_in(tmp_path / "x" / SEGMENTS / "000001")
    y = files_in(tmp_path / "y" / SEGMENTS / "000002")
    assert x == y


def test_what_is_deleted_is_in_no_file(tmp_path: Path) -> None:
    publish(tmp_path, a="A quixotic zorblatt. " * 300, b="A plain text.")
    assert len(holds(tmp_path, "zorblatt")) == 2  # the store and the lexical vocabulary
    publish(tmp_path, b="A plain text.")
    assert texts_in(tmp_path) == {"b": "A plain text."}
    assert holds(tmp_path, "zorblatt") == []
    assert holds(tmp_path, "quixot") == []
    assert [path.name for path in (tmp_path / GENERATIONS).iterdir()] == ["000002"]


def test_two_writers_exclude_each_other(tmp_path: Path) -> None:
    publish(tmp_path, a="one")
    with IndexWriter(tmp_path), pytest.raises(IndexLocked, match=f"process {os.getpid()} is writing"):
        publish(tmp_path, a="two")
    publish(tmp_path, a="two")
    assert texts_in(tmp_path) == {"a": "two"}


def test_a_lock_file_that_says_nothing_is_no_crash(tmp_path: Path) -> None:
    with IndexWriter(tmp_path):
        (tmp_path / LOCK).write_bytes(b"\xff\x00nonsense")
        with pytest.raises(IndexLocked, match="another process is writing"):
            publish(tmp_path, a="two")


def test_what_an_index_knows_is_told_while_another_generation_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run over all that the index knows found nothing to do, where its manifest went between two looks."""
    publish(tmp_path, a="one")
    publish(tmp_path, a="two")
    generation = tmp_path / GENERATIONS / "000002"
    manifest = json.loads((generation / MANIFEST).read_text())
    manifest |= {"roots": {"/docs": ""}, "patterns": {"/docs": {"exclude": ["*.log"]}}}
    (generation / MANIFEST).write_text(json.dumps(manifest))
    names = ["000001", "000002", "000001", "000002"]
    monkeypatch.setattr("rag.manifest.read_latest", lambda directory: names.pop(0) if names else "000002")
    assert read_roots(tmp_path) == {"/docs": ""}
    assert read_patterns(tmp_path) == {"/docs": Patterns(exclude=("*.log",))}


def test_what_cannot_be_removed_is_no_failure_of_what_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run said that the index was untouched, and it was the new one."""
    publish(tmp_path, a="one")

    def refused(*args: object, **options: object) -> None:
        if not options.get("ignore_errors"):
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("indexer.store.shutil.rmtree", refused)
        assert publish(tmp_path, a="two") == "000002"
        assert texts_in(tmp_path) == {"a": "two"}
        with pytest.raises(Unavailable, match="Input/output error"):
            publish(tmp_path, a="three")
    assert texts_in(tmp_path) == {"a": "two"}
    publish(tmp_path, a="three")
    assert [path.name for path in (tmp_path / GENERATIONS).iterdir()] == ["000003"]


def test_someone_elses_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(InvalidRequest, match=r"holds other things \('thesis.docx'\)"):
        publish(tmp_path, a="one")
    assert files_in(tmp_path) == {"thesis.docx": b"years of work"}


def test_what_someone_puts_beside_the_index_is_left_alone(tmp_path: Path) -> None:
    publish(tmp_path, a="one")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / GENERATIONS / "mine").mkdir()
    publish(tmp_path, a="two")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in (tmp_path / GENERATIONS).iterdir()) == ["000002", "mine"]


def test_a_file_in_place_of_the_directory_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("a file")
    with pytest.raises(Unavailable, match=r"cannot write the index in .*index"):
        publish(tmp_path / "index", a="one")


def test_the_folders_of_a_new_index_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names stand in the folders above: without these a loss of power takes the whole index away."""
    synced: list[int] = []
    fsync = os.fsync

    def noted(file: int) -> None:
        synced.append(os.fstat(file).st_ino)
        fsync(file)

    monkeypatch.setattr(os, "fsync", noted)
    publish(tmp_path / "new" / "index", a="one")
    assert {tmp_path.stat().st_ino, (tmp_path / "new").stat().st_ino} <= set(synced)
    synced.clear()
    publish(tmp_path / "new" / "index", a="two")
    assert tmp_path.stat().st_ino not in synced


@pytest.mark.parametrize("call", ["fsync", "rename", "replace", "mkdir"])
def test_a_full_disk_leaves_the_old_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    publish(tmp_path, a="one")
    before = files_in(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(Unavailable, match="No space left on device") as caught:
            publish(tmp_path, a="two")
    assert "untouched" in caught.value.hint
    assert texts_in(tmp_path) == {"a": "one"}
    assert {name: data for name, data in files_in(tmp_path).items() if name in before} == before
    assert publish(tmp_path, a="two") in {"000002", "000003"}
    assert texts_in(tmp_path) == {"a": "two"}


_LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, str(Path.cwd() / "tests"))
from test_indexer_store import publish
from rag.errors import Unavailable
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    publish(Path(sys.argv[1]), **{f"d{n}": f"word{n} " * 200 for n in range(200)})
except Unavailable as error:
    print(error.message)
"""


@pytest.mark.parametrize("limit", [1_000, 30_000, 200_000], ids=["first", "store", "later"])
def test_every_library_that_writes_reports_a_full_disk(tmp_path: Path, limit: int) -> None:
    """The kernel refuses any file to grow beyond the limit: SQLite, FAISS and numpy each meet it in their own way."""
    publish(tmp_path, a="one")
    said = run_python(_LIMITED, str(tmp_path), str(limit))
    assert "cannot write the index" in said
    assert texts_in(tmp_path) == {"a": "one"}


_LAST_BYTE = """
import resource, sys
from pathlib import Path
import numpy as np
from rag.postings import Postings
from rag.vectors import FlatVectors

folder = Path(sys.argv[1])
vectors = FlatVectors.build(np.ones((300, 2), np.float32))
lexical = Postings.build([[str(n), str(n + 1), str(n + 2)] for n in range(40)] * 5)
vectors.save(folder / "whole.faiss")
lexical.save(folder / "whole")
largest = max(path.stat().st_size for path in (folder / "whole").iterdir())
for path, save, size in (
    (folder / "cut.faiss", vectors.save, (folder / "whole.faiss").stat().st_size),
    (folder / "cut", lexical.save, largest),
):
    for limit in (size, size - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            save(path.with_name(f"{limit}-{path.name}"))
            print(path.name, size - limit, "saved")
        except OSError as error:
            print(path.name, size - limit, error.strerror)
"""


def test_a_disk_that_is_one_byte_short_is_noticed(tmp_path: Path) -> None:
    said = run_python(_LAST_BYTE, str(tmp_path)).splitlines()
    assert said == [
        "cut.faiss 0 saved",
        "cut.faiss 1 File too large",
        "cut 0 saved",
        "cut 1 File too large",
    ]


_KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, str(Path.cwd() / "tests"))
from test_indexer_store import files_in, holds, publish, texts_in

base, copies, every = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

def kill_at(step):
    calls = [0]
    def wrap(function):
        def counted(*args, **kwargs):
            calls[0] += 1
            if calls[0] == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return counted
    for name in ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir"):
        setattr(os, name, wrap(getattr(os, name)))

step, killed = 1 - every, True
while killed:
    step += every
    directory = copies / str(step)
    shutil.copytree(base, directory)
    child = os.fork()
    if not child:
        kill_at(step)
        publish(directory, b="new zebra", c="same")
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    found = texts_in(directory)
    publish(directory, **found)
    reverted = [len(files_in(directory)), len(holds(directory, "zebra")), len(holds(directory, "aardvark"))]
    publish(directory, c="same")
    cleared = [len(files_in(directory)), len(holds(directory, "zebra")), len(holds(directory, "aardvark"))]
    print(json.dumps({"killed": killed, "found": found, "reverted": reverted, "cleared": cleared}))
"""


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_kill_at_any_moment_leaves_one_whole_generation(tmp_path: Path, every: int) -> None:
    """A child is killed before each (or every sixth) of its system calls that change the directory."""
    publish(tmp_path / "base", a="old aardvark", c="same")
    said = run_python(_KILLED, str(tmp_path / "base"), str(tmp_path), str(every))
    runs = [json.loads(line) for line in said.splitlines()]
    old, new = {"a": "old aardvark", "c": "same"}, {"b": "new zebra", "c": "same"}
    found = [run["found"] for run in runs]
    assert len(runs) > 20 // every
    assert [run["killed"] for run in runs] == [True] * (len(runs) - 1) + [False]
    switch = found.index(new)
    assert found == [old] * switch + [new] * (len(runs) - switch)
    assert switch > 10 // every
    for run in runs:  # the files of one generation; those that hold the words of b and of a
        assert run["reverted"] == ([13, 2, 0] if run["found"] == new else [13, 0, 2])
        assert run["cleared"] == [13, 0, 0]


def run_python(script: str, *arguments: str) -> str:
    """Run a script in a process of its own. One thread, so that it may fork."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
