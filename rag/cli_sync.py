"""`smallhold index`: what is given on the command line, to a run over an index."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rag.config import Settings, load_settings
from rag.errors import ConfigError

if TYPE_CHECKING:
    from rag.manifest import Patterns

IndexDir = Annotated[Path | None, typer.Option("--index", help="The index directory. (default: .smallhold/index)")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file of settings.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
STDIN = Path("-")


class Fetching(StrEnum):
    """Where pages may be fetched from."""

    public = "public"
    private = "private"


def index(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders and files; - for documents on standard input. None: those that the index has already."
        ),
    ] = None,
    index_dir: IndexDir = None,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", help="Index only what matches, as in .gitignore: '*.md', '/reports/'. Repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", help="Leave out what matches: 'drafts/', '*.log'. Repeatable.")
    ] = None,
    gitignore: Annotated[bool, typer.Option("--gitignore", help="Leave out what .gitignore files do.")] = False,
    no_patterns: Annotated[bool, typer.Option("--no-patterns", help="Take the patterns of the folders back.")] = False,
    source: Annotated[
        str | None, typer.Option("--source", help="Name of what comes on standard input. (default: stdin)")
    ] = None,
    urls: Annotated[
        list[Path] | None,
        typer.Option("--urls", help="A file of URLs of pages to index, one a line; needs --allow-urls. Repeatable."),
    ] = None,
    allow_urls: Annotated[
        Fetching | None,
        typer.Option(
            "--allow-urls", help="Fetch pages from public addresses, or from private networks and this machine too."
        ),
    ] = None,
    ocr: Annotated[
        str | None,
        typer.Option(
            "--ocr", help="Read scanned PDF pages and pictures too, with Tesseract, in its languages: eng, or eng+deu."
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on, and update the index as its folders change.")] = False,
    debounce: Annotated[
        float, typer.Option("--debounce", min=0.1, max=3600, help="Seconds that --watch waits for changes to end.")
    ] = 30.0,
    poll: Annotated[
        bool, typer.Option("--poll", help="Watch by looking at all files: for network and other disks without events.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try again what could not be read, changed or not.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Read and embed everything anew.")] = False,
    remove: Annotated[
        list[str] | None,
        typer.Option("--remove", help="Drop a folder that was indexed, a list of URLs, or stream:NAME."),
    ] = None,
    allow_empty: Annotated[bool, typer.Option("--allow-empty", help="Accept a folder that has become empty.")] = False,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="A TOML file of rules for which keys may see which documents; kept."),
    ] = None,
    chunk_tokens: Annotated[int | None, typer.Option("--chunk-tokens", help="Token budget of a chunk.")] = None,
    overlap: Annotated[int | None, typer.Option("--overlap", help="Tokens that neighbouring chunks share.")] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Build or update the index of a folder of documents.

    Reads text, Markdown, RST, HTML, PDF, DOCX, PPTX, XLSX, CSV, JSON, EPUB, notebooks, mail, source code, and archives
    (zip, tar) of these. Only what is new or changed is embedded; what is gone from the folder is removed. Documents
    that cannot be read are listed with the reason, the rest goes on, and the exit code is 1; they are tried again when
    they have changed, or with --retry, and `smallhold store stats` lists them.
    Interrupt it whenever you like: the old index stays whole, and the next run goes on where this one stopped.

    With --include and --exclude, patterns say what of a folder is indexed. They count for the folders that are brought
    up to date in the same run, relative to each, and stay with them until others are given, which replace them all;
    --no-patterns takes them back. A file .smallholdignore in any folder leaves out what it names below (docs/sync.md).

    With -, documents come on standard input as JSON Lines, {"id": ..., "text": ...} and more (docs/sync.md). They take
    the place of those that the same --source had before; what folders have is untouched.

    With --urls, the pages of a list are fetched, with --allow-urls public those of public addresses, and none without
    it or the setting index.urls. A page that cannot be had is listed and stays in the index as it was; what is taken
    off the list is removed.

    With --ocr, pages of PDFs that are pictures, and PNG, JPEG and TIFF files, are read by the program Tesseract, which
    must be installed with its data for these languages. What was recognised stays in later runs without it
    (docs/formats.md).

    With --watch, it goes on until Ctrl-C and brings a folder up to date once changes in it have ended, for a second or
    after --debounce seconds at the latest. A folder that is missing, from the beginning or later, or has become empty
    is named and waited for, and its documents stay, as at a boot before its disk is mounted. Another process that
    writes the index is waited for too.

    With --labels, rules give documents access labels, which the server's keys are held to (docs/filters.md). They stay
    in force until other rules are given; an empty file takes them back.

    Example: smallhold index ~/notes ~/papers --index ~/.local/share/notes-index

    Example: smallhold index ~/notes --exclude drafts/ --exclude '*.log' --dry-run

    Example: tickets-export | smallhold index - --source tickets

    Example: smallhold index --urls pages.txt --allow-urls public

    Example: smallhold index ~/scans --ocr eng

    Example: smallhold index ~/notes --watch
    """
    from rag.cli_index import IndexRuns, show_report

    lists = urls or []
    settings = _settings(config, index_dir, chunk_tokens, overlap, allow_urls, ocr)
    if lists and settings.index.urls == "never":
        raise ConfigError(
            "fetching pages from the network is not allowed",
            hint="Allow it with --allow-urls public, or for good with the setting index.urls.",
        )
    patterns = _patterns(include or (), exclude or (), gitignore, no_patterns)
    folders, stream = _stream(paths or [], source, patterns)
    if watch and (stream is not None or dry_run):
        raise ConfigError("--watch is for folders and lists of URLs", hint="It goes without - and without --dry-run.")
    runs = IndexRuns(settings, labels)
    options: dict[str, Any] = {
        "rebuild": rebuild,
        "remove": remove or [],
        "allow_empty": allow_empty,
        "patterns": patterns,
        "retry": retry,
    }
    if watch:
        from rag.cli_watch import watch_folders

        watch_folders(runs, folders, lists, debounce=debounce, poll=poll, as_json=as_json, **options)
        return
    report = runs.run(folders, stream=stream, lists=lists, dry_run=dry_run, **options)
    show_report(report, settings.index.dir, as_json=as_json, dry_run=dry_run)
    if report.failed:
        raise typer.Exit(1)


