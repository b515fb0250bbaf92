"""`smallhold index --watch`: runs over an index as its folders change, a line for each that did something."""

import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from rag.cli_index import IndexRuns, plain, show_problems, show_unused_rules, summary
from rag.console import err, json_text, out, print_error
from rag.errors import IndexLocked, InvalidRequest, SmallholdError, SourceEmptied
from rag.manifest import published_stamp, read_patterns, read_roots

if TYPE_CHECKING:
    from indexer.update import SyncReport
    from indexer.watch import Rules

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

    Of the folders and lists, those that are not there are told and waited for. The `options` are those of
    `IndexRuns.run`. Raises what the first run raises, but waits for another writer, and for documents where there were
    some and are none.
    """
    from indexer.scan import resolved
    from indexer.watch import Watch

    def tell(message: str, error: SmallholdError | None = None) -> None:
        if error is not None:
            print_error(error)
        else:
            err.print(f"[yellow]{_now()}[/] {escape(message)}")

    if not (paths or lists or options.get("remove")):
        paths, lists = _known(runs)
    pages = [resolved(path) for path in lists]
    allow_empty = bool(options.get("allow_empty"))
    away = _away([resolved(path) for path in paths] + pages, runs.directory, allow_empty)
    for reason in away.values():
        tell(reason)
    done = _first_run(runs, paths, pages, away, options, as_json)
    places = _places(runs.directory, paths, pages)
    roots = list(dict.fromkeys(places.values()))
    # What the first run was given to do once is done; what it set, such as patterns, is in the index.
    once = {name: options[name] for name in ("patterns", "retry") if name in options}
    begun = {root for path, root in places.items() if done and path not in away}

    def update(root: Path) -> bool:
        given: dict[str, Any] = {"paths": [], "lists": [root]} if root in pages else {"paths": [root]}
        first = {} if root in begun else once
        report = runs.run(**given, quiet=True, allow_empty=allow_empty, **first)
        begun.add(root)
        if as_json or report.published or len(report.failed) > report.untried:
            _show(report, runs.directory, as_json)
        return report.passing > 0

    err.print(f"[dim]watching {escape(', '.join(map(str, roots)))}; Ctrl-C ends it[/]")
    Watch(
        roots,
        update,
        _rules(runs),
        tell,
        debounce=debounce,
        accept_empty=allow_empty,
        poll=poll,
        settled=begun.intersection(pages),
        told=away,
    ).run(stop)


def _rules(runs: IndexRuns) -> Callable[[], "Rules"]:
    """Return what says which changes count by now: pictures too, where the index holds some that nothing reads now."""
    from indexer.stored import held_pictures
    from indexer.watch import Rules

    @lru_cache(maxsize=1)
    def pictures(stamp: tuple[int, int, int] | None) -> frozenset[str]:
        del stamp
        return held_pictures(runs.directory)

    def rules() -> Rules:
        suffixes = runs.suffixes | pictures(published_stamp(runs.directory))
        return Rules(suffixes, runs.directory.resolve(), read_patterns(runs.directory))

    return rules


def _known(runs: IndexRuns) -> tuple[list[Path], list[Path]]:
    """The folders and files that the index knows, and, where pages may be fetched, its lists of URLs."""
    from indexer.scan import URLS, is_path

    known = read_roots(runs.directory)
    lists = [Path(root.removeprefix(URLS)) for root in known if root.startswith(URLS)]
    return [Path(root) for root in known if is_path(root)], lists if runs.fetching else []


def _away(wanted: Sequence[Path], directory: Path, allow_empty: bool) -> dict[Path, str]:
    """Which folders and lists are waited for, and why: missing ones, and empty ones that the index knows."""
    from indexer.watch import absence

    known = read_roots(directory)
    reasons = {root: absence(root, accept_empty=allow_empty or str(root) not in known) for root in wanted}
    return {root: reason for root, reason in reasons.items() if reason}


def _first_run(
    runs: IndexRuns,
    paths: Sequence[Path],
    pages: Sequence[Path],
    away: Collection[Path],
    options: Mapping[str, Any],
    as_json: bool,
) -> bool:
    """Bring up to date what is there, if anything is; whether that was done. What was not, the watch does and tells."""
    from indexer.scan import resolved
    from indexer.watch import absence

    there = [path for path in paths if resolved(path) not in away]
    lists = [path for path in pages if path not in away]
    anyway = bool(options.get("remove") or options.get("rebuild"))
    if away and not (there or lists or anyway):
        return False
    try:
        report = _unlocked(lambda: runs.run(there, lists=lists, **options))
    except InvalidRequest as error:
        gone = isinstance(error, SourceEmptied) or any(absence(path, accept_empty=True) for path in [*there, *lists])
        if anyway or not gone:
            raise
        return False
    _show(report, runs.directory, as_json)
    if not as_json:
        show_unused_rules(report)  # once: they are the same in every run
    return True


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


def _places(directory: Path, paths: Sequence[Path], pages: Sequence[Path]) -> dict[Path, Path]:
    """By what was given what is watched for it: the root around it, or itself. Where nothing was given, all roots."""
    from indexer.scan import is_path, resolved

    known = [Path(root) for root in read_roots(directory) if is_path(root)]
    places = {path: _place(path, known) for path in map(resolved, paths)}
    if not paths and not pages:
        places = {root: root for root in known}
    if not places and not pages:
        raise InvalidRequest("there is no folder to watch", hint="Name one: smallhold index FOLDER --watch")
    return places | {path: path for path in pages}


def _place(path: Path, known: Sequence[Path]) -> Path:
    from indexer.watch import absence

    root = next((root for root in known if path.is_relative_to(root)), path)
    # A part that is missing of a folder that is there is waited for by itself: a run would take it for deleted.
    return path if absence(path) and not absence(root) else root


def _show(report: "SyncReport", directory: Path, as_json: bool) -> None:
    """Write a report: an object a line for programs, else a line with the time, and what could not be read."""
    if as_json:
        line = {"time": datetime.now().astimezone().isoformat(timespec="seconds"), **plain(report, directory)}
        sys.stdout.write(json_text(line) + "\n")
        sys.stdout.flush()
        return
    show_problems(report)
    failed = f"; [red]{len(report.failed)} could not be read[/]" if report.failed else ""
    out.print(f"{_now()} {escape(str(directory))}: {summary(report)}{failed}")


def _now() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S")
