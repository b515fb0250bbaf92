"""Scores that need a model, added to the rows of a run that is there: similarity, and a language model's verdicts.

They are computed once a row and model and kept; the next run or report does not ask for them again.
"""

from collections.abc import Callable
from pathlib import Path

from eval.judge import ModelJudge
from eval.metrics import judge_trust
from eval.results import locked, read_run, rewrite_rows
from eval.rows import Row
from eval.scorers import similarity
from rag.protocols import Embedder


def add_scores(
    out: Path,
    *,
    embedder: Embedder | None = None,
    embedder_name: str = "",
    judge: ModelJudge | None = None,
    on_row: Callable[[], None] = lambda: None,
) -> dict[str, int]:
    """Score the rows of a run; return by metric how many are scored now. Rows are streamed.

    `embedder_name` tells the embedder from others, as its own does a judge.

    Raises `DataError` where there is no run, `Unavailable` where another process writes to it.
    """
    read_run(out)
    counts: dict[str, int] = {}

    def change(row: Row) -> Row:
        scored = with_dear_scores(row, embedder, judge, embedder_name)
        for name in ("similarity", "right_judge", "grounded_judge"):
            counts[name] = counts.get(name, 0) + (scored.scores.get(name) is not None)
        on_row()
        return scored

    with locked(out):
        rewrite_rows(out, keep=lambda _: True, change=change)
    return counts


def with_dear_scores(row: Row, embedder: Embedder | None, judge: ModelJudge | None, embedder_name: str = "") -> Row:
    """Return the row with the scores that the models at hand can add. Only given answers are scored.

    A score of another model is replaced; whose one is that was made before rows told it, nobody knows, and it stays.
    """
    sample = row.sample
    if not sample.answered:
        return row
    scores, by = dict(row.scores), dict(row.scored_by)

    def wanted(name: str, model: str) -> bool:
        if scores.get(name) is not None and by.get(name, model) == model:
            return False
        by[name] = model
        return True

    if embedder is not None and sample.gold and wanted("similarity", embedder_name):
        scores["similarity"] = similarity(sample.answer, sample.gold, embedder)
    if judge is not None and sample.gold and wanted("right_judge", judge.name):
        scores["right_judge"] = judge.right(sample.question, sample.answer, sample.gold)
    if judge is not None and sample.retrieves and wanted("grounded_judge", judge.name):
        scores["grounded_judge"] = judge.grounded(sample.question, sample.answer, sample.cited_texts)
    return row.model_copy(update={"scores": scores, "scored_by": by, "trust": judge_trust(sample, scores)})
