"""What a crash, a failing disk or a damaged file may leave of an index: the old state, the new one, or a clear error.

Samples of `benchmarks/faults.py`; `make soak` runs the full counts (200 kills, 500 cuts, 500 flipped bits and more).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import faults
from benchmarks.faults import cut, damage, failing_calls, flip, main, single_threaded
from benchmarks.inputs import EXAMPLES, inputs, memory
from benchmarks.stage import Stage, Tally, make, which_state
from rag.manifest import GENERATIONS
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("stage"))


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def failed(found: dict) -> list[object]:
    return [found["wrong"], [what for what, holds in found["checks"].items() if not holds]]


@pytest.mark.slow
def test_every_call_that_may_fail_leaves_the_old_or_the_new_state(stage: Stage) -> None:
    """Each fsync, rename, replacement and mkdir, and each writing of a file, fails in its turn: here every eighth."""
    found = failing_calls(stage, 0.03).report()
    assert failed(found) == [[], []]
    assert found["counts"]["ENOSPC"] > 4
    assert found["counts"]["EIO"] > 4


@pytest.mark.slow
def test_kills_leave_one_whole_state_and_what_was_acknowledged(tmp_path: Path) -> None:
    """A child is killed before calls that change the disk, and at random moments; or no file may grow."""
    written = tmp_path / "found.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.faults",
            "--parts",
            "steps,moments,writes",
            "--share",
            "0.03",
            "--out",
            written,
        ],
        cwd=REPOSITORY,
        env=single_threaded(),
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(written.read_text())
    assert failed(found["steps"]) == failed(found["moments"]) == failed(found["writes"]) == [[], []]
    assert found["steps"]["counts"]["killed"] > 8
    counts = found["moments"]["counts"]
    assert counts["killed"] + counts.get("ended before", 0) == 6


@pytest.mark.parametrize("damaged", [cut, flip])
def test_damaged_bytes_are_never_taken_for_an_answer(stage: Stage, damaged: object) -> None:
    """Cuts and flipped bits anywhere in the files that a reader reads."""
    found = damage(stage, 20, damaged, 2).report()  # type: ignore[arg-type]
    assert failed(found) == [[], []]


def test_what_is_wrong_is_told(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost acknowledged run, a state that is neither, one that cannot be read, and damage that is answered from."""
    with stage.copy() as directory:
        tally = Tally()
        stage.judge(directory, "lost", tally, acknowledged=True)
        assert tally.wrong == ["lost: what was acknowledged is lost"]
    with stage.copy() as directory:
        make(directory, {"other": "words"})
        stage.judge(directory, "strange", tally)
        assert tally.wrong[1:] == ["strange: neither the old nor the new state"]
    with stage.copy() as directory:
        shutil.rmtree(directory / GENERATIONS)
        stage.judge(directory, "gone", tally)
        assert tally.wrong[2].startswith("gone: IndexDamaged: ")
        assert not tally.report()["checks"]["nothing was wrong"]
    monkeypatch.setattr(faults, "state", lambda directory: "made up")
    found = damage(stage, 2, flip, 3).report()
    assert found["wrongs"] == 2
    assert found["wrong"][0].endswith("another answer")
    assert which_state(stage.outcomes[1], stage.outcomes) == 1


def test_damaged_documents_are_indexed_or_refused(tmp_path: Path) -> None:
    found = inputs(tmp_path, 40, [EXAMPLES])
    assert failed(found) == [[], []]
    assert found["counts"]["indexed"] + found["counts"]["refused"] == 40
    assert set(found["counts"]["formats"]) == {".docx", ".html", ".md", ".pdf", ".txt"}


def test_run_after_run_takes_over_its_vectors(tmp_path: Path) -> None:
    found = memory(tmp_path, tmp_path / "nothing there", 3, 0.3)
    assert found["source"] == "corpus"
    assert found["checks"]["vectors were taken over"]
    assert len(found["resident_mb_by_round"]) == 3


def test_parts_and_shares_that_make_no_sense_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["--parts", "flips,floods"], ["--share", "0"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert "no such part: floods" in capsys.readouterr().err
    monkeypatch.setattr(faults, "flip", lambda data, chance: bytes(data))  # nothing is damaged, so nothing is named
    assert main(["--parts", "flips", "--share", "0.004", "--out", str(tmp_path / "x.json")]) == 1
    assert json.loads((tmp_path / "x.json").read_text())["flips"]["counts"] == {"without effect": 2}
