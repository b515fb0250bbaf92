"""What the set-up scripts share. Standard library only: they run before anything is installed."""

import contextlib
import fcntl
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn


class SetupError(Exception):
    """The set-up cannot go on; the message says why and what to do."""


def say(text: str) -> None:
    """Tell the user; standard output is for results."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked(path: Path, waiting_for: str) -> Iterator[None]:
    """Hold the lock file `path`. The lock goes with the process, however that ends; `waiting_for` says who has it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another process is {waiting_for}; waiting for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def output(command: list[str]) -> str:
    """What `command` prints, without the space around it; empty where it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def requirement_lines(path: Path) -> list[str]:
    """The lines of a requirements file without its comment lines."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]


def run(main: Callable[[], int]) -> NoReturn:
    """Run a script's `main` and exit. SIGTERM ends it as Ctrl-C does: with everything half-made cleared away."""

    def stop(_number: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        sys.exit(main())
    except SetupError as error:
        say(f"error: {error}")
        sys.exit(3)
    except KeyboardInterrupt:
        say("interrupted; the next run takes up where whole steps ended")
        sys.exit(130)
