"""The virtual environment: a step of its set-up is finished, or it is done again."""

import subprocess
import sys
from pathlib import Path

import pytest

from base import SetupError, requirement_lines
from environment import Environment
from install import install_torch

ROOT = Path(__file__).resolve().parent.parent


def made(tmp_path: Path) -> Environment:
    """An environment with one finished step; a folder with a link to the interpreter stands for the real thing."""
    env = Environment(tmp_path / "venv")
    (env.path / "bin").mkdir(parents=True)
    env.python.symlink_to(sys.executable)
    with env.alone():
        env.do("venv", f"{sys.version_info.major}.{sys.version_info.minor} {env.path}", lambda: None)
    return env


def test_a_step_is_done_with_its_inputs(tmp_path: Path) -> None:
    env = made(tmp_path)
    env.do("dependencies", "lock 1", lambda: None)
    assert env.done("dependencies", "lock 1")
    assert not env.done("dependencies", "lock 2")
    assert not env.done("torch", "lock 1")
    assert env.finished("dependencies", "torch") == "lock 1"


def test_a_finished_environment_is_left_alone(tmp_path: Path) -> None:
    env = made(tmp_path)
    (env.path / "kept").touch()
    with env.alone():
        env.create()
    assert (env.path / "kept").exists()
    assert not (env.path / "pyvenv.cfg").exists()


@pytest.mark.slow
def test_an_interrupted_step_has_the_environment_started_over(tmp_path: Path) -> None:
    env = made(tmp_path)
    half_copied = env.path / "lib" / "half-copied"
    half_copied.mkdir(parents=True)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        env.do("dependencies", "lock", interrupted)
    assert not env.done("dependencies", "lock")
    with env.alone():
        env.create()
    assert not half_copied.exists()
    assert (env.path / "pyvenv.cfg").is_file()
    assert subprocess.run([env.python, "-m", "pip", "--version"], capture_output=True, check=True).stdout


def test_an_environment_made_by_hand_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mended: list[str] = []
    monkeypatch.setattr(Environment, "do", lambda _self, step, _made_from, _action: mended.append(step))
    for name, begun in (("by-hand", False), ("begun", True)):
        env = Environment(tmp_path / name)
        command = [sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", str(env.path)]
        subprocess.run(command, check=True)
        (env.path / "content").touch()
        with env.alone():
            if begun:
                (env.path / ".setup" / "unfinished").touch()
            env.create()
        assert (env.path / "content").exists() is not begun
    assert mended == ["venv", "venv"]


class PlannedEnvironment(Environment):
    """pip's plan is given; what would be installed is noted."""

    def __init__(self, path: Path, plan: list[str]) -> None:
        super().__init__(path)
        path.joinpath(".setup").mkdir(parents=True)
        self.plan = plan
        self.called: list[tuple[str, ...]] = []

    def pip(self, *arguments: str) -> None:
        self.called.append(arguments)

    def pip_plan(self, *requirements: str) -> list[str]:
        return self.plan


def test_a_cuda_build_of_torch_is_refused_where_the_cpu_build_is_asked_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (pinned,) = requirement_lines(ROOT / "scripts/torch.txt")
    cuda = PlannedEnvironment(tmp_path / "cuda", ["torch", "nvidia-cudnn", "triton"])
    with pytest.raises(SetupError, match=r"brings 2 more packages(.|\n)*SMALLHOLD_TORCH_INDEX"):
        install_torch(cuda, cpu_only=True, environ={})
    assert cuda.called == []
    install_torch(cuda, cpu_only=False, environ={})
    assert cuda.called == [("install", pinned)]
    assert "several GB" in capfd.readouterr().err
    cpu = PlannedEnvironment(tmp_path / "cpu", ["torch"])
    install_torch(cpu, cpu_only=True, environ={"SMALLHOLD_TORCH_INDEX": str(tmp_path)})
    install_torch(cpu, cpu_only=True, environ={"SMALLHOLD_TORCH_INDEX": str(tmp_path)})
    assert cpu.called == [("install", "--find-links", str(tmp_path), pinned)]
    other = PlannedEnvironment(tmp_path / "other", ["torch"])
    install_torch(other, cpu_only=True, environ={"SMALLHOLD_TORCH_INDEX": "index.example"})
    assert other.called == [("install", "--extra-index-url", "index.example", pinned)]
