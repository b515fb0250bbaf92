"""`smallhold calibrate`: a user's own questions are answered with nothing withheld, then fitted to and tested on."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from rag.config import Settings
from rag.console import err, print_json
from rag.errors import DataError, Unavailable
from rag.fusion import with_fusion

if TYPE_CHECKING:
    from eval.calibration import Calibration

SYSTEM = "calibrated"


def calibrate_on(
    settings: Settings,
    data: Sequence[Path],
    out: Path,
    *,
    index: Path | None,
    keep_right: float,
    limit: int | None,
    runs: Path,
) -> "Calibration":
    """Answer the questions of the QA sets in `data` and write the estimate that is fitted to the answers to `out`.

    The runs are kept in the folder `runs`, one for each set, so that an interrupted one goes on from there. With
    `index` that index is asked, else one of each set's own documents. Raises `DataError`, `Unavailable`.
    """
    from eval.calibration import FEWEST_ROWS, calibrate, write_abstention
    from eval.console import Bars
    from eval.qaset import load_qaset
    from eval.runner import run
    from eval.system_row import system_in_force
    from rag.cli_eval import open_systems

    # Read before anything is answered: a set that is malformed is told at once, not after the first one's hours.
    sets = [load_qaset(folder).limited(limit) for folder in data]
    for qaset in sets:
        if qaset.retrieval_only:
            raise DataError(f"{qaset.name} has no answers to compare with", hint="Name sets of questions with answers.")
    if (asked := sum(len(qaset.questions) for qaset in sets)) < FEWEST_ROWS:
        raise DataError(
            f"{asked} questions are too few to calibrate on: it takes {FEWEST_ROWS} at the least",
            hint="Add questions, or name further sets with --data; `smallhold eval synth` writes some.",
        )
    if index is not None:
        settings = with_fusion(settings, index)
    settings, row = _answering_everything(settings), system_in_force(SYSTEM, settings)
    folders = [runs / _folder(folder) for folder in data]
    for qaset, folder in zip(sets, folders, strict=True):
        opener = open_systems(qaset, settings, folder, runs / "cache", index)
        finished = run(qaset, [row], folder, opener, settings=settings, progress=Bars())
        if stopped := finished.systems[SYSTEM].stopped:
            raise Unavailable(stopped, hint="Mend the cause; the same command goes on from there.")
    found = calibrate(folders, keep_right=keep_right)
    write_abstention(out, found)
    return found


def show_calibration(found: "Calibration", out: Path, *, as_json: bool) -> None:
    """Say what was fitted and what it can promise."""
    from eval.calibration import calibration_json, described

    if as_json:
        print_json({"file": str(out), **calibration_json(found)})
        return
    typer.echo(f"{out}: {described(found)}")
    err.print(f"[dim]To use it, set abstention.file to it, or SMALLHOLD_ABSTENTION__FILE={escape(str(out))}[/]")


def _answering_everything(settings: Settings) -> Settings:
    """Return the settings with nothing withheld, and without the file that is only now being made."""
    from rag.config import AbstentionSettings

    return settings.model_copy(update={"abstention": AbstentionSettings(enabled=False)})


def _folder(data: Path) -> str:
    """Name the run of a QA set, so that sets of one name in different places have runs of their own."""
    place = data.resolve()
    return f"{place.name}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"
