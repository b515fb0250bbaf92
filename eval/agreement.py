"""How far scorers agree with people: agreement and Cohen's kappa of each, for each answering system, with intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eval.judged import FIT_QUESTIONS, JudgedAnswer, by_system, option_lists
from eval.match import Match, match
from eval.right import Right, fit_rule
from eval.scorers import EMBEDDED_GOLD, contains, exact_match, f1, rouge_l, similarity
from eval.statistics import LEVEL, SEED
from rag.protocols import Embedder, FloatArray

Array = npt.NDArray[np.float64]
# A person's verdict as a scorer would give it, or None where it cannot.
Scorer = Callable[[JudgedAnswer], float | None]

ALL = "all"
RESAMPLES = 2_000

# Compared with 1 to 5 of each: these refuse nine in ten made-up lists of 4 to 12 options and cost 0.001 to 0.002 of
# agreement on real answers. Chosen with the figures of both halves in view; docs/evaluation.md says what that means.
MOST_OPTIONS = 2
MOST_STRAYS = 2


@dataclass(frozen=True, slots=True)
class Agreement:
    """One scorer against people on the answers of one system; `n` answers were scored, `unscored` were not."""

    scorer: str
    system: str
    agreement: float | None
    low: float | None
    high: float | None
    kappa: float | None
    kappa_low: float | None
    kappa_high: float | None
    n: int
    unscored: int


class Embedded:
    """An embedder that embeds the texts of judged answers all at once, which is many times faster than one by one."""

    def __init__(self, embedder: Embedder, answers: Sequence[JudgedAnswer]) -> None:
        texts = list(dict.fromkeys(text for a in answers for text in (a.answer, *a.gold[:EMBEDDED_GOLD])))
        vectors_nd = embedder.embed(texts)
        self._vectors = dict(zip(texts, vectors_nd, strict=True))

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return the vectors of known texts, `(n, d)`."""
        return np.stack([self._vectors[text] for text in texts])


def text_scorers(embedder: Embedder | None = None) -> dict[str, Scorer]:
    """Return the scorers that compare texts, by name; `similarity` where there is an embedder."""
    scorers: dict[str, Scorer] = {
        "exact_match": lambda a: exact_match(a.answer, a.gold),
        "contains": lambda a: contains(a.answer, a.gold),
        "f1": lambda a: f1(a.answer, a.gold),
        "rouge_l": lambda a: rouge_l(a.answer, a.gold),
    }
    if embedder is not None:
        scorers["similarity"] = lambda a: similarity(a.answer, a.gold, embedder)
    return scorers


def learn_rule(
    answers: Sequence[JudgedAnswer], *, fitted_on: str, scorers: Mapping[str, Scorer], kept: Mapping[str, float]
) -> Right:
    """Learn the rule from judged answers, and for each scorer the threshold that agrees best with them.

    `kept` are thresholds of scorers that are not at hand.
    """
    people = [answer.right for answer in answers]
    rule = fit_rule(
        [_match(answer) for answer in answers],
        people,
        fitted_on=fitted_on,
        most_options=MOST_OPTIONS,
        most_strays=MOST_STRAYS,
    )
    chosen = {name: best_threshold([scorer(a) for a in answers], people) for name, scorer in scorers.items()}
    return rule.model_copy(update={"thresholds": {**kept, **chosen}})


def best_threshold(scores: Sequence[float | None], people: Sequence[bool]) -> float:
    """Return the score from which on calling an answer right agrees most often with people; the least of several."""
    pairs = [(score, right) for score, right in zip(scores, people, strict=True) if score is not None]
    candidates = sorted({round(score, 3) for score, _ in pairs if score > 0} | {1.0})
    scores_n, right_n = np.array([s for s, _ in pairs]), np.array([r for _, r in pairs])
    return max(candidates, key=lambda candidate: (float(((scores_n >= candidate) == right_n).mean()), -candidate))


def fitting_part(answers: Sequence[JudgedAnswer]) -> tuple[list[JudgedAnswer], list[JudgedAnswer]]:
    """Split judged answers into those of the first `FIT_QUESTIONS` questions and the others."""
    return (
        [answer for answer in answers if answer.place < FIT_QUESTIONS],
        [answer for answer in answers if answer.place >= FIT_QUESTIONS],
    )


