"""Clusters of large segments: what is found, what is allowed, and what becomes of damage."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import indexer.ivf
from indexer.compact import compact
from indexer.ivf import cluster, perturbed, recall
from indexer.merge import MergePolicy
from indexer.recall import clustered_share, measure, sample_queries
from indexer.repair import repair
from indexer.stats import stats
from indexer.sync import build
from indexer.verify import verify
from rag.cli import app
from rag.cli_recall import read_questions
from rag.datatypes import Document
from rag.errors import DataError, IndexDamaged
from rag.index import Index
from rag.ivf import ClusteredVectors
from rag.manifest import CLUSTERS, CURRENT, GENERATIONS, MANIFEST, MANIFEST_SUM, SEGMENTS, VECTORS, manifest_sum
from rag.protocols import BoolArray, FloatArray
from rag.vectors import FlatVectors
from tests.test_indexer_maintain import rewrite
from tests.test_rag_index import LineChunker

N, D, TOPICS = 4000, 32, 40
NEVER = MergePolicy(small=0, factor=1_000_000)


def topical(count: int, seed: int) -> FloatArray:
    """Unit vectors around topics, which are the same for every seed; row i is of topic i % TOPICS."""
    topics = np.random.default_rng(7).standard_normal((TOPICS, D), dtype=np.float32)
    vectors = np.tile(topics, (-(-count // TOPICS), 1))[:count]
    vectors = vectors + 0.9 * np.random.default_rng(seed).standard_normal((count, D), dtype=np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two files of vectors of one segment."""
    folder = tmp_path_factory.mktemp("clustered")
    FlatVectors.build(topical(N, 1)).save(folder / VECTORS)
    found = cluster(FlatVectors.load(folder / VECTORS), folder / VECTORS)
    assert found is not None
    found.save(folder / CLUSTERS)
    return folder


@pytest.fixture
def vectors(folder: Path) -> ClusteredVectors:
    return ClusteredVectors.load(folder / CLUSTERS, FlatVectors.load(folder / VECTORS), folder / VECTORS)


def mean_recall(vectors: ClusteredVectors, queries: FloatArray, k: int, allowed: BoolArray | None) -> float:
    found = []
    for query in queries:
        scores, rows = vectors.search(query, k, allowed)
        least = vectors.exact.search(query, k, allowed)[0][-1]
        assert len(set(rows.tolist())) == k
        assert allowed is None or allowed[rows].all()
        assert scores.tolist() == pytest.approx((vectors.rows(rows) @ query).tolist(), abs=1e-6)
        assert (np.diff(scores) <= 0).all()
        found.append(recall(scores, least, k))
    return float(np.mean(found))


@pytest.mark.parametrize("k", [1, 10, 50])
def test_it_finds_what_an_exact_search_finds(vectors: ClusteredVectors, k: int) -> None:
    assert 1 <= vectors.index.nprobe < vectors.index.nlist / 2  # it is no exact search in disguise
    assert mean_recall(vectors, topical(200, 2), k, None) >= 0.95


def test_it_misses_something_where_it_looks_into_one_cluster(folder: Path) -> None:
    """What the recall of the other tests would be if the number of clusters were not chosen."""
    vectors = ClusteredVectors.load(folder / CLUSTERS, FlatVectors.load(folder / VECTORS), folder / VECTORS)
    vectors.index.nprobe = 1
    assert mean_recall(vectors, topical(200, 2), 10, None) < 0.8


@pytest.mark.parametrize("share", [0.9, 0.6])
def test_a_filter_lets_through_what_it_allows_alone(vectors: ClusteredVectors, share: float) -> None:
    allowed = np.random.default_rng(3).random(N) < share
    assert mean_recall(vectors, topical(200, 2), 10, allowed) >= 0.95


def test_a_filter_that_leaves_few_rows_is_exact(vectors: ClusteredVectors) -> None:
    allowed = np.random.default_rng(3).random(N) < 0.01
    assert mean_recall(vectors, topical(100, 2), 10, allowed) == 1.0


