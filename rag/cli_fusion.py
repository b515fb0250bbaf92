"""`smallhold store tune`: fits to labelled questions how much the dense score weighs in an index."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.build import build_embedder, model_store, open_index
from rag.config import Settings
from rag.console import err, out, print_json
from rag.errors import DataError, InvalidRequest, Unavailable
from rag.fusion import FUSION, Fusion, drop_fusion, with_fusion, write_fusion
from rag.manifest import read_current

if TYPE_CHECKING:
    from eval.fusion_fit import FusionFit


def tune_fusion(
    settings: Settings, data: Sequence[Path], *, limit: int | None, dry_run: bool
) -> "tuple[FusionFit, bool]":
    """Fit the weight to the questions of QA sets, and put it into effect where that pays; whether it was.

    Raises `DataError`, `IndexMissing` and what opening an index raises, and `Unavailable` where the disk refuses.
    """
    from eval.fusion_fit import fit_fusion
    from eval.qaset import load_qaset

    if not data:
        raise InvalidRequest("no questions were given", hint="Name a QA set: smallhold store tune --data FOLDER")
    sets = [load_qaset(folder).limited(limit) for folder in data]
    questions = [question for qaset in sets for question in qaset.questions]
    if not any(question.relevant for question in questions):
        raise DataError("no question names a relevant document", hint="Add `relevant` to questions.jsonl.")
    embedder = build_embedder(settings, model_store(settings))
    retrieval = with_fusion(settings).retrieval
    with open_index(settings, embedder) as index:
        found = fit_fusion(index, embedder, questions, old_weight=retrieval.dense_weight, count=retrieval.candidates)
    if not found.pays or dry_run:
        return found, False
    fusion = _record(found, embedder.fingerprint, [qaset.name for qaset in sets])
    try:
        write_fusion(settings.index.dir, fusion)
    except OSError as error:
        raise _refused(settings.index.dir, error) from error
    return found, True


def reset_fusion(settings: Settings) -> bool:
    """Go back to the setting's default; whether anything was tuned. Raises `IndexMissing` where there is no index."""
    read_current(settings.index.dir)
    try:
        return drop_fusion(settings.index.dir)
    except OSError as error:
        raise _refused(settings.index.dir, error) from error


def show_fusion(found: "FusionFit", taken: bool, directory: Path, *, as_json: bool) -> None:
    """Print the weights with what they are worth, and what was decided."""
    if as_json:
        print_json(_plain(found, taken, directory))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("dense weight", "nDCG@10", box=None, pad_edge=False, header_style="bold")
    marks = {0.0: "words alone", 1.0: "meaning alone", found.old_weight: "in effect", found.weight: "best"}
    for weight, mean in found.by_weight.items():
        table.add_row(f"{weight:g}", f"{mean:.4f} {marks.get(weight, '')}")
    out.print(table)
    gain = found.gain
    assert gain.value is not None and gain.low is not None and gain.high is not None
    out.print(
        f"chosen by other questions: {found.cross_validated:.4f} instead of {found.before:.4f}, "
        f"{gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f}, 95%), n = {gain.n}"
    )
    if found.unknown:
        err.print(f"{found.unknown} more questions name documents that are not in the index: left out")
    if taken:
        out.print(f"{escape(str(directory / FUSION))}: the weight is {found.weight:g} from now on; restart its server")
    elif found.pays:
        out.print(f"{found.weight:g} would be taken: nothing was written")
    else:
        out.print(f"{found.old_weight:g} stays: that another weight is better may be chance")


def _plain(found: "FusionFit", taken: bool, directory: Path) -> dict[str, Any]:
    return {
        "index": str(directory),
        "taken": taken,
        "pays": found.pays,
        "dense_weight": found.weight,
        "dense_weight_before": found.old_weight,
        "ndcg_by_weight": {f"{weight:g}": mean for weight, mean in found.by_weight.items()},
        "ndcg": found.cross_validated,
        "ndcg_before": found.before,
        "gain": found.gain.value,
        "interval": [found.gain.low, found.gain.high],
        "questions": found.gain.n,
        "unknown": found.unknown,
    }


def _record(found: "FusionFit", fingerprint: str, names: Sequence[str]) -> Fusion:
    gain = found.gain
    assert gain.low is not None and gain.high is not None
    return Fusion(
        dense_weight=found.weight,
        embedder=fingerprint,
        questions=gain.n,
        sets=tuple(names),
        ndcg=found.cross_validated,
        ndcg_before=found.before,
        gain_low=gain.low,
        gain_high=gain.high,
    )


def _refused(directory: Path, error: OSError) -> Unavailable:
    return Unavailable(
        f"cannot write {directory / FUSION}: {error.strerror or error}",
        hint="What was in effect stays. Make room or make the folder writable, then run it again.",
    )
