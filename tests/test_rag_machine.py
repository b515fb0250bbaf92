"""What control groups leave to a process, read from files as Linux has them."""

import os
from pathlib import Path

import pytest

from rag.machine import available_cores, memory_limit


class Groups:
    """The files of control groups, and the one that says in which the process is."""

    def __init__(self, folder: Path, own: str, files: dict[str, str]) -> None:
        self.folder = folder / "cgroup"
        self.own = folder / "own"
        self.own.write_text(own)
        for name, text in files.items():
            place = self.folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)

    def found(self) -> tuple[int, int | None]:
        return available_cores(self.folder, self.own), memory_limit(self.folder, self.own)


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


V1 = "4:memory:/docker/1f\n3:cpu,cpuacct:/docker/1f\n2:cpuset:/\n0::/\n"


@pytest.mark.parametrize(
    ("own", "files", "cores", "memory"),
    [
        # A container of `docker run --cpus 1.5 --memory 1g` sees its own group as the outermost one.
        ("0::/\n", {"cpu.max": "150000 100000\n", "memory.max": "1073741824\n"}, 2, 2**30),
        ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, 8, None),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1, None),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 8, None),
        # A service: the narrowest of the groups around it counts.
        (
            "0::/system.slice/smallhold.service\n",
            {
                "system.slice/cpu.max": "400000 100000\n",
                "system.slice/smallhold.service/cpu.max": "max 100000\n",
                "system.slice/memory.max": "max\n",
                "system.slice/smallhold.service/memory.max": "4000000000\n",
                "other.slice/cpu.max": "100000 100000\n",
            },
            4,
            4_000_000_000,
        ),
        # Version 1; the path is the machine's, and the container sees its group where the outermost one would be.
        (
            V1,
            {
                "cpu/cpu.cfs_quota_us": "300000\n",
                "cpu/cpu.cfs_period_us": "100000\n",
                "memory/memory.limit_in_bytes": "2000000000\n",
            },
            3,
            2_000_000_000,
        ),
        (
            V1,
            {
                "cpu/cpu.cfs_quota_us": "-1\n",
                "cpu/cpu.cfs_period_us": "100000\n",
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            8,
            None,
        ),
        # What is no such file limits nothing.
        ("", {}, 8, None),
        ("nonsense\n0::/../..\n", {"cpu.max": "\n", "memory.max": "\ufffd"}, 8, None),
        ("0::/\n", {"cpu.max": "100000 0\n"}, 8, None),
    ],
)
def test_no_more_is_taken_than_the_groups_allow(
    tmp_path: Path, own: str, files: dict[str, str], cores: int, memory: int | None
) -> None:
    assert Groups(tmp_path, own, files).found() == (cores, memory)


def test_without_such_files_the_machine_is_all_there_is(tmp_path: Path) -> None:
    assert available_cores(tmp_path, tmp_path / "none") == 8
    assert memory_limit(tmp_path, tmp_path / "none") is None
