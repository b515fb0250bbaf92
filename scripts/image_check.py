"""Checks the image where no Docker engine runs: hadolint, where it is installed, and the Dockerfile's own steps,
carried out in a clean Debian.

    python scripts/image_check.py [--build-arg NAME=VALUE] [--bind PATH] [--mirror ADDRESS]

The clean Debian is made by debootstrap, and every step is run in it by chroot. What comes out is run as the image
would be: by its user, over a root that cannot be written, with its volumes and without any network. It has to make an
API key, answer /health, say by its health check that it is not ready without weights, and end with 0 on SIGTERM.

It needs root and Linux. All mounts lie in a mount namespace of its own, which goes with the process however that ends;
the folder that the roots are in is removed at the end, and what a killed run left behind by the next one.

Debian's Python takes the place of the official image's, of the same version.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from base import SetupError, locked, run, say
from dockerfile import read
from image_build import build_all
from image_root import Image
from image_run import run_image
from wheel_cache import cache_root

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("debootstrap", "chroot", "unshare", "mount")
NEEDED_BYTES = 8_000_000_000


def main() -> int:
    """Lint, build, run; the three parts that need mounts are this script again, in namespaces of their own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="as for docker build")
    parser.add_argument("--bind", action="append", default=[], type=Path, metavar="PATH", help="show it to the steps")
    parser.add_argument("--mirror", default="", metavar="ADDRESS", help="where debootstrap takes Debian from")
    parser.add_argument("--file", type=Path, default=ROOT / "Dockerfile", help=argparse.SUPPRESS)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    stages = read(args.file)
    if args.inside:
        given = dict(argument.partition("=")[::2] for argument in args.build_arg)
        build_all(stages, args.inside, given, args.bind, args.mirror)
        return 0
    if args.run:
        run_image(stages[-1], Image(args.run), args.run.parent / "volumes")
        return 0
    lint(args.file)
    if absent := [str(path) for path in args.bind if not path.exists()]:
        raise SetupError(f"--bind: there is no {', '.join(absent)}")
    if missing := what_is_missing():
        raise SetupError(
            f"the Dockerfile's steps were not carried out: {', '.join(missing)}\n"
            "They need Linux, root rights, and (on Debian) `apt-get install debootstrap mount util-linux`."
        )
    in_a_clean_root()
    say("The image is in order.")
    return 0


def lint(file: Path) -> None:
    """hadolint, where it is installed. Raises `SetupError` where it finds something."""
    if shutil.which("hadolint") is None:
        say("hadolint is not installed: the Dockerfile is not linted")
    elif subprocess.run(["hadolint", str(file)], check=False).returncode != 0:
        raise SetupError("hadolint has found something")
    else:
        say("== hadolint: nothing found")


def what_is_missing() -> list[str]:
    """What this machine lacks for the steps to be carried out, in words."""
    missing = [] if sys.platform == "linux" else ["this is no Linux"]
    missing += [] if os.geteuid() == 0 else ["root rights are missing"]
    return missing + [f"{tool} is not on the PATH" for tool in TOOLS if shutil.which(tool) is None]


def in_a_clean_root() -> None:
    """Have the roots made and the image run, in a folder that is removed at the end, whatever happens."""
    home = cache_root() / "image-check"
    home.mkdir(parents=True, exist_ok=True)
    with locked(home / "lock", "checking the image"):
        for stale in home.glob("roots-*"):  # of a run that was killed
            shutil.rmtree(stale)
        if (free := shutil.disk_usage(home).free) < NEEDED_BYTES:
            raise SetupError(f"{home} has {free / 1e9:.1f} GB left; {NEEDED_BYTES / 1e9:.0f} are needed")
        roots = Path(tempfile.mkdtemp(prefix="roots-", dir=home))
        # Nothing is mounted in this namespace, so that removing the roots cannot reach what was bound into them.
        try:
            _apart("--inside", roots)
            _apart("--run", roots / "image", "--net")
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):  # an impatient second one must not leave half of it
                signal.signal(number, signal.SIG_IGN)
            shutil.rmtree(roots)


def _apart(what: str, folder: Path, *namespaces: str) -> None:
    """This script again in namespaces of its own; its processes and mounts end with it. Raises `SetupError`."""
    command = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", *namespaces]
    command += [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], what, str(folder)]
    process = subprocess.Popen(command)
    try:
        status = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if status:
        raise SetupError("the image is not in order; see above")


if __name__ == "__main__":
    run(main)
