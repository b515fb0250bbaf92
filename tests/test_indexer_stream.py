"""Documents on standard input: what is taken, what is refused, and what becomes of an index."""

import io
import json
from pathlib import Path

import pytest

import indexer.stream
from indexer.stream import Stream, stream_root
from indexer.sync import sync
from rag.catalog import Original
from rag.errors import IndexIncompatible, InvalidRequest, Unavailable
from rag.index import Index
from rag.manifest import SEGMENTS, STORE
from tests.test_indexer_sync import CountingEmbedder, LineChunker, Run, Write, contents, letters, write

__all__ = ["write"]


def lines(*records: object) -> bytes:
    return b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in records)


def record(id_: str, text: str = "text", **fields: object) -> dict[str, object]:
    return {"id": id_, "text": text, **fields}


def taken(content: bytes) -> list[str]:
    with Stream.read(io.BytesIO(content), "s") as stream:
        assert stream.failed == []
        return [source.id for source in stream.sources("s")]


def refused(content: bytes) -> list[tuple[str, str]]:
    with Stream.read(io.BytesIO(content), "s") as stream:
        return stream.failed


def run(tmp_path: Path, *records: object, name: str = "tickets", roots: tuple[str, ...] = (), **options: object) -> Run:
    with Stream.read(io.BytesIO(lines(*records)), name) as stream:
        return Run(tmp_path, *roots, stream=stream, **options)


@pytest.mark.parametrize(
    "said",
    [
        *("2024-03-01T23:30:00-05:00", "2024-03-01T10:00:00.123456789Z", "20240301T100000Z", "2024-03-01 10:00 +0200"),
        *("2024-03-01 10:00:00 UTC", " 20240301 "),
    ],
)
def test_the_day_of_a_moment_is_that_of_its_own_zone(said: str) -> None:
    with Stream.read(io.BytesIO(lines(record("a", date=said))), "s") as stream:
        assert [source.read().metadata["date"] for source in stream.sources("s")] == ["2024-03-01"]


def test_all_fields_of_a_record_are_kept() -> None:
    full = record(
        *("42", "alpha\r\nbeta\x00"),
        **{"title": "T", "path": "2024/42", "uri": "https://example.org/42", "date": "2024-03-01T10:00:00"},
        **{"tags": ["roof", "rain "], "labels": ["hr"], "metadata": {"author": "A", "stars": 4, "open": True}},
    )
    with Stream.read(io.BytesIO(lines(full)), "s") as stream:
        (source,) = stream.sources("tickets")
        document = source.read()
    assert (source.id, source.uri, source.name) == ("tickets/2024/42", "https://example.org/42", "stream:s, line 1")
    assert (document.id, document.title, document.text) == ("tickets/2024/42", "T", "alpha\nbeta")
    assert document.metadata == {
        **{"format": "text", "author": "A", "stars": 4, "open": True, "id": "42"},
        **{"date": "2024-03-01", "tags": "roof\nrain", "labels": "hr"},
    }
    assert isinstance(source.original, Original)
    assert source.original.root == "stream:s"


def test_an_id_need_not_be_a_path_where_there_is_one() -> None:
    """Such as the URLs that programs know their pages by."""
    url = record("https://example.org/a", path="pages/a")
    assert taken(lines(url)) == ["s/pages/a"]
    assert refused(lines(record("https://example.org/a")))[0][1].endswith("give it a `path` of its own")