def agreement_table(
    answers: Sequence[JudgedAnswer], rule: Right, scorers: Mapping[str, Scorer], judge: Scorer | None = None
) -> list[Agreement]:
    """Return every scorer against people, for each system and over all; `right` first, a model as judge last."""
    verdicts: dict[str, Scorer] = {"right": lambda a: float(rule.accepts(_match(a)))}
    verdicts |= {name: _thresholded(scorer, rule.thresholds.get(name, 0.5)) for name, scorer in scorers.items()}
    if judge is not None:
        verdicts["judge"] = _thresholded(judge, 0.5)
    table = []
    for name, verdict in verdicts.items():
        given = {id(answer): verdict(answer) for answer in answers}
        for system, theirs in {ALL: list(answers), **by_system(answers)}.items():
            table.append(_agreement(name, system, theirs, [given[id(answer)] for answer in theirs]))
    return table


def accepted_lists(answers: Sequence[JudgedAnswer], rule: Right, scorers: Mapping[str, Scorer]) -> dict[str, float]:
    """Return the share of answers that list many options which each scorer would call right; 0 is best."""
    lists = option_lists(answers)
    if not lists:
        return {}
    accepted = {"right": [float(rule.accepts(_match(answer))) for answer in lists]}
    for name, scorer in scorers.items():
        verdict = _thresholded(scorer, rule.thresholds.get(name, 0.5))
        accepted[name] = [verdict(answer) or 0.0 for answer in lists]
    return {name: sum(given) / len(given) for name, given in accepted.items()}


def to_json(table: Sequence[Agreement]) -> list[dict[str, Any]]:
    """Return the table as plain values."""
    return [asdict(row) for row in table]


def agreement_and_kappa(counts_b4: Array) -> tuple[Array, Array]:
    """From counts of (both right, scorer alone, people alone, both wrong), `(b, 4)`, to both figures, `(b,)` each.

    Kappa is (observed - expected) / (1 - expected) agreement (Cohen 1960), 0 where chance alone explains everything.
    The trap: where nearly all answers are right it is low however good a scorer is.
    """
    n_b = counts_b4.sum(axis=1)
    observed_b = (counts_b4[:, 0] + counts_b4[:, 3]) / n_b
    scorer_b, people_b = (counts_b4[:, 0] + counts_b4[:, 1]) / n_b, (counts_b4[:, 0] + counts_b4[:, 2]) / n_b
    expected_b = scorer_b * people_b + (1 - scorer_b) * (1 - people_b)
    room_b = 1 - expected_b
    kappa_b = np.divide(observed_b - expected_b, room_b, out=np.zeros_like(room_b), where=room_b > 1e-12)
    return observed_b, kappa_b


def _match(answer: JudgedAnswer) -> Match:
    return match(answer.question, answer.answer, answer.gold)


def _thresholded(scorer: Scorer, threshold: float) -> Scorer:
    def verdict(answer: JudgedAnswer) -> float | None:
        score = scorer(answer)
        return None if score is None else float(round(score, 3) >= threshold)

    return verdict


def _agreement(name: str, system: str, answers: Sequence[JudgedAnswer], verdicts: Sequence[float | None]) -> Agreement:
    scored = [
        (answer, verdict == 1.0) for answer, verdict in zip(answers, verdicts, strict=True) if verdict is not None
    ]
    if not scored:
        return Agreement(name, system, None, None, None, None, None, None, 0, len(answers))
    counts_q4 = _counts(scored)
    observed, kappa = agreement_and_kappa(counts_q4.sum(axis=0, keepdims=True))
    random = np.random.default_rng(SEED)
    # Questions are drawn, each with the answers of all systems to it: those are not independent.
    draws_bq = random.multinomial(len(counts_q4), np.full(len(counts_q4), 1 / len(counts_q4)), size=RESAMPLES)
    observed_b, kappa_b = agreement_and_kappa(draws_bq @ counts_q4)
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    (low, high), (kappa_low, kappa_high) = np.quantile(observed_b, tails), np.quantile(kappa_b, tails)
    a, a_low, a_high, k, k_low, k_high = (
        round(float(figure), 4) for figure in (observed[0], low, high, kappa[0], kappa_low, kappa_high)
    )
    return Agreement(
        name, system, a, a_low, a_high, k, k_low, k_high, n=len(scored), unscored=len(answers) - len(scored)
    )


def _counts(scored: Sequence[tuple[JudgedAnswer, bool]]) -> Array:
    """Return `(questions, 4)` counts of (both right, scorer alone, people alone, both wrong)."""
    rows = {place: row for row, place in enumerate(dict.fromkeys(answer.place for answer, _ in scored))}
    counts_q4 = np.zeros((len(rows), 4))
    for answer, verdict in scored:
        counts_q4[rows[answer.place], 2 * (not verdict) + (not answer.right)] += 1
    return counts_q4
