"""Where weights come from: a path, distributions that carry them as data, or a model hub.

Models made from another one are the business of `rag.models`, which has the other one.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path

from rag.errors import ModelMissing
from rag.registry import ModelSpec, Source

Progress = Callable[[str, int], None]  # what is being done, bytes done since the last call


@contextmanager
def fetched(spec: ModelSpec, source: Source, report: Progress) -> Iterator[dict[str, list[Path]]]:
    """Yield the parts of each file, downloaded to a temporary folder where they are not on this machine.

    Raises `ModelMissing` with what the source answered.
    """
    if files := local_files(spec, source, None):
        yield files
        return
    with tempfile.TemporaryDirectory(prefix="smallhold-") as made:
        target = Path(made)
        if source.distributions:
            _install(source.distributions, target, lambda what: report(what, 0))
            files = local_files(spec, source, target)
        elif source.hub:
            files = _download(spec, source, target, report)
        if not files:
            raise ModelMissing("not there" if source.path else "it does not hold the files that the registry names")
        yield files


def local_files(spec: ModelSpec, source: Source, search: Path | None) -> dict[str, list[Path]]:
    """Return the parts of each file from a path or distribution, or nothing where one is missing.

    Distributions are looked up by their metadata, in `search` or the running environment; their code is not run.
    """
    if source.path:
        base = Path(source.path).expanduser()
        found = {f.path: [base / f.path if base.is_dir() else base] for f in spec.files}
    elif source.parts:
        parts = [_locate(requirement, part, search) for requirement, part in _pairs(source)]
        found = {spec.files[0].path: [p for p in parts if p]} if all(parts) else {}
    elif source.folder:
        whole = {f.path: _locate(source.distributions[0], f"{source.folder}/{f.path}", search) for f in spec.files}
        found = {path: [file] for path, file in whole.items() if file}
    else:
        found = {}
    complete = len(found) == len(spec.files) and all(p.is_file() for parts in found.values() for p in parts)
    return found if complete else {}


def _pairs(source: Source) -> Iterable[tuple[str, str]]:
    """Match each part with the distribution that carries it: one each, or all in the first."""
    if len(source.distributions) == len(source.parts):
        return zip(source.distributions, source.parts, strict=True)
    return ((source.distributions[0], part) for part in source.parts)


def _locate(requirement: str, path: str, search: Path | None) -> Path | None:
    name, _, version = requirement.partition("==")
    places = [str(search)] if search else sys.path
    for distribution in distributions(name=name, path=places):
        if distribution.version == version:
            return Path(str(distribution.locate_file(path)))
    return None


def _install(requirements: Sequence[str], target: Path, say: Callable[[str], None]) -> None:
    """Unpack distributions into `target` with pip: wheels only, no dependencies, nothing of them is run."""
    for requirement in requirements:
        say(f"fetching {requirement}")
        options = ["--no-deps", "--only-binary", ":all:", "--no-compile", "--quiet", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), requirement]
        try:
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        except OSError as error:
            raise ModelMissing(f"pip cannot be run: {error}") from error
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
            raise ModelMissing(lines[-1].removeprefix("ERROR: "))


def _download(spec: ModelSpec, source: Source, target: Path, report: Progress) -> dict[str, list[Path]]:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ModelMissing("the package huggingface-hub is not installed (extra `hub`)") from error
    files = {}
    for file in spec.files:
        report(f"fetching {source.hub}/{file.path}", 0)
        try:
            got = hf_hub_download(source.hub, file.path, revision=source.revision, local_dir=target)
        except Exception as error:  # the hub's client raises errors of several libraries
            raise ModelMissing(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error
        files[file.path] = [Path(got)]
    return files
