"""`smallhold index`: settings and paths in, a synchronized index and a report out."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from rag.build import build_embedder, model_store
from rag.config import Settings
from rag.console import err, out, print_json, stage_progress
from rag.labels import load_rules
from rag.manifest import Patterns

if TYPE_CHECKING:
    from indexer.update import SyncReport

LISTED = 20  # problems of one kind shown before the rest is only counted


def sync_folders(
    settings: Settings,
    paths: Sequence[Path],
    *,
    stream: str | None = None,
    rebuild: bool = False,
    remove: Sequence[Path | str] = (),
    allow_empty: bool = False,
    labels: Path | None = None,
    patterns: Patterns | None = None,
    retry: bool = False,
    dry_run: bool = False,
) -> "SyncReport":
    """Bring the settings' index up to date with folders and files, showing progress.

    With the name of a `stream`, documents are read from standard input first. `labels` is a file of label rules;
    without one those of the index stay. The rest is `indexer.sync.sync`'s.
    """
    from indexer.chunk import Chunker
    from indexer.load import Loader
    from indexer.stream import Stream
    from indexer.sync import sync

    rules = None if labels is None else load_rules(labels)
    embedder = build_embedder(settings, model_store(settings))
    chunker = Chunker(embedder.tokenizer_file, settings.chunk.tokens, settings.chunk.overlap)
    with Loader() as loader, ExitStack() as opened:
        lines = None if stream is None else opened.enter_context(Stream.read(sys.stdin.buffer, stream))
        progress = opened.enter_context(stage_progress())
        return sync(
            settings.index.dir,
            paths,
            stream=lines,
            embedder=embedder,
            chunker=chunker,
            loader=loader,
            rebuild=rebuild,
            remove=remove,
            allow_empty=allow_empty,
            labels=rules,
            patterns=patterns,
            retry=retry,
            dry_run=dry_run,
            progress=progress,
        )


def show_report(report: "SyncReport", directory: Path, *, as_json: bool, dry_run: bool = False) -> None:
    """Write what a run did, or would do: the result to stdout, what could not be read to stderr."""
    if as_json:
        print_json({"dry_run": dry_run, **_plain(report, directory)})
        return
    _list("skipped", report.skipped, "yellow")
    _list("could not be read", report.failed, "red")
    for path in report.unused_rules:
        err.print(f"[yellow]label rule without effect:[/] no document has its labels from {escape(repr(path))}")
    if dry_run:
        _show_names(report)
    counts = {
        "added": len(report.added),
        "changed": len(report.changed),
        "renamed": len(report.renamed),
        "removed": len(report.removed),
        "unchanged": len(report.unchanged),
        "left out by patterns": len(report.excluded),
    }
    done = ", ".join(f"{number} {what}" for what, number in counts.items() if number) or "nothing to do"
    seconds = sum(report.seconds.values())
    if dry_run:
        out.print(f"{escape(str(directory))}: would be {done}; nothing was written, {seconds:.1f} s")
    else:
        work = f"{report.chunks} chunks, {report.embedded} embedded, {seconds:.1f} s"
        out.print(f"{escape(str(directory))}: {done}; {work}")
    if report.failed:
        again = f"; {report.untried} have not changed since and were not tried again" if report.untried else ""
        out.print(f"[red]{len(report.failed)} documents could not be read[/] and are not in the index{again}")


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


def _list(what: str, problems: Sequence[tuple[str, str]], colour: str) -> None:
    for name, reason in problems[:LISTED]:
        err.print(f"[{colour}]{what}:[/] {escape(name)}: {escape(reason)}")
    if len(problems) > LISTED:
        err.print(f"[{colour}]{what}:[/] {len(problems) - LISTED} more; --json lists them all")


def _plain(report: "SyncReport", directory: Path) -> dict[str, object]:
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
        "skipped": [{"path": path, "reason": reason} for path, reason in report.skipped],
        "unused_rules": report.unused_rules,
        "chunks": report.chunks,
        "embedded": report.embedded,
        "reused": report.reused,
        "seconds": {stage: round(seconds, 3) for stage, seconds in report.seconds.items()},
    }
