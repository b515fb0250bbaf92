"""`smallhold index`: settings and paths in, a synchronized index and a report out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from rag.build import build_embedder, model_store
from rag.config import Settings
from rag.console import err, out, print_json, stage_progress
from rag.labels import load_rules

if TYPE_CHECKING:
    from indexer.update import SyncReport

LISTED = 20  # problems of one kind shown before the rest is only counted


def sync_folders(
    settings: Settings,
    paths: Sequence[Path],
    *,
    rebuild: bool,
    remove: Sequence[Path],
    allow_empty: bool,
    labels: Path | None = None,
) -> "SyncReport":
    """Bring the settings' index up to date with folders and files, showing progress.

    `labels` is a file of label rules; without one those of the index stay.
    """
    from indexer.chunk import Chunker
    from indexer.load import Loader
    from indexer.sync import sync

    rules = None if labels is None else load_rules(labels)
    embedder = build_embedder(settings, model_store(settings))
    chunker = Chunker(embedder.tokenizer_file, settings.chunk.tokens, settings.chunk.overlap)
    with Loader() as loader, stage_progress() as progress:
        return sync(
            settings.index.dir,
            paths,
            embedder=embedder,
            chunker=chunker,
            loader=loader,
            rebuild=rebuild,
            remove=remove,
            allow_empty=allow_empty,
            labels=rules,
            progress=progress,
        )


def show_report(report: "SyncReport", directory: Path, *, as_json: bool) -> None:
    """Write what a run did: the result to stdout, what could not be read to stderr."""
    if as_json:
        print_json(_plain(report, directory))
        return
    _list("skipped", report.skipped, "yellow")
    _list("could not be read", report.failed, "red")
    for path in report.unused_rules:
        err.print(f"[yellow]label rule without effect:[/] no document has its labels from {escape(repr(path))}")
    counts = {
        "added": report.added,
        "changed": report.changed,
        "removed": report.removed,
        "unchanged": report.unchanged,
    }
    done = ", ".join(f"{len(ids)} {what}" for what, ids in counts.items() if ids) or "nothing to do"
    seconds = sum(report.seconds.values())
    out.print(f"{escape(str(directory))}: {done}; {report.chunks} chunks, {report.embedded} embedded, {seconds:.1f} s")
    if report.failed:
        out.print(f"[red]{len(report.failed)} documents could not be read[/] and are not in the index (listed above)")


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
        "removed": report.removed,
        "unchanged": len(report.unchanged),
        "failed": [{"path": path, "reason": reason} for path, reason in report.failed],
        "skipped": [{"path": path, "reason": reason} for path, reason in report.skipped],
        "unused_rules": report.unused_rules,
        "chunks": report.chunks,
        "embedded": report.embedded,
        "reused": report.reused,
        "seconds": {stage: round(seconds, 3) for stage, seconds in report.seconds.items()},
    }
