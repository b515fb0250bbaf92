"""A virtual environment that knows which steps of its set-up are finished.

What a step was done with is written to `<venv>/.setup/<step>` after it; `unfinished` lies there while one runs. pip
cannot tell a half-copied package from a whole one, so an environment whose step was cut short must be started over.
"""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from base import SetupError, locked


class Environment:
    """The virtual environment at `path`, there or not."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.python = self.path / "bin" / "python"
        self._state = self.path / ".setup"
        self._unfinished = self._state / "unfinished"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other set-ups of the same environment out."""
        self._state.mkdir(parents=True, exist_ok=True)
        with locked(self._state / "lock", f"setting up {self.path}"):
            yield

    def create(self) -> None:
        """Make the environment, or mend it, unless it is finished. One that somebody made by hand is kept as it is."""
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        made_from = f"{version} {self.path}"
        if self.done("venv", made_from) and not self._unfinished.exists() and self.python.exists():
            return
        if not self._made_by_hand(version):
            self._clear()
        # The interpreter below the one that runs: that may be the environment's own.
        command = [getattr(sys, "_base_executable", sys.executable), "-m", "venv", str(self.path)]
        self.do("venv", made_from, lambda: _call(command, "there is no virtual environment; see the message above"))

    def done(self, step: str, made_from: str) -> bool:
        """Whether `step` was finished with these inputs."""
        stamp = self._state / step
        return stamp.is_file() and stamp.read_text(encoding="utf-8") == made_from

    def do(self, step: str, made_from: str, action: Callable[[], None]) -> None:
        """Run `action`; write down before that it began, and after that it was finished with these inputs."""
        self._unfinished.write_text(step, encoding="utf-8")
        action()
        (self._state / step).write_text(made_from, encoding="utf-8")
        self._unfinished.unlink()

    def finished(self, *steps: str) -> str:
        """What the given steps were done with, as one text."""
        return "\n".join((self._state / step).read_text() for step in steps if (self._state / step).is_file())

    def pip(self, *arguments: str) -> None:
        """Run pip of the environment. Raises `SetupError` where it fails."""
        _call(self._pip_command(*arguments), f"pip failed: pip {' '.join(arguments)}")

    def pip_plan(self, *requirements: str) -> list[str]:
        """The names of what `pip install` would install. Raises `SetupError` where it finds no way."""
        command = self._pip_command("install", "--dry-run", "--quiet", "--report", "-", *requirements)
        planned = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if planned.returncode:
            raise SetupError(f"pip finds no way to install {' '.join(requirements)}")
        return [item["metadata"]["name"] for item in json.loads(planned.stdout)["install"]]

    def _pip_command(self, *arguments: str) -> list[str]:
        return [str(self.python), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]

    def _made_by_hand(self, version: str) -> bool:
        if self._begun() or self._unfinished.exists() or not self.python.exists():
            return False
        script = f"import pip, sys; sys.exit(sys.version.split('.')[:2] != {version.split('.')})"
        return subprocess.run([self.python, "-I", "-c", script], capture_output=True, check=False).returncode == 0

    def _begun(self) -> bool:
        """Whether any step of a set-up was ever finished here."""
        return any(entry.name != "lock" for entry in self._state.iterdir())

    def _clear(self) -> None:
        """Remove everything but the lock, which is held."""
        for entry in [*self.path.iterdir(), *self._state.iterdir()]:
            if entry.name == "lock" or entry == self._state:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _call(command: list[str], failure: str) -> None:
    if subprocess.run(command, check=False).returncode:
        raise SetupError(failure)
