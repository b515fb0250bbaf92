"""What the commands that make test sets are given: documents of a folder, of a QA set, of an index."""

import json
from pathlib import Path

import pytest

from eval.synth import Source
from indexer.chunk import Chunker
from indexer.sync import build
from rag import cli_synth
from rag.config import Settings, load_settings
from rag.datatypes import Document
from rag.errors import InvalidRequest
from tests.conftest import QueueGenerator, WordEmbedder, located

TEXT = "The mill by the river was built of grey stone by Ada Brandt in 1874. It ground barley for the farms around it."


class ClosableGenerator(QueueGenerator):
    closed = 0

    def close(self) -> None:
        self.closed += 1


class CuttingEmbedder(WordEmbedder):
    @property
    def tokenizer_file(self) -> Path:
        return located("all-MiniLM-L6-v2").path / "tokenizer.json"


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> ClosableGenerator:
    made = ClosableGenerator()
    monkeypatch.setattr(cli_synth, "build_generator", lambda settings, store: made)
    monkeypatch.setattr(cli_synth, "build_embedder", lambda settings, store: CuttingEmbedder())
    monkeypatch.setattr(cli_synth, "_weights", lambda settings, store: settings.generator.model)
    return made


def seen(source: Source) -> list[tuple[str, list[str]]]:
    return [(d.id, [chunk.text for chunk in source.passages(d)]) for d in source.documents()]


def settings(**generator: str) -> Settings:
    return load_settings(None, {"generator": generator} if generator else None)


def test_a_folder_is_read_and_what_cannot_be_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / "deep" / "mill.md").write_text(f"# The mill\n\n{TEXT}\n")
    (tmp_path / "docs" / "empty.txt").write_text("")
    (tmp_path / "docs" / "picture.xyz").write_bytes(b"\0")
    found = list(cli_synth.load_folder(tmp_path / "docs"))
    assert [(d.id, d.title) for d in found] == [("deep/mill.md", "The mill")]
    assert "empty.txt" in capsys.readouterr().err
    with pytest.raises(InvalidRequest, match="no file or folder"):
        list(cli_synth.load_folder(tmp_path / "nowhere"))


def test_a_folder_a_set_and_an_index_are_told_apart(tmp_path: Path, generator: ClosableGenerator) -> None:
    folder, qaset, index = tmp_path / "docs", tmp_path / "set", tmp_path / "index"
    folder.mkdir()
    (folder / "mill.txt").write_text(TEXT)
    qaset.mkdir()
    (qaset / "corpus.jsonl").write_text(json.dumps({"id": "m", "title": "Mill", "text": TEXT}))
    (qaset / "meta.json").write_text(json.dumps({"name": "n", "kind": "k", "license": "CC0", "source": "s"}))
    embedder = CuttingEmbedder()
    build(index, [Document("i", "u", "Mill", TEXT)], embedder=embedder, chunker=Chunker(embedder.tokenizer_file, 20, 0))
    with cli_synth.open_source(folder, settings()) as source:
        assert (seen(source), source.license[:7]) == ([("mill.txt", [TEXT])], "unknown")
    with cli_synth.open_source(qaset, settings()) as source:
        assert (seen(source), source.license) == ([("m", [TEXT])], "CC0")
    with cli_synth.open_source(index, settings()) as source:
        ((id_, passages),) = seen(source)
        assert (id_, len(passages)) == ("i", 2)  # as it was cut when it was indexed
    assert generator.closed == 3


def test_the_fingerprint_follows_model_and_cutting(tmp_path: Path, generator: ClosableGenerator) -> None:
    (tmp_path / "mill.txt").write_text(TEXT)
    prints = []
    for changed in ({}, {"generator": {"model": "large"}}, {"chunk": {"tokens": 50}}, {}):
        with cli_synth.open_source(tmp_path, load_settings(None, changed)) as source:
            prints.append(source.fingerprint)
    assert prints[0] == prints[3] and len(set(prints)) == 3