def _stream(paths: Sequence[Path], source: str | None, patterns: "Patterns | None") -> tuple[list[Path], str | None]:
    """Return the folders, and the name of the stream on standard input, None where there is none."""
    folders = [path for path in paths if path != STDIN]
    if len(folders) == len(paths):
        if source is not None:
            raise ConfigError("--source names what comes on standard input", hint="Add - to the paths.")
        return folders, None
    if patterns and not folders:
        raise ConfigError("patterns are for folders, not for documents on standard input")
    return folders, source or "stdin"


def _patterns(include: Sequence[str], exclude: Sequence[str], gitignore: bool, no_patterns: bool) -> "Patterns | None":
    """Return the patterns that were given, None where the folders keep theirs. Raises `ConfigError`."""
    from rag.manifest import MOST_PATTERNS, Patterns

    given = bool(include or exclude or gitignore)
    if given and no_patterns:
        raise ConfigError("--no-patterns goes without --include, --exclude and --gitignore")
    if max(len(include), len(exclude)) > MOST_PATTERNS:
        raise ConfigError(f"more than {MOST_PATTERNS} patterns", hint="Write them into a file .smallholdignore.")
    if not given and not no_patterns:
        return None
    return Patterns(include=tuple(include), exclude=tuple(exclude), gitignore=gitignore)


def _settings(
    config: Path | None,
    index_dir: Path | None,
    tokens: int | None,
    overlap: int | None,
    urls: Fetching | None,
    ocr: str | None,
) -> Settings:
    flags: dict[str, Any] = {
        "chunk": {"tokens": tokens, "overlap": overlap},
        "index": {"dir": index_dir, "urls": urls and urls.value, "ocr": ocr},
    }
    given = {name: {k: v for k, v in values.items() if v is not None} for name, values in flags.items()}
    return load_settings(config, {name: values for name, values in given.items() if values})
