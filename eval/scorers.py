"""Scorers of one answer's text: against right answers, and against the text that it cites. Each returns 0 to 1."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from eval.folding import content, fold, is_number
from rag.protocols import Embedder
from rag.text import normalize_answer

# Chosen on the first 200 questions of nq-recorded: the share at which right answers, given without documents, against
# their relevant passage (0.53 grounded) stand out most from wrong ones (0.13). On the other 200: 0.60 and 0.15, and
# 0.002 of the right answers against a passage about something else.
GROUNDED_SHARE = 0.4

# Embedding every alias of a gold answer costs more than it tells.
EMBEDDED_GOLD = 5

# Longest common subsequences take time by the product of the lengths.
_ROUGE_WORDS = 2_000

_CAPITALISED = re.compile(r"(?<![.!?:]\s)(?<!^)(?<![\w'’])[A-Z][\w'’-]*")


def exact_match(answer: str, gold: Sequence[str]) -> float:
    """1 where the normalised answer equals a normalised gold answer (Rajpurkar et al. 2016)."""
    return max(float(normalize_answer(answer) == normalize_answer(right)) for right in _comparable(gold))


def f1(answer: str, gold: Sequence[str]) -> float:
    """Harmonic mean of token precision and recall against the best gold answer, as SQuAD v2's script defines it.

    Where either side has no token after normalisation, the score is 1 if both have none, else 0.
    """

    def common(answer: Sequence[str], right: Sequence[str]) -> int:
        return sum((Counter(answer) & Counter(right)).values())

    tokens = normalize_answer(answer).split()
    return max(_harmonic(tokens, normalize_answer(right).split(), common) for right in _comparable(gold))


def contains(answer: str, gold: Sequence[str]) -> float:
    """1 where the tokens of a normalised gold answer stand in the normalised answer, whole and in a row.

    Lenient towards answers in a sentence, and for the same reason easy to please with a long one.
    """
    return max(float(_stands_in(right, answer)) for right in _comparable(gold))


def rouge_l(answer: str, gold: Sequence[str]) -> float:
    """ROUGE-L: F-measure of the longest common subsequence of normalised tokens, best gold answer (Lin 2004).

    Precision and recall weigh alike (beta = 1); no stemming. For answers of a sentence or more, where the order of
    the words should count and not only their number as in F1.
    """
    tokens = normalize_answer(answer).split()[:_ROUGE_WORDS]
    return max(
        _harmonic(tokens, normalize_answer(right).split()[:_ROUGE_WORDS], _longest_common)
        for right in _comparable(gold)
    )


def similarity(answer: str, gold: Sequence[str], embedder: Embedder) -> float:
    """Cosine similarity of answer and best gold answer by the embedder, negative ones as 0.

    The trap: nearly everything about the same subject is similar, the wrong year too.
    """
    vectors_nd = embedder.embed([answer, *gold[:EMBEDDED_GOLD]])
    return max(0.0, min(1.0, float((vectors_nd[1:] @ vectors_nd[0]).max())))


def grounded(question: str, answer: str, cited: Sequence[str]) -> float:
    """1 where the cited text supports the answer, by the words: it says that answer, or all that the answer is made of.

    The answer stands in a cited text after SQuAD's normalisation; or its numbers and names do, all of them, and at
    least the share `GROUNDED_SHARE` of its other content words. What the question says needs no support. The trap:
    this does not read; a text that denies the answer supports it.
    """
    if any(_stands_in(answer, text) for text in cited):
        return 1.0
    known = {word for text in cited for word in fold(text)}
    asked = set(fold(question))
    added = [word for word in content(fold(answer)) if word not in asked]
    names = set(fold(" ".join(_CAPITALISED.findall(answer)))) - asked
    if not added or any(word not in known for word in added if is_number(word) or word in names):
        return 0.0
    return float(sum(word in known for word in added) / len(added) >= GROUNDED_SHARE)


def _comparable(gold: Sequence[str]) -> Sequence[str]:
    """Gold answers that are something after normalisation; like the official script, [""] where none is."""
    return [right for right in gold if normalize_answer(right)] or [""]


def _stands_in(part: str, whole: str) -> bool:
    tokens = normalize_answer(part)
    return bool(tokens) and f" {tokens} " in f" {normalize_answer(whole)} "


def _harmonic(
    answer: Sequence[str], right: Sequence[str], common: Callable[[Sequence[str], Sequence[str]], int]
) -> float:
    if not answer or not right:
        return float(answer == right)
    shared = common(answer, right)
    if shared == 0:
        return 0.0
    precision, recall = shared / len(answer), shared / len(right)
    return 2 * precision * recall / (precision + recall)


def _longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, in one row of the usual table."""
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], diagonal + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]
