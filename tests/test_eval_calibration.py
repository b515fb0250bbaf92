import random
from pathlib import Path

import pytest

from eval.calibration import BEST, calibrate, write_abstention
from eval.results import encode_row
from eval.rows import Row
from rag.abstain import load_abstention
from rag.errors import DataError


def row(number: int, *, right: bool, cosine: float) -> Row:
    signals = dict.fromkeys(BEST, 0.5) | {"cosine": cosine}
    return Row(
        system="s",
        question_id=str(number),
        question="q",
        answerable=right,
        gold=("a",) if right else (),
        relevant=(),
        generates=True,
        retrieves=True,
        answer="a",
        signals=signals,
        scores={"right": 1.0} if right else {},
        system_fingerprint="f",
        fingerprint="f",
    )


def run_folder(folder: Path, rows: list[Row]) -> Path:
    folder.mkdir()
    (folder / "results.jsonl").write_bytes(b"".join(encode_row(r) for r in rows))
    return folder


def separable(count: int) -> list[Row]:
    """Right answers have a cosine about 0.7, wrong ones about 0.3; they hardly overlap."""
    draw = random.Random(1)
    return [row(i, right=bool(i % 2), cosine=(0.7 if i % 2 else 0.3) + draw.uniform(-0.15, 0.15)) for i in range(count)]


def test_a_fitted_file_tells_right_from_wrong_and_is_loaded_by_the_query_path(tmp_path: Path) -> None:
    found = calibrate([run_folder(tmp_path / "run", separable(200))], keep_right=0.9)
    assert (found.rows, found.right) == (200, 100)
    assert found.auc > 0.99
    assert found.refused_wrong == 1.0
    write_abstention(tmp_path / "a.toml", found)
    loaded = load_abstention(tmp_path / "a.toml")
    assert loaded == found.abstention
    assert loaded.signals["cosine"].weight > 5
    assert loaded.signals["coverage"].weight == 0  # it never varied, so it says nothing
    rest = dict.fromkeys(BEST, 0.5)
    assert loaded.trusts({**rest, "cosine": 0.75})
    assert not loaded.trusts({**rest, "cosine": 0.35})


def test_keeping_more_of_the_right_lowers_the_threshold(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", separable(200))
    strict, lenient = (calibrate([run], keep_right=k).abstention.threshold for k in (0.5, 0.99))
    assert lenient < strict


def test_too_little_to_fit_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="10 answers with signals are too few"):
        calibrate([run_folder(tmp_path / "a", separable(10))], keep_right=0.9)
    only_right = [r for r in separable(200) if r.answerable]
    with pytest.raises(DataError, match="too few"):
        calibrate([run_folder(tmp_path / "b", only_right)], keep_right=0.9)


def test_how_near_a_model_came_to_declining_is_fitted_where_every_row_tells_it(tmp_path: Path) -> None:
    draw = random.Random(2)
    rows = [row(i, right=bool(i % 2), cosine=0.5) for i in range(200)]
    told = [
        r.model_copy(update={"signals": {**r.signals, "decline": (-4 if r.answerable else 4) + draw.uniform(-1, 1)}})
        for r in rows
    ]
    found = calibrate([run_folder(tmp_path / "told", told)], keep_right=0.9)
    assert found.auc == 1.0
    assert found.abstention.signals["decline"].weight < -0.5
    assert found.abstention.signals["decline"].best == -12.0
    partly = calibrate([run_folder(tmp_path / "partly", [*told[:199], rows[199]])], keep_right=0.9)
    assert "decline" not in partly.abstention.signals
