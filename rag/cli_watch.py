"""`smallhold index --watch`: runs over an index as its folders change, a line for each that did something."""

import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from rag.cli_index import IndexRuns, plain, show_problems, summary
from rag.console import err, out, print_error
from rag.errors import IndexLocked, InvalidRequest, SmallholdError
from rag.manifest import read_patterns, read_roots

if TYPE_CHECKING:
    from indexer.update import SyncReport

_LOCKED_SECONDS = 1.0


def watch_folders(
    runs: IndexRuns,
    paths: Sequence[Path],
    lists: Sequence[Path],
    *,
    debounce: float,
    poll: bool,
    as_json: bool,
    stop: Any = None,
    **options: Any,
) -> None:
    """Bring the index up to date, then again whenever its folders or lists change, until Ctrl-C or `stop.is_set()`.

    The `options` are those of `IndexRuns.run`. Raises what the first run raises, but waits for another writer.
    """
    from indexer.load import SUFFIXES
    from indexer.watch import Rules, Watch

    first = _unlocked(lambda: runs.run(paths, lists=lists, **options))
    _show(first, runs.directory, as_json)
    roots = _watched(runs.directory, paths, lists)
    pages = [path.resolve() for path in lists]
    # What the first run was given to do once is done; what it set, such as patterns, is in the index.
    again = {"allow_empty": options.get("allow_empty", False)}

    def update(root: Path) -> None:
        given: dict[str, Any] = {"paths": [], "lists": [root]} if root in pages else {"paths": [root]}
        report = runs.run(**given, quiet=True, **again)
        if as_json or report.published or len(report.failed) > report.untried:
            _show(report, runs.directory, as_json)

    def tell(message: str, error: SmallholdError | None) -> None:
        if error is not None:
            print_error(error)
        else:
            err.print(f"[yellow]{_now()}[/] {escape(message)}")

    err.print(f"[dim]watching {escape(', '.join(map(str, roots)))}; Ctrl-C ends it[/]")
    Watch(
        roots,
        update,
        lambda: Rules(SUFFIXES, runs.directory.resolve(), read_patterns(runs.directory)),
        tell,
        debounce=debounce,
        accept_empty=bool(again["allow_empty"]),
        poll=poll,
        settled=pages,
    ).run(stop)


def _unlocked(run: Callable[[], "SyncReport"]) -> "SyncReport":
    said = False
    while True:
        try:
            return run()
        except IndexLocked as error:
            if not said:
                err.print(f"[yellow]{_now()}[/] waiting: {escape(error.message)}")
            said = True
            time.sleep(_LOCKED_SECONDS)


def _watched(directory: Path, paths: Sequence[Path], lists: Sequence[Path]) -> list[Path]:
    """The known roots that were brought up to date: those around the paths that were given, else all."""
    from indexer.scan import is_path

    known = [Path(root) for root in read_roots(directory) if is_path(root)]
    given = [path.resolve() for path in paths]
    roots = [root for root in known if any(path.is_relative_to(root) for path in given)]
    if not paths and not lists:
        roots = known
    if not roots and not lists:
        raise InvalidRequest("there is no folder to watch", hint="Name one: smallhold index FOLDER --watch")
    return [*roots, *(path.resolve() for path in lists)]


def _show(report: "SyncReport", directory: Path, as_json: bool) -> None:
    """Write a report: an object a line for programs, else a line with the time, and what could not be read."""
    if as_json:
        line = {"time": datetime.now().astimezone().isoformat(timespec="seconds"), **plain(report, directory)}
        sys.stdout.write(dumps(line, ensure_ascii=False) + "\n")
        sys.stdout.flush()
        return
    show_problems(report)
    failed = f"; [red]{len(report.failed)} could not be read[/]" if report.failed else ""
    out.print(f"{_now()} {escape(str(directory))}: {summary(report)}{failed}")


def _now() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S")
