"""A root: a folder with a whole system in it, what is mounted into it, and how a command is run there.

Only for a process in a mount namespace of its own, since what is mounted is left to end with that.
"""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Image:
    """What a stage has become: the folder of its root, and what its instructions have set."""

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": BASE_PATH})
    workdir: str = "/"
    user: str = "0:0"


def copy_root(source: Path, target: Path) -> None:
    """A copy with owners, modes and links."""
    subprocess.run(["cp", "--archive", "--reflink=auto", str(source), str(target)], check=True)


def bind(source: Path, target: Path) -> Path:
    """Show a file or folder of this machine at another place; return that."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    subprocess.run(["mount", "--bind", str(source), str(target)], check=True)
    return target


def show(root: Path) -> list[Path]:
    """Mount what every container has: /proc and /dev."""
    subprocess.run(["mount", "-t", "proc", "proc", str(root / "proc")], check=True)
    subprocess.run(["mount", "--rbind", "/dev", str(root / "dev")], check=True)
    return [root / "proc", root / "dev"]


def enter(
    root: Path, command: Sequence[str], env: Mapping[str, str], workdir: str, user: str = "0:0", *, quiet: bool = False
) -> "subprocess.Popen[bytes]":
    """Start a command within a root, in a folder of it, by a user. `quiet`: what it says is not shown."""
    within = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', workdir, *command]
    sink = subprocess.DEVNULL if quiet else None
    command = ["chroot", f"--userspec={user}", str(root), *within]
    return subprocess.Popen(command, env=dict(env), stdout=sink, stderr=sink)
