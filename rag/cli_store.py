"""`smallhold store`: the index directory itself."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rag.config import load_settings

if TYPE_CHECKING:
    from indexer.repair import Repair
    from indexer.verify import Findings

app = typer.Typer(no_args_is_help=True, help="The index directory: check, mend, shrink, carry away, measure.")

IndexDir = Annotated[Path | None, typer.Option("--index", help="The index directory. (default: .smallhold/index)")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file of settings.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
LISTED = 20  # documents shown before the rest is only counted


@app.command()
def verify(index_dir: IndexDir = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Check every checksum of the index, and that its parts agree. Exit code 1 if something is damaged.

    Example: smallhold store verify --index ~/notes-index
    """
    from dataclasses import asdict

    from indexer.verify import verify as check
    from rag import console

    directory = _directory(index_dir, config)
    findings = check(directory)
    if as_json:
        console.print_json(asdict(findings))
    else:
        _show_findings(directory, findings)
    if findings.problems:
        raise typer.Exit(1)


@app.command()
def repair(
    index_dir: IndexDir = None,
    config: ConfigFile = None,
    labels: Annotated[
        Path | None, typer.Option(help="A TOML file of label rules, where those of the index are lost.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a damaged index whole with what is left of it, and name the documents that must be read again.

    Damaged lists of documents and of terms, clusters and vectors are made anew from the texts. Where texts are damaged
    it goes back to another whole generation, if a killed run has left one; else segments with such are dropped: their
    documents are listed, and the next `smallhold index` reads them. Exit code 1 if there are such.
    """
    from dataclasses import asdict

    from indexer.repair import repair as mend
    from rag import console
    from rag.build import build_embedder, model_store
    from rag.labels import load_rules

    settings = load_settings(config, {"index": {"dir": index_dir}} if index_dir else {})
    directory = settings.index.dir
    with console.stage_progress(quiet=as_json) as progress:
        done = mend(
            directory,
            None if labels is None else load_rules(labels),
            lambda: build_embedder(settings, model_store(settings)),
            progress,
        )
    if as_json:
        console.print_json(asdict(done))
    else:
        _show_repair(directory, done)
    if done.lost or done.unnamed:
        raise typer.Exit(1)


@app.command()
def compact(index_dir: IndexDir = None, config: ConfigFile = None) -> None:
    """Merge all segments into one, without what is deleted: no file of the index holds any of it afterwards.

    Not needed for speed: runs of `smallhold index` merge as they go. Rewrites the whole index; nothing is embedded.
    """
    from indexer.compact import compact as shrink
    from indexer.stats import stats as measure
    from rag import console

    directory = _directory(index_dir, config)
    before = measure(directory)["bytes"]["total"]
    if shrink(directory):
        after = measure(directory)["bytes"]["total"]
        console.out.print(f"{_shown(directory)}: one segment, {_size(after)} instead of {_size(before)}")
    else:
        console.out.print(f"{_shown(directory)}: nothing to do")


@app.command("export")
def export_archive(
    archive: Annotated[Path, typer.Argument(help="The zip file to write.")],
    index_dir: IndexDir = None,
    config: ConfigFile = None,
) -> None:
    """Write the index to one file: documents, chunks and vectors as JSON Lines in a zip archive.

    Example: smallhold store export notes.zip
    """
    from indexer.transfer import export_index
    from rag import console

    counts = export_index(_directory(index_dir, config), archive)
    size = _size(archive.stat().st_size)
    console.out.print(f"{_shown(archive)}: {counts.documents} documents, {counts.chunks} chunks, {size}")


@app.command("import")
def import_archive(
    archive: Annotated[Path, typer.Argument(help="A file that `smallhold store export` has written.")],
    index_dir: IndexDir = None,
    config: ConfigFile = None,
) -> None:
    """Make a new index of an exported one, without embedding anything.

    Example: smallhold store import notes.zip --index ~/notes-index
    """
    from indexer.transfer import import_index
    from rag import console

    directory = _directory(index_dir, config)
    counts = import_index(archive, directory)
    console.out.print(f"{_shown(directory)}: {counts.documents} documents, {counts.chunks} chunks")


@app.command()
def stats(
    index_dir: IndexDir = None,
    config: ConfigFile = None,
    recall: Annotated[
        bool, typer.Option("--recall", help="Measure what the search for the nearest vectors misses, and its time.")
    ] = False,
    questions: Annotated[
        Path | None, typer.Option(help="A text file, a question a line, to measure --recall by as well.")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, max=10_000, help="Stored vectors to make queries of.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Which vectors are drawn.")] = 1,
    as_json: Json = False,
) -> None:
    """Show documents, chunks, segments, what is deleted but not gone yet, bytes by part, and what could not be read.

    Large segments are searched by clusters, which may miss something: --recall compares with an exact search.

    Example: smallhold store stats --recall --questions questions.txt
    """
    from indexer.stats import stats as measure
    from rag import console
    from rag.cli_recall import measure_recall, show_recall

    found = measure(_directory(index_dir, config))
    if recall or questions is not None:
        settings = load_settings(config, {"index": {"dir": index_dir}} if index_dir else {})
        found["recall"] = measure_recall(settings, sample, seed, questions)
    if as_json:
        console.print_json(found)
    else:
        _show_stats(found)
        show_recall(found.get("recall", []))


@app.command()
def tune(
    data: Annotated[
        list[Path] | None,
        typer.Option(help="A QA-set folder of questions whose `relevant` names documents of this index; repeatable."),
    ] = None,
    index_dir: IndexDir = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first N questions of each set.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure, and write nothing.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Go back to the default.")] = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Fit to your own questions how much meaning weighs against words when this index is searched.

    Compares dense weights by nDCG@10. The best is kept with the index, in fusion.toml, where it gains more than chance
    on questions that did not choose it; `ask`, `chat`, `serve` and `calibrate --index` use it unless
    retrieval.dense_weight is set. No language model is asked. A promise that was calibrated with another weight is
    none any more: calibrate anew.

    Example: smallhold store tune --data my-questions --index ~/notes-index
    """
    from rag import console
    from rag.cli_fusion import reset_fusion, show_fusion, tune_fusion
    from rag.errors import InvalidRequest

    settings = load_settings(config, {"index": {"dir": index_dir}} if index_dir else {})
    if reset and (data or dry_run):
        raise InvalidRequest("--reset goes with neither --data nor --dry-run")
    if reset:
        had = reset_fusion(settings)
        console.out.print(f"{_shown(settings.index.dir)}: {'the default is back' if had else 'nothing was tuned'}")
        return
    found, taken = tune_fusion(settings, data or [], limit=limit, dry_run=dry_run)
    show_fusion(found, taken, settings.index.dir, as_json=as_json)


def _directory(index_dir: Path | None, config: Path | None) -> Path:
    return load_settings(config, {"index": {"dir": index_dir}} if index_dir else {}).index.dir


def _show_findings(directory: Path, findings: "Findings") -> None:
    from rich.markup import escape

    from rag import console

    for problem in findings.problems:
        console.err.print(f"[red]damaged:[/] {escape(problem)}")
    for leftover in findings.leftovers:
        console.err.print(f"[dim]left by a killed run, removed by the next:[/] {escape(leftover)}")
    if findings.problems:
        console.err.print("Mend it with `smallhold store repair`.")
    else:
        console.out.print(f"{_shown(directory)}: generation {findings.generation} is whole")


def _show_repair(directory: Path, done: "Repair") -> None:
    from rich.markup import escape

    from rag import console

    said = {
        "nothing": "is whole" if done.mended else "is whole; nothing was to be done",
        "went back": "was whole and is the current one again",
        "rebuilt": "was made of what is whole",
    }
    console.out.print(f"{_shown(directory)}: generation {done.generation} {said[done.done]}")
    for name in done.mended:
        what = f"segment {name}" if name.isdecimal() else name
        console.out.print(f"{what}: what was damaged was made anew; nothing is lost")
    for name in done.dropped:
        console.out.print(f"[red]segment {name} was damaged and dropped[/]")
    for document_id in done.lost[:LISTED]:
        console.out.print(f"must be read again: {escape(document_id)}")
    if len(done.lost) > LISTED:
        console.out.print(f"must be read again: {len(done.lost) - LISTED} more; --json lists them all")
    if done.unnamed:
        console.out.print(f"must be read again: {done.unnamed} documents whose names are lost too")
    if done.lost or done.unnamed:
        console.err.print("`smallhold index` without paths reads them again, from the folders that were indexed.")


def _show_stats(found: dict[str, Any]) -> None:
    from rich.table import Table

    from rag import console

    deleted = found["deleted_documents"]
    console.out.print(f"{_shown(found['index'])}: generation {found['generation']} of {found['created']}")
    console.out.print(f"{found['documents']:,} documents, {found['chunks']:,} chunks, {_size(found['bytes']['total'])}")
    if deleted:
        console.out.print(f"{deleted:,} deleted documents are in its files still; `smallhold store compact` ends that")
    parts = [part for part in found["bytes"] if part not in {"manifest", "total"}]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("segment", "documents", "chunks", "deleted", *parts):
        table.add_column(column, justify="right")
    for segment in found["segments"]:
        numbers = (segment["documents"], segment["chunks"], segment["deleted_documents"])
        sizes = (_size(segment["bytes"][part]) for part in parts)
        table.add_row(segment["name"], *(f"{n:,}" for n in numbers), *sizes)
    console.out.print(table)
    for letter in found["unread"][:LISTED]:
        console.out.print(f"[red]could not be read:[/] {_shown(letter['name'])}: {_shown(letter['reason'])}")
    if len(found["unread"]) > LISTED:
        console.out.print(f"[red]could not be read:[/] {len(found['unread']) - LISTED} more; --json lists them all")
    if found["unread"]:
        console.out.print("They are tried again when they have changed, or with `smallhold index --retry`.")


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _shown(path: object) -> str:
    from rich.markup import escape

    return escape(str(path))