def test_blank_lines_and_a_last_line_without_its_end_are_fine() -> None:
    assert taken(b'\n{"id": "a", "text": "x"}\r\n  \n{"id": "b", "text": "y"}') == ["s/a", "s/b"]
    assert taken(b"") == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "Invalid JSON"),
        (b"\xff", "Invalid JSON"),
        (b"[1]", "Input should be an object"),
        (record("a") | {"text": 1}, "text: Input should be a valid string"),
        ({"id": "a"}, "text: Field required"),
        (record("a", ""), "empty: no text in it"),
        (record("a", "\x00\x01"), "empty: no text in it"),
        (record(""), "id: "),
        (record("../a"), "id: "),
        (record("/a"), "id: "),
        (record("a\nb"), "id: "),
        (record("a" * 501), "id: "),
        (record("a", path="x//y"), "path: "),
        (record("a", date="yesterday"), "date: Value error, a date is written as YYYY-MM-DD, a time may follow"),
        (record("a", date="2024-03-017"), "date: "),
        (record("a", date="2024-03-01-02"), "date: "),
        (record("a", tags="roof"), "tags: "),
        (record("a", tags=["x\ny"]), "tags.0: "),
        (record("a", labels=["!"]), "labels.0: "),
        (record("a", label=["hr"]), "label: "),
        (record("a", metadata={"x": [1]}), "metadata.x"),
        (record("a", metadata={"x": float("nan")}), "metadata.x"),
        (b'{"id": "a", "text": "x", "metadata": {"x": -1e999}}', "metadata.x"),
        (record("a", metadata={"labels": "hr"}), "'labels' is a field of its own"),
        (record("a", title="\ud800"), "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
        (b'{"id": "a", "text": "' + b"x" * 2000 + b'"}', "too long"),
    ],
)
def test_a_bad_line_is_named_and_the_rest_is_taken(line: object, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason == "too long":
        monkeypatch.setattr(indexer.stream, "LINE_BYTES", 1000)
        monkeypatch.setattr(indexer.stream, "_PIECE", 100)
    with Stream.read(io.BytesIO(lines(record("x"), line, record("y"))), "s") as stream:
        ((name, why),) = stream.failed
        assert [source.id for source in stream.sources("s")] == ["s/x", "s/y"]
        assert [source.read().text for source in stream.sources("s")] == ["text", "text"]
    assert name == "stream:s, line 2"
    assert reason in why
    assert "\n" not in why


def test_an_id_that_comes_twice_is_named_with_both_lines() -> None:
    assert refused(lines(record("a"), record("b"), record("a"))) == [
        ("stream:s, line 3", "the id 'a' was given in line 1 already")
    ]
    # Nor are there two documents of one id that name different places, or one place for two.
    again = (record("a", path="x"), record("a", path="y"), record("b", path="x"), record("c", path="y"))
    assert refused(lines(*again)) == [
        ("stream:s, line 2", "the id 'a' was given in line 1 already"),
        ("stream:s, line 3", "the path 'x' was given in line 1 already"),
    ]


def test_a_byte_order_mark_costs_no_document() -> None:
    assert taken(b"\xef\xbb\xbf" + lines(record("a"), record("b"))) == ["s/a", "s/b"]
    assert taken(b'\xef\xbb\xbf{"id": "a", "text": "x"}') == ["s/a"]


@pytest.mark.parametrize("name", ["", ".x", "a/b", "a b", "x" * 65])
def test_names_of_sources_are_plain(name: str) -> None:
    with pytest.raises(InvalidRequest, match="name of a source"):
        stream_root(name)


def test_a_stream_that_is_cut_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = lines(record("a"), record("b"))
    with pytest.raises(InvalidRequest, match="ends in the middle of a line"):
        Stream.read(io.BytesIO(whole[:-10]), "s")
    monkeypatch.setattr(indexer.stream, "LINE_BYTES", 100)  # also in the middle of one that is too long anyway
    monkeypatch.setattr(indexer.stream, "_PIECE", 10)
    for cut in (102, 150, 155):
        with pytest.raises(InvalidRequest, match="ends in the middle of a line"):
            Stream.read(io.BytesIO(lines(record("a")) + lines(record("b", "x" * 200))[:cut]), "s")


def test_a_stream_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexer.stream, "LINES", 2)
    with pytest.raises(InvalidRequest, match="more than 2 lines"):
        Stream.read(io.BytesIO(lines(record("a"), record("b"), record("c"))), "s")
    monkeypatch.setattr(indexer.stream, "LINES", 100)
    monkeypatch.setattr(indexer.stream, "TOTAL_BYTES", 50)
    with pytest.raises(InvalidRequest, match="or 0 GB"):
        Stream.read(io.BytesIO(lines(record("a"), record("b"), record("c"))), "s")


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(indexer.stream.tempfile, "TemporaryFile", Full)
    with pytest.raises(Unavailable, match="No space left"):
        Stream.read(io.BytesIO(lines(record("a"))), "s")


# --- in an index


