"""`smallhold index`: settings and paths in, a synchronized index and a report out."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from rag.build import build_embedder, model_store
from rag.config import Settings
from rag.console import err, out, print_json, stage_progress
from rag.labels import load_rules
from rag.tesseract import Tesseract

if TYPE_CHECKING:
    from indexer.update import SyncReport

LISTED = 20  # problems of one kind shown before the rest is only counted


class IndexRuns:
    """Runs over the settings' index, which share the embedder: loading it takes longer than most runs.

    `fetching` is whether the settings let pages be fetched. `labels` is a file of label rules, read once; without one
    those of the index stay.
    Raises `Unavailable` where the settings ask for OCR, and Tesseract or its data for a language is missing.
    """

    def __init__(self, settings: Settings, labels: Path | None = None) -> None:
        from indexer.chunk import Chunker

        self.directory = settings.index.dir
        self._urls = settings.index.urls
        self._ocr = Tesseract.find(settings.index.ocr) if settings.index.ocr else None
        self.fetching = self._urls != "never"
        self._rules = None if labels is None else load_rules(labels)
        self._embedder = build_embedder(settings, model_store(settings))
        self._chunker = Chunker(self._embedder.tokenizer_file, settings.chunk.tokens, settings.chunk.overlap)

    @property
    def suffixes(self) -> frozenset[str]:
        """The suffixes of files that these runs read."""
        from indexer.load import Loader

        return Loader(ocr=self._ocr).suffixes

    def run(
        self,
        paths: Sequence[Path],
        *,
        stream: str | None = None,
        lists: Sequence[Path] = (),
        quiet: bool = False,
        **options: Any,
    ) -> "SyncReport":
        """Bring the index up to date with folders and files, showing progress unless `quiet`.

        With the name of a `stream`, documents are read from standard input first. `lists` are files of URLs, which are
        fetched where the settings allow it. The `options` are `indexer.sync.sync`'s.
        """
        from indexer.fetch import Fetcher
        from indexer.load import Loader
        from indexer.stream import Stream
        from indexer.sync import sync

        fetcher = Fetcher(private=self._urls == "private") if self.fetching else None
        with Loader(ocr=self._ocr) as loader, ExitStack() as opened:
            lines = None if stream is None else opened.enter_context(Stream.read(sys.stdin.buffer, stream))
            progress = opened.enter_context(stage_progress(quiet=quiet))
            return sync(
                self.directory,
                paths,
                stream=lines,
                lists=lists,
                fetcher=fetcher,
                embedder=self._embedder,
                chunker=self._chunker,
                loader=loader,
                labels=self._rules,
                progress=progress,
                **options,
            )


def show_report(report: "SyncReport", directory: Path, *, as_json: bool, dry_run: bool = False) -> None:
    """Write what a run did, or would do: the result to stdout, what could not be read to stderr."""
    if as_json:
        print_json({"dry_run": dry_run, **plain(report, directory)})
        return
    show_problems(report)
    show_unused_rules(report)
    if dry_run:
        _show_names(report)
    seconds = sum(report.seconds.values())
    if dry_run:
        out.print(f"{escape(str(directory))}: would be {_done(report)}; nothing was written, {seconds:.1f} s")
    else:
        out.print(f"{escape(str(directory))}: {summary(report)}")
    if report.failed:
        again = f"; {report.untried} have not changed since and were not tried again" if report.untried else ""
        out.print(f"[red]{len(report.failed)} documents could not be read[/]{_what_is_left(report)}{again}")


def _what_is_left(report: "SyncReport") -> str:
    """Say of what could not be read what the index holds of it."""
    if report.kept == len(report.failed):
        return "; the index keeps what it had of them"
    kept = f"; of {report.kept} the index keeps what it had, the others" if report.kept else " and"
    return f"{kept} are not in the index"


def summary(report: "SyncReport") -> str:
    """Return on one line what a run did."""
    seconds = sum(report.seconds.values())
    return f"{_done(report)}; {report.chunks} chunks, {report.embedded} embedded, {seconds:.1f} s"


def _done(report: "SyncReport") -> str:
    counts = {
        "added": len(report.added),
        "changed": len(report.changed),
        "renamed": len(report.renamed),
        "removed": len(report.removed),
        "unchanged": len(report.unchanged),
        "left out by patterns": len(report.excluded),
    }
    return ", ".join(f"{number} {what}" for what, number in counts.items() if number) or "nothing to do"


def _show_names(report: "SyncReport") -> None:
    """Write which documents a dry run is about."""
    names = {
        "add": report.added,
        "change": report.changed,
        "rename": [f"{old} -> {new}" for old, new in report.renamed],
        "remove": report.removed,
        "leave out": report.excluded,
    }
    for what, found in names.items():
        for name in found[:LISTED]:
            out.print(f"{what}: {escape(name)}")
        if len(found) > LISTED:
            out.print(f"{what}: {len(found) - LISTED} more; --json lists them all")


def show_problems(report: "SyncReport") -> None:
    """Write to stderr what was skipped, what of a file was left out, and what could not be read."""
    _list("skipped", report.skipped, "yellow")
    _list("warning", report.warnings, "yellow")
    _list("could not be read", report.failed, "red")


def show_unused_rules(report: "SyncReport") -> None:
    """Write to stderr which label rules decide on no document: often a slip, which leaves something open."""
    for path in report.unused_rules:
        err.print(f"[yellow]label rule without effect:[/] no document has its labels from {escape(repr(path))}")


def _list(what: str, problems: Sequence[tuple[str, str]], colour: str) -> None:
    for name, reason in problems[:LISTED]:
        err.print(f"[{colour}]{what}:[/] {escape(name)}: {escape(reason)}")
    if len(problems) > LISTED:
        err.print(f"[{colour}]{what}:[/] {len(problems) - LISTED} more; --json lists them all")


def plain(report: "SyncReport", directory: Path) -> dict[str, object]:
    """Return a report as plain values for JSON."""
    return {
        "index": str(directory),
        "generation": report.generation,
        "published": report.published,
        "added": report.added,
        "changed": report.changed,
        "renamed": [{"from": old, "to": new} for old, new in report.renamed],
        "removed": report.removed,
        "unchanged": len(report.unchanged),
        "excluded": report.excluded,
        "failed": [{"path": path, "reason": reason} for path, reason in report.failed],
        "untried": report.untried,
        "passing": report.passing,
        "kept": report.kept,
        "skipped": [{"path": path, "reason": reason} for path, reason in report.skipped],
        "warnings": [{"path": path, "reason": reason} for path, reason in report.warnings],
        "unused_rules": report.unused_rules,
        "chunks": report.chunks,
        "embedded": report.embedded,
        "reused": report.reused,
        "seconds": {stage: round(seconds, 3) for stage, seconds in report.seconds.items()},
    }
