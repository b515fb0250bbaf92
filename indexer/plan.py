"""What a run is about, from what it was given and what the index knows: roots, their patterns, lists of URLs."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from indexer.scan import URLS, RootPlan, is_path, names_of_root, plan_patterns, plan_roots, resolved
from indexer.stream import Stream
from indexer.urls import UrlList
from rag.errors import InvalidRequest
from rag.index import Generation
from rag.manifest import Patterns, read_patterns, read_roots

OTHER_DIR = "Name another folder for the index with --index."


@dataclass(frozen=True, slots=True)
class Given:
    """What a run was given, as `indexer.sync.sync` says. `fetching` is whether it may fetch pages."""

    index_dir: Path
    roots: Sequence[Path]
    remove: Sequence[Path | str]
    stream: Stream | None
    lists: Sequence[Path]
    patterns: Patterns | None
    rebuild: bool
    dry_run: bool
    fetching: bool

    @property
    def everything(self) -> bool:
        """Whether it is about all that the index knows."""
        return not (self.roots or self.remove or self.stream or self.lists)

    def has_lists(self) -> bool:
        """Whether there are pages to fetch, as can be told without opening the index."""
        known = (self.everything or self.rebuild) and any(map(_is_list, read_roots(self.index_dir)))
        return self.fetching and (bool(self.lists) or known)


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The roots of a run, the lists of URLs among them, and of each document in the index the root, by id."""

    roots: RootPlan
    lists: list[UrlList]
    before: dict[str, str]

    @property
    def kept(self) -> dict[str, str]:
        """The documents that stay as they are: those of roots that the run does not look through."""
        roots = self.roots
        return {id_: root for id_, root in self.before.items() if root in roots.labels and root not in roots.sync}

    @property
    def untouched(self) -> list[str]:
        """The roots that the run does not look through."""
        return [root for root in self.roots.labels if root not in self.roots.sync]


def plan_run(given: Given, old: Generation | None, fetched: Collection[str] | None = None) -> RunPlan:
    """Decide what a run over this generation does; of lists that were not given only those `fetched`, None for all.

    Reads the lists. Raises `InvalidRequest` for a root that does not exist or lies in the index directory, for a list
    that cannot be read, and for an index of records.
    """
    index_dir = given.index_dir
    if old and old.manifest.counts.documents and not old.manifest.roots:
        raise InvalidRequest(f"the index in {index_dir} was built from records, not from files", hint=OTHER_DIR)
    known = old.manifest.roots if old else read_roots(index_dir) if given.rebuild else {}
    patterns = old.manifest.patterns if old else read_patterns(index_dir) if given.rebuild else {}
    before = {entry.id: entry.original.root for _, _, entry in old.entries()} if old else {}
    lists = _url_lists(given, known, fetched)
    roots = given.roots
    if given.everything and lists:
        roots = [Path(root) for root in known if is_path(root)]
    for root in roots:
        if resolved(root).is_relative_to(resolved(index_dir)):
            raise InvalidRequest(f"{root} lies in the index directory {index_dir}", hint=OTHER_DIR)
    others = {listed.root: "" for listed in lists}
    others |= {given.stream.root: given.stream.label} if given.stream else {}
    taken = {document_id.partition("/")[0] for document_id in before}
    plan = plan_roots(known, roots, given.remove, taken, others)
    plan = plan_patterns(plan, patterns, given.patterns, given.remove)
    return RunPlan(_with_all_paths(plan) if given.rebuild else plan, lists, before)


def _is_list(root: str) -> bool:
    return root.startswith(URLS)


def _url_lists(given: Given, known: Iterable[str], fetched: Collection[str] | None) -> list[UrlList]:
    """Read the lists that were given, and the known ones that the run is about too."""
    removed = {name for path in given.remove for name in names_of_root(path)}
    wanted = sorted(filter(_is_list, known)) if given.fetching and (given.everything or given.rebuild) else []
    found = [root for root in wanted if root not in removed and (fetched is None or root in fetched)]
    paths = [*given.lists, *(Path(root.removeprefix(URLS)) for root in found)]
    return [UrlList.read(path) for path in dict.fromkeys(map(resolved, paths))]


def _with_all_paths(plan: RootPlan) -> RootPlan:
    """The plan of a rebuild: all files and folders are looked through, beside what the run was given."""
    paths = [Path(root) for root in plan.labels if is_path(root)]
    found = plan_roots(plan.labels, paths).sync if paths else []
    return replace(plan, sync=[*found, *(root for root in plan.sync if not is_path(root))])
