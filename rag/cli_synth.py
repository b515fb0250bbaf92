"""What `smallhold eval convert csv` and `smallhold eval synth` are given: documents of a folder, opened models."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from rag.build import build_embedder, build_generator, build_prompt, model_store, open_index
from rag.config import Settings
from rag.console import err, stage_progress
from rag.datatypes import Chunk, Document
from rag.embedder import SentenceEmbedder
from rag.errors import UnreadableDocument
from rag.manifest import CURRENT
from rag.models import ModelStore
from rag.tesseract import Tesseract

if TYPE_CHECKING:
    from eval.synth import Source
    from indexer.load import Loader
    from indexer.scan import FoundFile

LISTED = 20  # files that could not be read shown before the rest is only counted


def load_folder(folder: Path, ocr: str = "") -> Iterator[Document]:
    """Yield the documents of a folder of files, as `smallhold index` would read them, with their ids.

    `ocr` are languages for pages that are pictures, "" for none (`index.ocr`).

    Files that cannot be read are named on stderr and left out. Raises `InvalidRequest` where there is no such folder.
    """
    from indexer.load import Loader
    from indexer.scan import find_files, plan_roots

    failed: list[tuple[str, str]] = []
    tesseract = Tesseract.find(ocr) if ocr else None
    with Loader(ocr=tesseract) as loader, stage_progress() as progress:
        scan = find_files(plan_roots({}, [folder]), loader.suffixes, exclude=Path(), owners={})
        failed += scan.failed
        for done, file in enumerate(scan.files, start=1):
            for name, read in _reads(file, loader, failed):
                try:
                    yield read()
                except UnreadableDocument as error:
                    failed.append((name, str(error)))
            progress("read", done, len(scan.files))
    for path, reason in failed[:LISTED]:
        err.print(f"[red]could not be read[/]: {escape(path)}: {escape(reason)}")
    if len(failed) > LISTED:
        err.print(f"[red]could not be read[/]: {len(failed) - LISTED} more")


def _reads(
    file: "FoundFile", loader: "Loader", failed: list[tuple[str, str]]
) -> Iterator[tuple[str, Callable[[], Document]]]:
    """The documents in a file, more than one where it is an archive, each as its name and what reads it."""
    from indexer.load import member_address

    uri = file.path.as_uri()
    try:
        contents = loader.unpack(file.path)
    except UnreadableDocument as error:
        failed.append((str(file.path), str(error)))
        return
    if contents is None:
        yield str(file.path), partial(loader.load_file, file.path, file.document_id, uri)
        return
    for member in contents.members:
        yield f"{file.path}/{member.name}", partial(member.load, *member_address(file.document_id, uri, member.name))


def _able_to_write(settings: Settings, store: ModelStore) -> Settings:
    """Return the settings with the base of an adapted model in its place: what was taught to read forgot to write."""
    named = settings.generator
    bases = [source.base for spec in store.registry.model if spec.name == named.model for source in spec.source]
    if named.endpoint or not any(bases):
        return settings
    base = next(filter(None, bases))
    return settings.model_copy(update={"generator": named.model_copy(update={"model": base})})


@contextmanager
def open_source(path: Path, settings: Settings) -> "Iterator[Source]":
    """Open the documents at `path` and the settings' models for writing test questions.

    `path` is an index directory, a QA-set folder or its corpus.jsonl, or a folder of files. Passages of an index are
    taken as they were cut, others are cut by the settings. Raises `InvalidRequest` where there is nothing of the kind.
    """
    from eval.synth import Source
    from eval.synth_ask import Asker, load_synth_prompts

    store = model_store(settings)
    settings = _able_to_write(settings, store)
    embedder = build_embedder(settings, store)
    prompt, prompts = build_prompt(settings), load_synth_prompts()
    with ExitStack() as opened:
        documents, passages, cut = _documents(path, settings, embedder, opened)
        generator = opened.enter_context(closing(build_generator(settings, store)))
        parts = [_weights(settings, store), prompt.model_dump_json(), prompts.model_dump_json(), cut]
        yield Source(
            name=path.resolve().name,
            license=_license(path),
            documents=documents,
            passages=passages,
            asker=Asker(generator, prompt, prompts),
            embedder=embedder,
            model=settings.generator.model,
            fingerprint=hashlib.sha256("\n".join(parts).encode()).hexdigest(),
        )


def _documents(
    path: Path, settings: Settings, embedder: SentenceEmbedder, opened: ExitStack
) -> tuple[Callable[[], Iterator[Document]], Callable[[Document], list[Chunk]], str]:
    """Return the documents, what cuts them, and what the cutting depends on."""
    from indexer.chunk import Chunker

    if (path / CURRENT).is_file():
        index = opened.enter_context(open_index(settings, embedder, path))
        return (
            lambda: (index.document(entry.id) for entry in index.documents()),
            lambda document: index.store.chunks_of(document.id),
            "as indexed",
        )
    chunker = Chunker(embedder.tokenizer_file, settings.chunk.tokens, settings.chunk.overlap)
    corpus = path / "corpus.jsonl" if path.is_dir() else path
    if corpus.is_file() and corpus.suffix == ".jsonl":
        from eval.qaset import read_corpus

        return lambda: read_corpus(corpus), chunker.chunk, chunker.fingerprint
    return lambda: load_folder(path, settings.index.ocr), chunker.chunk, chunker.fingerprint


def _weights(settings: Settings, store: ModelStore) -> str:
    """Name the weights without loading them."""
    wanted = settings.generator
    if wanted.endpoint or wanted.model.endswith(".gguf"):
        return f"{wanted.endpoint} {wanted.model}"
    return store.locate(wanted.model).fingerprint


def _license(path: Path) -> str:
    """Questions about documents inherit their licence, where a QA set states one."""
    from eval.qaset_draft import UNKNOWN_LICENSE

    if (path / "meta.json").is_file() and (path / "corpus.jsonl").is_file():
        from eval.qaset import load_meta

        return load_meta(path / "meta.json")["license"]
    return UNKNOWN_LICENSE
