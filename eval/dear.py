"""Scores that need a model, added to the rows of a run that is there: similarity, and a language model's verdicts.

They are computed once a row and kept; the next run or report does not ask for them again.
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
    judge: ModelJudge | None = None,
    on_row: Callable[[], None] = lambda: None,
) -> dict[str, int]:
    """Score the rows of a run; return by metric how many are scored now. Rows are streamed.

    Raises `DataError` where there is no run, `Unavailable` where another process writes to it.
    """
    read_run(out)
    counts: dict[str, int] = {}

    def change(row: Row) -> Row:
        scored = with_dear_scores(row, embedder, judge)
        for name in ("similarity", "right_judge", "grounded_judge"):
            counts[name] = counts.get(name, 0) + (scored.scores.get(name) is not None)
        on_row()
        return scored

    with locked(out):
        rewrite_rows(out, keep=lambda _: True, change=change)
    return counts


def with_dear_scores(row: Row, embedder: Embedder | None, judge: ModelJudge | None) -> Row:
    """Return the row with the scores that the models at hand can add. Only given answers are scored."""
    sample = row.sample
    if not sample.answered:
        return row
    scores = dict(row.scores)
    if embedder is not None and sample.gold and scores.get("similarity") is None:
        scores["similarity"] = similarity(sample.answer, sample.gold, embedder)
    if judge is not None and sample.gold and scores.get("right_judge") is None:
        scores["right_judge"] = judge.right(sample.question, sample.answer, sample.gold)
    if judge is not None and sample.retrieves and scores.get("grounded_judge") is None:
        scores["grounded_judge"] = judge.grounded(sample.question, sample.answer, sample.cited_texts)
    return row.model_copy(update={"scores": scores, "trust": judge_trust(sample, scores)})