@pytest.mark.parametrize("ours", [True, False], ids=["asked about what it allows", "asked about something else"])
def test_a_filter_may_leave_rows_that_lie_together(
    vectors: ClusteredVectors, monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    monkeypatch.setattr("rag.ivf._FEW_ALLOWED", 0)
    allowed = np.isin(np.arange(N) % TOPICS, [3, 4, 5])
    queries = topical(400, 2)
    asked = np.isin(np.arange(400) % TOPICS, [3, 4, 5])
    assert mean_recall(vectors, queries[asked if ours else ~asked][:60], 10, allowed) >= 0.95


def test_a_mask_is_counted_once_and_never_taken_for_another(vectors: ClusteredVectors) -> None:
    halves = np.arange(2 * N) % 2 == 0
    halves[N:] = ~halves[N:]
    halves.setflags(write=False)
    for part in (halves[:N], halves[N:], halves[:N], ~halves[:N]):
        assert mean_recall(vectors, topical(20, 2), 10, part) >= 0.9
        expected = [int(np.sum(part[vectors._clusters_n == c])) for c in range(5)]
        assert vectors._allowed_sizes(part)[:5].tolist() == expected
    open_to_change = np.ones(N, np.bool_)
    vectors._allowed_sizes(open_to_change)
    open_to_change[:] = False
    assert vectors._allowed_sizes(open_to_change).sum() == 0


def test_one_allowed_row_is_found_wherever_it_lies(vectors: ClusteredVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.ivf._FEW_ALLOWED", 0)
    for row in (0, 17, N - 1):
        allowed = np.arange(N) == row
        assert vectors.search(topical(1, 2)[0], 10, allowed)[1].tolist() == [row]


def test_any_number_of_results_can_be_asked_for(vectors: ClusteredVectors) -> None:
    query = topical(1, 2)[0]
    assert [len(vectors.search(query, k)[1]) for k in (-1, 0, 1, 999, N, 2 * N)] == [0, 0, 1, 999, N, N]
    assert len(vectors.search(query, 10, np.zeros(N, np.bool_))[1]) == 0


def test_the_same_vectors_make_the_same_file(folder: Path, tmp_path: Path) -> None:
    again = cluster(FlatVectors.load(folder / VECTORS), folder / VECTORS)
    assert again is not None
    again.save(tmp_path / CLUSTERS)
    assert (tmp_path / CLUSTERS).read_bytes() == (folder / CLUSTERS).read_bytes()


def test_rows_come_from_the_file_as_they_are(vectors: ClusteredVectors) -> None:
    rows = [N - 1, 0, 5, 5]
    assert vectors.rows(rows).tolist() == topical(N, 1)[rows].tolist()
    assert vectors.rows([]).shape == (0, D)


def test_vectors_without_neighbours_stay_exact(tmp_path: Path) -> None:
    """In 256 dimensions no few clusters hold the nearest of random directions."""
    random = np.random.default_rng(5).standard_normal((1000, 256), dtype=np.float32)
    FlatVectors.build(random / np.linalg.norm(random, axis=1, keepdims=True)).save(tmp_path / VECTORS)
    assert cluster(FlatVectors.load(tmp_path / VECTORS), tmp_path / VECTORS) is None


def test_equal_vectors_are_no_trouble(tmp_path: Path) -> None:
    FlatVectors.build(np.tile(topical(2, 1), (1000, 1))).save(tmp_path / VECTORS)
    found = cluster(FlatVectors.load(tmp_path / VECTORS), tmp_path / VECTORS)
    assert found is None or len(found.search(topical(1, 1)[0], 10)[1]) == 10


def test_queries_are_as_near_as_questions() -> None:
    vectors = topical(50, 1)
    made = perturbed(vectors, np.random.default_rng(0))
    moved = np.abs(made - vectors).max(axis=1) > 1e-5  # where two draws agree there is no direction to go
    assert moved.sum() >= 45
    assert np.sum(made * vectors, axis=1)[moved] == pytest.approx(0.6, abs=1e-5)
    assert np.linalg.norm(made, axis=1) == pytest.approx(1, abs=1e-5)


def test_recall_counts_equal_scores_for_each_other() -> None:
    assert recall(np.array([0.9, 0.8, 0.5], np.float32), 0.8, 2) == 1.0
    assert recall(np.array([0.9, 0.7], np.float32), 0.8, 2) == 0.5
    assert recall(np.array([0.9, 0.8, 0.8, 0.8], np.float32), 0.8, 3) == 1.0


class TopicEmbedder:
    """The vector of the number that a text's last line is."""

    name = "topics"
    fingerprint = "topics-1"
    dimension = D

    def embed(self, texts: list[str]) -> FloatArray:
        numbers = [int(text.rsplit("\n", 1)[-1]) for text in texts]
        return ALL[numbers]


ALL = topical(3000, 1)
LINES = 10


def documents(numbers: range) -> list[Document]:
    """Documents of ten chunks each."""
    return [
        Document(f"{n:04d}", "", f"t{n}", "\n".join(str(LINES * n + i) for i in range(LINES)), {"tags": f"part{n % 4}"})
        for n in numbers
    ]


def make(directory: Path, numbers: range, **options: Any) -> None:
    build(directory, documents(numbers), embedder=TopicEmbedder(), chunker=LineChunker(), **options)


def files(directory: Path, segment: str = "000001") -> set[str]:
    return {path.name for path in (directory / SEGMENTS / segment).iterdir()}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of a clustered segment of 2,500 chunks."""
    directory = tmp_path_factory.mktemp("large") / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexer.ivf, "EXACT_BELOW", 1000)
        make(directory, range(250))
    return directory


@pytest.fixture
def directory(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(indexer.ivf, "EXACT_BELOW", 1000)
    monkeypatch.setattr("rag.ivf._FEW_ALLOWED", 0)
    shutil.copytree(original, tmp_path / "index")
    return tmp_path / "index"


def index_recall(index: Index, allowed: BoolArray | None = None) -> float:
    found = []
    for query in topical(100, 9):
        scores, rows = index.vectors.search(query, 10, allowed)
        assert allowed is None or allowed[rows].all()
        found.append(recall(scores, index.vectors.exact().search(query, 10, allowed)[0][-1]))
    return float(np.mean(found))


def test_a_large_segment_has_clusters_and_a_small_one_none(directory: Path) -> None:
    make(directory, range(260), policy=NEVER)
    assert CLUSTERS in files(directory)
    assert CLUSTERS not in files(directory, "000002")
    assert [segment["bytes"]["clusters"] > 0 for segment in stats(directory)["segments"]] == [True, False]
    with Index.open(directory) as index:
        assert len(index.vectors) == 2600
        assert index_recall(index) >= 0.95
        assert index_recall(index, np.arange(2600) % 2 == 0) >= 0.95
        assert index.vectors.rows([0, 2599]).tolist() == ALL[[0, 2599]].tolist()


def test_what_is_deleted_is_not_found(directory: Path) -> None:
    make(directory, range(150), policy=NEVER)  # 100 of 250 documents go, and stay in the files
    assert CLUSTERS in files(directory)
    with Index.open(directory) as index:
        assert len(index.vectors) == 1500
        for row in (0, 500, 1499):
            scores, rows = index.vectors.search(ALL[row], 1)
            assert (rows.tolist(), scores.tolist()) == ([row], pytest.approx([1], abs=1e-5))
        near_deleted = index.vectors.search(ALL[1700], 10)
        assert near_deleted[0][0] < 0.999
        assert index_recall(index) >= 0.95


def test_a_merged_segment_has_clusters_of_its_own(directory: Path) -> None:
    make(directory, range(200), policy=NEVER)
    assert compact(directory)
    with Index.open(directory) as index:
        assert (len(index.vectors), index_recall(index) >= 0.95) == (2000, True)
    assert CLUSTERS in files(directory, "000002")
    assert not compact(directory)
    assert verify(directory).problems == []
    make(directory, range(90))  # too few are left, and most are deleted
    with Index.open(directory) as index:
        assert len(index.vectors) == 900
    (left,) = (directory / SEGMENTS).iterdir()
    assert CLUSTERS not in files(directory, left.name)


def test_an_index_of_before_is_read_and_compacting_clusters_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "index", range(250))
    generation = tmp_path / "index" / GENERATIONS / (tmp_path / "index" / CURRENT).read_text().strip()
    manifest = json.loads((generation / MANIFEST).read_text())
    manifest["format_version"] = 2
    content = json.dumps(manifest).encode()
    (generation / MANIFEST).write_bytes(content)
    (generation / MANIFEST_SUM).write_text(manifest_sum(content))
    with Index.open(tmp_path / "index") as index:
        assert index_recall(index) == 1.0
    monkeypatch.setattr(indexer.ivf, "EXACT_BELOW", 1000)
    make(tmp_path / "index", range(251))
    assert CLUSTERS not in files(tmp_path / "index")
    assert compact(tmp_path / "index")
    assert CLUSTERS in files(tmp_path / "index", "000003")
    assert verify(tmp_path / "index").problems == []


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_damaged_clusters_are_named_before_they_are_parsed_and_made_anew(
    directory: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = directory / SEGMENTS / "000001" / CLUSTERS
    before = path.read_bytes()
    data = bytearray(before)
    data[len(data) // 2] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-1]), "empty": b""}[damage])
    with monkeypatch.context() as patch:
        patch.setattr(ClusteredVectors, "load", lambda path, *_: pytest.fail(f"{path} was parsed"))
        with pytest.raises(IndexDamaged, match=r"clusters\.faiss"):
            Index.open(directory)
    assert any("clusters.faiss" in problem for problem in verify(directory).problems)
    done = repair(directory)
    assert (done.done, done.mended, done.lost, done.dropped) == ("rebuilt", ["000001"], [], [])
    assert (directory / SEGMENTS / "000002" / CLUSTERS).read_bytes() == before
    assert verify(directory).problems == []


def test_vectors_that_go_while_they_are_opened_are_no_crash(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer removes a generation that a server is just opening: it opens the newer one, if it is told so."""

    def gone(path: Path, *_: object) -> int:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("rag.ivf.os.open", gone)
        with pytest.raises(IndexDamaged, match=r"vectors\.faiss: No such file"):
            Index.open(directory)
    with Index.open(directory) as index:
        assert len(index.vectors) > 0


def test_terms_are_mended_without_the_clusters(directory: Path) -> None:
    before = (directory / SEGMENTS / "000001" / CLUSTERS).read_bytes()
    (directory / SEGMENTS / "000001" / "lexical/terms.txt").write_bytes(b"")
    assert repair(directory).mended == ["000001"]
    assert (directory / SEGMENTS / "000002" / CLUSTERS).read_bytes() == before
    assert verify(directory).problems == []


def test_clusters_of_other_vectors_are_found_though_their_checksum_holds(directory: Path, tmp_path: Path) -> None:
    segment = directory / SEGMENTS / "000001"
    FlatVectors.build(topical(2500, 8)).save(tmp_path / VECTORS)
    other = cluster(FlatVectors.load(tmp_path / VECTORS), tmp_path / VECTORS)
    assert other is not None
    rewrite(segment, lambda: other.save(segment / CLUSTERS))
    assert any("codes of other vectors" in problem for problem in verify(directory).problems)


@pytest.mark.parametrize("kind", ["flat", "fewer"])
def test_clusters_that_do_not_fit_are_refused(directory: Path, tmp_path: Path, kind: str) -> None:
    segment = directory / SEGMENTS / "000001"
    few = FlatVectors.build(topical(2000, 8))
    few.save(tmp_path / VECTORS)
    other = cluster(FlatVectors.load(tmp_path / VECTORS), tmp_path / VECTORS)
    assert other is not None
    rewrite(segment, lambda: (few if kind == "flat" else other).save(segment / CLUSTERS))
    with pytest.raises(IndexDamaged, match=r"no IVF|do not fit together"):
        Index.open(directory)


@pytest.mark.skipif(not hasattr(os, "pread"), reason="vectors are mapped there")
def test_a_file_that_is_cut_while_it_is_open_is_an_error(folder: Path, tmp_path: Path) -> None:
    for name in (VECTORS, CLUSTERS):
        shutil.copy(folder / name, tmp_path / name)
    floats = tmp_path / VECTORS
    vectors = ClusteredVectors.load(tmp_path / CLUSTERS, FlatVectors.load(floats), floats)
    os.truncate(tmp_path / VECTORS, 1000)
    with pytest.raises(IndexDamaged, match="was cut"):
        vectors.rows([N - 1])


def test_recall_is_measured_against_an_exact_search(directory: Path) -> None:
    with Index.open(directory) as index:
        found = measure(index, sample_queries(index, 150, 1))
        assert (found.k, len(found.shares), clustered_share(index)) == (10, 150, 1.0)
        assert 0.95 <= np.mean(found.shares) < 1.0
        assert found.seconds > 0 < found.exact_seconds
        assert sample_queries(index, 5, 1).tolist() == sample_queries(index, 5, 1).tolist()
        assert sample_queries(index, 5, 1).tolist() != sample_queries(index, 5, 2).tolist()
        (segment,) = index.vectors.segments
        assert isinstance(segment, ClusteredVectors)
        segment.index.nprobe = 1
        assert np.mean(measure(index, sample_queries(index, 150, 1)).shares) < np.mean(found.shares) - 0.1


def stats_command(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["store", "stats", *map(str, arguments)])
    return result.exit_code, result.stdout if result.exception is None else str(result.exception)


def test_the_command_prints_recall_with_its_interval(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = stats_command("--recall", "--sample", "50", "--json", "--index", directory)
    (record,) = json.loads(said)["recall"]
    assert (code, record["n"], record["k"], record["clustered"]) == (0, 50, 10, 1.0)
    low, high = record["interval"]
    assert 0.9 < low <= record["recall"] <= high <= 1.0
    assert low < high
    monkeypatch.setattr("rag.cli_recall.build_embedder", lambda settings, store: TopicEmbedder())
    (tmp_path / "asked.txt").write_text("3\n\n17\n2999\n")
    code, said = stats_command("--questions", tmp_path / "asked.txt", "--sample", "20", "--index", directory)
    assert code == 0
    line, asked = said.replace("\n", " ").split("recall@10")[1:]
    assert "n = 20" in line
    assert "n = 3," in asked
    assert "asked.txt" in asked


def test_nothing_can_be_missed_where_all_is_compared(tmp_path: Path) -> None:
    make(tmp_path / "index", range(5))
    code, said = stats_command("--recall", "--index", tmp_path / "index")
    assert code == 0
    assert "recall@10 1.000" in said
    assert "nothing can be missed" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\n \n", "holds no questions"),
        (b"\xff\xfe", "not UTF-8"),
        (b"a\n" * 10_001, "more than 10,000"),
        (None, "cannot"),
    ],
)
def test_questions_that_cannot_be_used_are_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "asked.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_questions(path)
