"""Scorers of one answer's text, by hand. Those of SQuAD are in test_eval_metrics.py."""

from collections.abc import Sequence

import numpy as np
import pytest

from eval.scorers import grounded, rouge_l, similarity
from rag.protocols import FloatArray

TEXT = "The tide mill at Norrin was built in 1652 by Ada Lark and burnt down twice."


class LengthEmbedder:
    """Unit vectors at an angle of 30 degrees a letter."""

    def embed(self, texts: Sequence[str]) -> FloatArray:
        angles = np.array([len(text) * np.pi / 6 for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_rouge_l_by_hand() -> None:
    # "police killed gunman" against "police kill gunman": LCS 2 of 3 and 3.
    assert rouge_l("police kill the gunman", ["police killed the gunman"]) == pytest.approx(2 / 3)
    # The order counts: of "gunman police" only one word is in order. P = 1/2, R = 1/3.
    assert rouge_l("gunman police", ["police killed gunman"]) == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    # A subsequence may have gaps.
    assert rouge_l("red big blue", ["red blue"]) == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))
    assert rouge_l("", ["red"]) == rouge_l("blue", ["red"]) == 0.0
    assert rouge_l("red", ["blue", "the red"]) == 1.0


def test_similarity_is_the_cosine_with_the_best_gold_answer() -> None:
    embedder = LengthEmbedder()
    assert similarity("ab", ["abc", "abcd"], embedder) == pytest.approx(np.cos(np.pi / 6))
    assert similarity("a", ["abcdefg"], embedder) == 0.0  # 180 degrees: -1, told as 0


@pytest.mark.parametrize(
    ("question", "answer", "support"),
    [
        ("Who built it?", "the Ada Lark!", 1.0),  # stands there but for case, article and punctuation
        ("When was the tide mill built?", "The tide mill was built in the year 1652.", 1.0),
        ("When was the tide mill built?", "The tide mill was built in 1653.", 0.0),  # a number that is not there
        ("Who built it?", "It was built by old Bea Lark.", 0.0),  # a name that is not there
        ("What happened?", "It burnt down", 1.0),
        ("What happened?", "It flooded wholly, sadly", 0.0),  # none of three content words
        ("What happened?", "", 0.0),
        ("Was the mill built?", "The mill was built", 0.0),  # says nothing that could be supported
    ],
)
def test_grounded_in_the_cited_text(question: str, answer: str, support: float) -> None:
    assert grounded(question, answer, ["Elsewhere.", TEXT]) == support
    assert grounded(question, answer, []) == 0.0
