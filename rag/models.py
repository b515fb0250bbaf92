"""The model store: weights fetched from one of their sources, checked against their hashes, kept once.

Layout: `DIR/NAME/<files>` and beside them `verified.json`, which records hash, size and modification time of each
file that was checked, so that a gigabyte is hashed once and not at every start. A file that changed since is hashed
again, and refused where it is not the registry's.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from importlib.resources import as_file
from pathlib import Path

from filelock import FileLock

from rag.adapter import adapt
from rag.checksums import BLOCK, read_json, sha256_of, stamp, write_json
from rag.errors import ModelDamaged, ModelMissing
from rag.registry import ModelSpec, Registry, Source
from rag.sources import Progress, fetched, local_files


@dataclass(frozen=True, slots=True)
class Model:
    """Verified weights at hand. `path` is the folder, `file` its only or first file."""

    spec: ModelSpec
    path: Path
    fingerprint: str

    @property
    def file(self) -> Path:
        """The weights where they are one file."""
        return self.path / self.spec.files[0].path


class ModelStore:
    """Finds, fetches and checks the models of a registry under one directory."""

    def __init__(self, registry: Registry, directory: Path) -> None:
        self.registry = registry
        self.directory = directory

    def locate(self, name: str, progress: Progress | None = None) -> Model:
        """Return a model that needs no network: kept already, or in a local path or an installed distribution.

        Raises `UnknownModel`, `ModelMissing` with the command that fetches it, `ModelDamaged`.
        """
        spec = self.registry.get(name)
        with self._locked(spec):
            if model := self._kept(spec):
                return model
            for source in spec.source:
                if source.base:
                    if self.is_kept(source.base):
                        return self._adapt(spec, source, self.locate(source.base), progress or _quiet)
                elif not source.hub and (files := local_files(spec, source, None)):
                    self._take(spec, files, progress or _quiet, accept_unpinned=False)
                    return self._must_be_kept(spec)
        raise ModelMissing(f"the weights of {name} are not here", hint=f"Run `smallhold models pull {name}`.")

    def pull(self, name: str, progress: Progress | None = None, *, accept_unpinned: bool = False) -> Model:
        """Return a model, fetching it where it must be. Sources are tried in order, damaged weights are replaced.

        Raises `UnknownModel`, `ModelMissing` listing what each source answered, `ModelDamaged` where what came is not
        the registry's model.
        """
        spec = self.registry.get(name)
        report = progress or _quiet
        if not spec.pinned and not accept_unpinned and not self._pins(spec):
            raise ModelMissing(
                f"{name} has no pinned SHA-256 in the registry, so what comes cannot be checked",
                hint="Add --accept-unpinned to take it as it comes; its hash is recorded and checked from then on.",
            )
        with self._locked(spec):
            try:
                if model := self._kept(spec):
                    return model
            except ModelDamaged:
                shutil.rmtree(self._folder(spec))
            answers = []
            for source in spec.source:
                try:
                    if source.base:
                        base = self.pull(source.base, report, accept_unpinned=accept_unpinned)
                        return self._adapt(spec, source, base, report)
                    with fetched(spec, source, report) as files:
                        self._take(spec, files, report, accept_unpinned=accept_unpinned)
                    return self._must_be_kept(spec)
                except (ModelMissing, ModelDamaged) as error:
                    answers.append(f"{source}: {error.message}")
        raise ModelMissing(f"no source has the weights of {name}:\n  " + "\n  ".join(answers))

    def verify(self, name: str, progress: Progress | None = None) -> Model:
        """Hash a kept model anew. Raises `ModelMissing`, or `ModelDamaged` naming the file that differs."""
        spec = self.registry.get(name)
        with self._locked(spec):
            (self._folder(spec) / "verified.json").unlink(missing_ok=True)
            model = self._kept(spec, progress or _quiet)
        if model is None:
            raise ModelMissing(f"the weights of {name} are not here", hint=f"Run `smallhold models pull {name}`.")
        return model

    def is_kept(self, name: str) -> bool:
        """Whether all files of a model lie in the store (not whether they are whole)."""
        spec = self.registry.get(name)
        return all((self._folder(spec) / f.path).is_file() for f in spec.files)

    def _kept(self, spec: ModelSpec, report: Progress | None = None) -> Model | None:
        folder = self._folder(spec)
        if not self.is_kept(spec.name):
            return None
        wanted = self._wanted(spec)
        stamps = read_json(folder / "verified.json")
        fresh = {f.path: stamp(folder / f.path) for f in spec.files}
        for file in spec.files:
            known = stamps.get(file.path, {})
            if known.get("sha256") == wanted[file.path] and known.get("stamp") == fresh[file.path]:
                continue
            _check(folder / file.path, wanted[file.path], spec, report or _quiet)
        checked = {path: {"sha256": wanted[path], "stamp": seen} for path, seen in fresh.items()}
        if checked != stamps:
            write_json(folder / "verified.json", checked)
        return Model(spec, folder, _fingerprint(wanted))

    def _must_be_kept(self, spec: ModelSpec) -> Model:
        model = self._kept(spec)
        assert model is not None, "files were just taken into the store"
        return model

    def _take(self, spec: ModelSpec, files: dict[str, list[Path]], report: Progress, *, accept_unpinned: bool) -> None:
        """Copy files, joined from their parts, into the store: first beside it, then in place by one rename."""
        folder = self._folder(spec)
        folder.parent.mkdir(parents=True, exist_ok=True)
        wanted = self._wanted(spec)
        pins = {}
        with tempfile.TemporaryDirectory(prefix=f".{spec.name}-", dir=folder.parent) as made:
            staging = Path(made) / spec.name
            for path, parts in files.items():
                sha256 = _join(parts, staging / path, lambda n: report(f"checking {spec.name}", n))
                pins[path] = sha256
                if sha256 != wanted[path] and (wanted[path] or not accept_unpinned):
                    raise ModelDamaged(_difference(path, sha256, wanted[path]))
            if not spec.pinned:
                write_json(staging / "pins.json", pins)
            shutil.rmtree(folder, ignore_errors=True)
            staging.rename(folder)

    def _adapt(self, spec: ModelSpec, source: Source, base: Model, report: Progress) -> Model:
        """Make an adapted model from its base, a matter of seconds, and take it like one that was fetched."""
        path = spec.files[0].path
        packed = resources.files("configs") / "adapters" / source.adapter
        with tempfile.TemporaryDirectory(prefix=".adapting-", dir=self.directory) as made, as_file(packed) as adapter:
            out = Path(made) / Path(path).name
            adapt(base.file, adapter, out, source.quantization, lambda n: report(f"adapting {source.base}", n))
            self._take(spec, {path: [out]}, _quiet, accept_unpinned=False)
        return self._must_be_kept(spec)

    def _wanted(self, spec: ModelSpec) -> dict[str, str]:
        """Return the hash each file must have, "" where nothing pins it yet."""
        pins = self._pins(spec)
        return {f.path: f.sha256 or pins.get(f.path, "") for f in spec.files}

    def _pins(self, spec: ModelSpec) -> dict[str, str]:
        return {k: str(v) for k, v in read_json(self._folder(spec) / "pins.json").items()}

    def _folder(self, spec: ModelSpec) -> Path:
        return self.directory / spec.name

    @contextmanager
    def _locked(self, spec: ModelSpec) -> Iterator[None]:
        """Let one process at a time fetch or check a model."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with FileLock(self.directory / f".{spec.name}.lock"):
            yield


def default_directory() -> Path:
    """Return where weights are kept: `$SMALLHOLD_CACHE/models`, else in the user's cache directory."""
    cache = os.environ.get("SMALLHOLD_CACHE")
    base = Path(cache) if cache else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smallhold"
    return base / "models"


def _join(parts: Sequence[Path], target: Path, done: Callable[[int], None]) -> str:
    """Write the parts one after another into `target`, to the disk; return the SHA-256 of the whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
                    out.write(block)
                    done(len(block))
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _check(path: Path, wanted: str, spec: ModelSpec, report: Progress) -> None:
    found = sha256_of(path, lambda n: report(f"checking {spec.name}", n))
    if found != wanted:
        raise ModelDamaged(_difference(str(path), found, wanted), hint=f"Run `smallhold models pull {spec.name}`.")


def _difference(path: str, found: str, wanted: str) -> str:
    return f"{path} was refused: its SHA-256 is {found}, the registry's is {wanted or 'not known'}"


def _fingerprint(hashes: dict[str, str]) -> str:
    """Return one short hash for all files of a model."""
    lines = "\n".join(f"{path} {sha256}" for path, sha256 in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def _quiet(what: str, done: int) -> None:
    """Report nothing."""