def test_a_stream_takes_the_place_of_what_its_source_had_before(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    Run(tmp_path, "docs")
    first = run(tmp_path, record("1", "one"), record("2", "two"), b"nonsense")
    assert (first.report.added, first.loader.loaded) == (["tickets/1", "tickets/2"], [])
    assert letters(tmp_path)[0][0] == "stream:tickets, line 3"
    assert contents(tmp_path) == {"a.txt": "alpha", "tickets/1": "one", "tickets/2": "two"}
    assert not run(tmp_path, record("2", "two"), record("1", "one")).report.published
    second = run(tmp_path, record("2", "zwei"), record("3", "three"), record("4", "one"))
    assert (second.report.changed, second.report.added) == (["tickets/2"], ["tickets/3"])
    assert second.report.renamed == [("tickets/1", "tickets/4")]
    assert letters(tmp_path) == []
    other = run(tmp_path, record("1", "mail"), name="mails")
    assert other.report.removed == []
    assert sorted(contents(tmp_path)) == ["a.txt", "mails/1", "tickets/2", "tickets/3", "tickets/4"]
    with Index.open(tmp_path / "index") as index:
        docs = str(tmp_path / "docs")
        assert index.manifest.roots == {docs: "", "stream:tickets": "tickets", "stream:mails": "mails"}


def test_a_run_over_folders_leaves_streams_alone(tmp_path: Path, write: Write) -> None:
    run(tmp_path, record("1", "one"))
    with pytest.raises(InvalidRequest, match="nothing to index"):
        Run(tmp_path)
    write("docs/a.txt", "alpha")
    assert run(tmp_path, record("1", "one"), roots=("docs",)).report.added == ["docs/a.txt"]
    (tmp_path / "docs/a.txt").write_text("omega")
    assert Run(tmp_path).report.changed == ["docs/a.txt"]
    assert contents(tmp_path) == {"docs/a.txt": "omega", "tickets/1": "one"}
    assert Run(tmp_path, dry_run=True).report.unchanged == ["docs/a.txt"]


def test_an_empty_stream_does_not_empty_the_index(tmp_path: Path) -> None:
    run(tmp_path, record("1", "one"))
    for records in ((), (b"nonsense",)):
        with pytest.raises(InvalidRequest, match="stream:tickets had documents and now has none"):
            run(tmp_path, *records)
    assert contents(tmp_path) == {"tickets/1": "one"}
    assert run(tmp_path, allow_empty=True).report.removed == ["tickets/1"]


def test_a_label_that_is_taken_gets_a_number_and_ids_do_not_clash(tmp_path: Path, write: Write) -> None:
    write("docs/tickets/1.txt", "a file")
    Run(tmp_path, "docs")
    assert run(tmp_path, record("1.txt", "a record")).report.added == ["tickets-2/1.txt"]
    write("docs/tickets-2/1.txt", "made later")
    clash = run(tmp_path, record("1.txt", "a record"), record("2", "two"), roots=("docs",))
    assert contents(tmp_path)["tickets-2/1.txt"] == "made later"
    assert "belongs to a document of another source" in clash.report.failed[0][1]


def test_a_stream_is_dropped_by_its_name(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    run(tmp_path, record("1", "one"), roots=("docs",))
    with_name = sync(
        tmp_path / "index",
        [],
        embedder=CountingEmbedder(),
        chunker=LineChunker(),
        loader=Run(tmp_path, dry_run=True).loader,
        remove=["stream:tickets"],
    )
    assert with_name.removed == ["tickets/1"]
    assert [name.rpartition("/")[2] for name in contents(tmp_path)] == ["a.txt"]


def test_a_rebuild_takes_what_was_streamed_from_the_index(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("docs/a.txt", "alpha")
    Run(tmp_path, "docs")
    run(tmp_path, record("1", "one", date="2024-03-01"))
    monkeypatch.setattr(CountingEmbedder, "fingerprint", "other")
    with pytest.raises(IndexIncompatible):
        Run(tmp_path)
    built = Run(tmp_path, rebuild=True)
    assert (sorted(built.report.added), len(built.embedder.embedded)) == (["a.txt", "tickets/1"], 2)
    with Index.open(tmp_path / "index", "other") as index:
        assert index.document("tickets/1").metadata["date"] == "2024-03-01"
    assert not run(tmp_path, record("1", "one", date="2024-03-01")).report.published


def test_a_rebuild_does_not_lose_a_stream_that_cannot_be_read_any_more(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    Run(tmp_path, "docs")
    run(tmp_path, record("1", "one"))
    for path in (tmp_path / "index" / SEGMENTS).glob(f"*/{STORE}"):
        path.write_bytes(b"")
    with pytest.raises(InvalidRequest, match="stream:tickets cannot be built again") as caught:
        Run(tmp_path, rebuild=True)
    assert "--remove stream:tickets" in caught.value.hint
    again = run(tmp_path, record("1", "one"), rebuild=True)
    assert sorted(again.report.added) == ["a.txt", "tickets/1"]
