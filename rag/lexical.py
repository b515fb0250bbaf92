"""Lexical matching: how text becomes terms, and BM25 over them, alike however many segments hold them."""

import math
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from rag.postings import Counts, Postings
from rag.protocols import BoolArray, FloatArray
from rag.rows import Rows
from rag.text import IDEOGRAPHS, STOP_WORDS

# Changing terms or weights changes the index format: raise FORMAT_VERSION with it. A test pins both.
# Chosen on scifact-tune and squad2-tune (docs/lab.md); k1 and b are flat around these values on both.
_K1 = 1.2
_B = 0.75

# Of a question. More than any that people ask have: those of 20 sentences.
_MOST_TERMS = 256

_WORD = re.compile(f"[{IDEOGRAPHS}]|[^\\W{IDEOGRAPHS}]+")
_ACCENTS = re.compile("[\u0300-\u036f]")


class Analyzer:
    """Text to terms, the same at indexing and at asking: words in lower case without accents, without stop words
    (which include those that make a question of a sentence), as English Snowball stems. For one thread at a time.
    """

    def __init__(self) -> None:
        self._stems = _Stems()

    def terms(self, text: str) -> list[str]:
        """Return the terms of a text in order, repeated as they occur."""
        return list(filter(None, map(self._stems.__getitem__, _WORD.findall(_plain(text)))))


class _Stems(dict[str, str]):
    """The stem of every word that was asked for, empty for stop words."""

    def __init__(self) -> None:
        import Stemmer

        super().__init__(dict.fromkeys(STOP_WORDS, ""))
        self._stem = Stemmer.Stemmer("english", 0).stemWord  # 0: no cache of its own beside this one

    def __missing__(self, word: str) -> str:
        stem: str = self._stem(word)
        self[word] = stem
        return stem


class LexicalIndex:
    """BM25 scores of every chunk for a question, in Lucene's form (Kamphuis et al. 2020, "Which BM25 Do You Mean?").

    score(q, c) = sum over the distinct terms t of q: idf(t) * tf / (tf + k1 * (1 - b + b * |c| / mean |c|)),
    idf(t) = ln(1 + (N - df + 0.5) / (df + 0.5)). N, df and the mean are those of the live chunks of all segments, so
    that a score does not depend on how they are spread. Of more than 256 terms the rarest count. Usable from several
    threads.
    """

    def __init__(self, segments: Sequence[Postings], rows: Rows) -> None:
        self._segments = segments
        self._rows = rows
        terms = sum(int(_live(rows, i, part.lengths).sum(dtype=np.int64)) for i, part in enumerate(segments))
        per_term = _K1 * _B * len(rows) / terms if terms else 0.0
        self._norms = [(_K1 * (1 - _B) + per_term * part.lengths).astype(np.float32) for part in segments]

    def __len__(self) -> int:
        return len(self._rows)

    def scores(self, question: str, allowed_n: BoolArray | None = None) -> FloatArray:
        """Return the score of every chunk, `(n,)`, 0 where no term occurs.

        With a mask `(n,)` those are the scores among the chunks that it allows, N and df counted over them alone, and 0
        for the others: how often a term stands in what is hidden shows in no score. The mean length stays that of all.
        """
        terms = list(dict.fromkeys(Analyzer().terms(question)))
        found = [[part.of(term) for part in self._segments] for term in terms]
        chunks = len(self) if allowed_n is None else int(np.count_nonzero(allowed_n))
        allowed = [self._rows.spread(i, allowed_n) for i in range(len(self._segments))]
        dfs = [_df([rows for rows, _ in parts], allowed) for parts in found]
        weighed = [(found[at], math.log1p((chunks - dfs[at] + 0.5) / (dfs[at] + 0.5))) for at in _rarest(dfs)]
        scores = [
            self._segment_scores(i, [(*parts[i], weight) for parts, weight in weighed])
            for i in range(len(self._segments))
        ]
        all_scores = np.concatenate(scores) if scores else np.zeros(0, np.float32)
        return all_scores if allowed_n is None else np.where(allowed_n, all_scores, np.float32(0))

    def _segment_scores(self, segment: int, terms: Sequence[tuple[Counts, Counts, float]]) -> FloatArray:
        norms = self._norms[segment]
        scores = np.zeros(len(norms), np.float32)
        for rows, counts, weight in terms:
            # The same as scores[rows] += weight * tf / (tf + norms[rows]), in half the time.
            places = rows.astype(np.intp)
            tf = counts.astype(np.float32)
            shares = norms.take(places)
            shares += tf
            np.divide(tf, shares, out=shares)
            shares *= np.float32(weight)
            np.add.at(scores, places, shares)
        return self._rows.without_deleted(segment, scores)


def _rarest(dfs: Sequence[int]) -> list[int]:
    """Return which terms count, by how many chunks hold each: all, or of more than `_MOST_TERMS` the rarest that occur.

    A text that somebody pastes as a question has thousands of terms, and most of the time goes to those that stand
    nearly everywhere and decide nothing.
    """
    if len(dfs) <= _MOST_TERMS:
        return list(range(len(dfs)))
    known = [at for at, df in enumerate(dfs) if df]
    return sorted(sorted(known, key=dfs.__getitem__)[:_MOST_TERMS])


def _df(rows: Sequence[Counts], allowed: Sequence[BoolArray | None]) -> int:
    """How many chunks hold a term, from the rows of each segment that do and those that count."""
    return sum(len(r) if m is None else int(np.count_nonzero(m[r])) for r, m in zip(rows, allowed, strict=True))


def _live(rows: Rows, segment: int, values: Counts) -> Counts:
    mask = rows.live(segment)
    return values if mask is None else values[mask]


def _plain(text: str) -> str:
    """Lower case without accents; other marks, which are letters to their scripts, stay."""
    lower = text.lower()
    if lower.isascii():
        return lower
    return unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFKD", lower)))
