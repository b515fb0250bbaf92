"""Can an answer be trusted: was it right, and did the cited text say so? One of six outcomes per question."""

from enum import StrEnum


class Trust(StrEnum):
    """What became of a question.

    The names say the likely cause: a right answer that the cited text does not support was remembered, a wrong one
    that it does support was misread, a wrong one that it does not support was made up.
    """

    RIGHT_GROUNDED = "right_grounded"
    RIGHT_REMEMBERED = "right_remembered"
    WRONG_MISREAD = "wrong_misread"
    WRONG_MADE_UP = "wrong_made_up"
    ABSTAINED_RIGHTLY = "abstained_rightly"
    ABSTAINED_WRONGLY = "abstained_wrongly"


def trust_of(*, answerable: bool, answered: bool, abstained: bool, right: bool, grounded: bool) -> Trust:
    """Return the outcome of a question that a system was to answer.

    Any answer to an unanswerable question is wrong. A question that ended in an error, neither answered nor abstained
    from, counts as an abstention that nobody asked for.
    """
    if not answered:
        return Trust.ABSTAINED_RIGHTLY if abstained and not answerable else Trust.ABSTAINED_WRONGLY
    if answerable and right:
        return Trust.RIGHT_GROUNDED if grounded else Trust.RIGHT_REMEMBERED
    return Trust.WRONG_MISREAD if grounded else Trust.WRONG_MADE_UP


# Yang et al. 2024, "CRAG - Comprehensive RAG Benchmark": missing costs nothing, a hallucination as much as a right
# answer earns. There, too, "I don't know" is the right answer to a question that has none.
CRAG = {
    Trust.RIGHT_GROUNDED: 1.0,
    Trust.RIGHT_REMEMBERED: 1.0,
    Trust.ABSTAINED_RIGHTLY: 1.0,
    Trust.ABSTAINED_WRONGLY: 0.0,
    Trust.WRONG_MISREAD: -1.0,
    Trust.WRONG_MADE_UP: -1.0,
}
