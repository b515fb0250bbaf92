"""Carries out the Dockerfile's steps, each in the root of its stage."""

import os
import re
import shutil
import string
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from base import SetupError, say
from dockerfile import Instruction, Stage
from image_root import Image, bind, copy_root, enter, show
from wheel_cache import cache_root

CONTEXT = Path(__file__).resolve().parent.parent
BASE_PACKAGES = "python3,python3-venv,ca-certificates"
# What a step may need to know of this machine to fetch anything: pip's settings, certificates, a proxy.
PASSED_ON = re.compile(r"PIP_\w+|SSL_CERT_FILE|\w+_proxy|\w+_PROXY")
SHOWN = 12  # packages, by size

# (root, command, environment, folder, cache folder or "") -> nothing; raises SetupError where the command fails.
Execute = Callable[[Path, Sequence[str], Mapping[str, str], str, str], None]


def build_all(
    stages: Sequence[Stage], folder: Path, given: Mapping[str, str], binds: Sequence[Path], mirror: str
) -> None:
    """Make the root of each stage below `folder`; the last one's is `image`. `given` are the build's arguments."""
    chroot = Chroot(folder.parent / "cache", binds)
    images: dict[str, Image] = {}
    began = time.monotonic()
    for number, stage in enumerate(stages):
        name = "image" if number == len(stages) - 1 else stage.name or str(number)
        say(f"== stage {name}, from {stage.base}")
        root = folder / name
        if stage.base in images:
            before = images[stage.base]
            copy_root(before.root, root)
            image = Image(root, dict(before.env), before.workdir, before.user)
        else:
            make_base(stage.base, root, mirror)
            image = Image(root)
        images[stage.name or str(number)] = image
        carry_out(stage, image, images, chroot, given, CONTEXT)
    say(f"== built in {time.monotonic() - began:.0f} s")
    if (base := stages[-1].base) in images:
        tell_sizes(images[base].root, folder / "image")


def make_base(base: str, root: Path, mirror: str) -> None:
    """A clean Debian in the place of Python's official image over the same release. Raises `SetupError`."""
    found = re.fullmatch(r"python:(\d+\.\d+)-slim-(\w+)", base)
    if not found:
        raise SetupError(f"{base}: only python:X.Y-slim-RELEASE can be put together here")
    version, release = found[1], found[2]
    command = ["debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", release, str(root)]
    if subprocess.run([*command, *([mirror] if mirror else [])], check=False, stdout=subprocess.DEVNULL).returncode:
        raise SetupError("debootstrap has failed")
    if not (root / f"usr/bin/python{version}").exists():
        raise SetupError(f"the Python of Debian's {release} is not {version}, which {base} has")
    shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")


def carry_out(
    stage: Stage,
    image: Image,
    images: Mapping[str, Image],
    execute: Execute,
    given: Mapping[str, str],
    context: Path,
) -> None:
    """The instructions of a stage, in order. `given` are the build's arguments. Raises `SetupError`."""
    arguments: dict[str, str] = {}
    for one in stage.instructions:
        if one.name == "ARG":
            for word in one.words:
                name, _, default = word.partition("=")
                arguments[name] = given.get(name, default)
        elif one.name == "ENV":
            for word in one.words:
                name, _, value = word.partition("=")
                image.env[name] = string.Template(value).safe_substitute(arguments | image.env)
        elif one.name == "WORKDIR":
            image.workdir = one.text
            (image.root / one.text.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif one.name == "USER":
            image.user = one.text
        elif one.name == "COPY":
            copy_in(one, image, images, context)
        elif one.name == "RUN":
            if image.user != "0:0":
                raise SetupError(f"line {one.line}: RUN after USER cannot be carried out here")
            say(f"== line {one.line}: {' '.join(one.text.split())[:100]}")
            env = {"HOME": "/root", **arguments, **image.env}
            execute(image.root, ["/bin/sh", "-c", one.text], env, image.workdir, one.option)


def copy_in(one: Instruction, image: Image, images: Mapping[str, Image], context: Path) -> None:
    """COPY: of a stage's root, or of what .dockerignore lets through of the context. Raises `SetupError`."""
    *sources, target = one.words
    into = image.root / os.path.normpath(Path(image.workdir) / target).lstrip("/")
    if one.option:
        (source,) = sources
        into.parent.mkdir(parents=True, exist_ok=True)
        copy_root(images[one.option].root / source.lstrip("/"), into)
        return
    let_through = {line[1:] for line in (context / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for source in sources:
        name = source.rstrip("/")
        if name not in let_through:
            raise SetupError(f"line {one.line}: .dockerignore keeps {source} out")
        if (context / name).is_dir():
            shutil.copytree(context / name, into, ignore=shutil.ignore_patterns("__pycache__", "*.py[cod]"))
        else:
            into.mkdir(parents=True, exist_ok=True)
            shutil.copy(context / name, into)


@dataclass
class Chroot:
    """Runs commands in a root. `caches` is where what RUN keeps is kept, `binds` paths of this machine to be seen."""

    caches: Path
    binds: Sequence[Path]

    def __call__(self, root: Path, command: Sequence[str], env: Mapping[str, str], workdir: str, cache: str) -> None:
        """Run it with what pip needs to know, and with the compiled wheels of this machine in its cache."""
        mounted = show(root)
        for path in self.binds:
            mounted.append(bind(path.absolute(), root / str(path.absolute()).lstrip("/")))
        if cache:
            self.caches.mkdir(exist_ok=True)
            mounted.append(bind(self.caches, root / cache.lstrip("/")))
            (cache_root() / "wheels").mkdir(exist_ok=True)
            mounted.append(bind(cache_root() / "wheels", root / cache.lstrip("/") / "smallhold/wheels"))
        passed = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
        try:
            if enter(root, command, {**passed, **env}, workdir).wait():
                raise SetupError("this step of the Dockerfile has failed")
        finally:
            for place in reversed(mounted):
                subprocess.run(["umount", "--recursive", "--lazy", str(place)], check=True)


def tell_sizes(base: Path, image: Path) -> None:
    """Say how large the image is, by what goes in it."""
    sizes = {"the base": _size(base), "/opt/smallhold": _size(image / "opt/smallhold")}
    sizes["what apt added"] = _size(image) - sum(sizes.values())
    say(f"== size: {_size(image) / 1e6:.0f} MB, of these:")
    packages = {folder.name: _size(folder) for folder in image.glob("opt/smallhold/lib/python*/site-packages/*")}
    largest = sorted(packages.items(), key=lambda item: item[1], reverse=True)[:SHOWN]
    for name, size in [*sizes.items(), *((f"    {name}", size) for name, size in largest)]:
        say(f"{size / 1e6:8.0f} MB  {name}")


def _size(folder: Path) -> int:
    """Bytes of a file, or of all files below a folder, each counted once; 0 where there is nothing."""
    inodes = {
        (status.st_dev, status.st_ino): status.st_size
        for path in [folder, *folder.rglob("*")]
        if (path.is_symlink() or path.exists()) and (status := path.lstat()) and not path.is_dir()
    }
    return sum(inodes.values())
