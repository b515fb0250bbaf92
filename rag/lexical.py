"""Lexical matching: how text becomes terms, and BM25 over them with bm25s."""

import errno
import math
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rag.errors import IndexDamaged
from rag.manifest import REBUILD_HINT
from rag.protocols import BoolArray, FloatArray
from rag.text import STOP_WORDS

# Changing terms or weights changes the index format: raise FORMAT_VERSION with it. A test pins both.
# Chosen on scifact-tune and squad2-tune (docs/lab.md); k1 and b are flat around these values on both.
_METHOD = "lucene"
_K1 = 1.2
_B = 0.75

# Chinese characters and Japanese kana are not divided by spaces: each is a word of its own.
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_IDEOGRAPHS}]|[^\\W{_IDEOGRAPHS}]+")
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
    idf(t) = ln(1 + (N - df + 0.5) / (df + 0.5)). Usable from several threads.
    """

    def __init__(self, model: Any, chunks: int) -> None:
        self._model = model
        self._chunks = chunks

    @classmethod
    def build(cls, texts: Iterable[str]) -> "LexicalIndex":
        """Index texts in row order."""
        import bm25s

        analyzer = Analyzer()
        vocabulary: dict[str, int] = {}
        rows = [[vocabulary.setdefault(t, len(vocabulary)) for t in analyzer.terms(text)] for text in texts]
        model = bm25s.BM25(method=_METHOD, k1=_K1, b=_B)
        if vocabulary:
            model.index((rows, vocabulary), create_empty_token=False, show_progress=False)
        else:
            # bm25s divides by the mean length: an index without terms is written down directly.
            none = {"data": np.empty(0, np.float32), "indices": np.empty(0, np.int32), "indptr": np.zeros(1, np.int64)}
            model.scores, model.vocab_dict, model.nonoccurrence_array = {**none, "num_docs": len(rows)}, {}, None
        return cls(model, len(rows))

    @classmethod
    def load(cls, folder: Path) -> "LexicalIndex":
        """Read files whose checksums have been verified."""
        import bm25s

        try:
            model = bm25s.BM25.load(folder, allow_pickle=False, show_progress=False)
            return cls(model, int(model.scores["num_docs"]))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise IndexDamaged(f"the index is damaged: {folder}: {error}", hint=REBUILD_HINT) from error

    def save(self, folder: Path) -> None:
        """Write the files of `LEXICAL_FILES`, without pickle. Raises `OSError`, a full disk included."""
        self._model.save(folder, allow_pickle=False, show_progress=False)
        try:
            # numpy reports success where the disk fills up in the last few kB of an array: read them back.
            LexicalIndex.load(folder)
        except IndexDamaged as error:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error

    def __len__(self) -> int:
        return self._chunks

    def scores(self, question: str, allowed_n: BoolArray | None = None) -> FloatArray:
        """Return the score of every chunk, `(n,)`, 0 where no term occurs.

        With a mask `(n,)` those are the scores among the chunks that it allows, N and df counted over them alone, and 0
        for the others: how often a term stands in what is hidden shows in no score. The mean length stays that of all.
        """
        vocabulary = self._model.vocab_dict
        terms = dict.fromkeys(Analyzer().terms(question))
        ids = [vocabulary[term] for term in terms if term in vocabulary]
        if not ids:
            return np.zeros(self._chunks, np.float32)
        if allowed_n is not None:
            return self._scores_among(ids, allowed_n)
        found: FloatArray = self._model.get_scores_from_ids(ids)
        return found

    def _scores_among(self, ids: list[int], allowed_n: BoolArray) -> FloatArray:
        """Return the scores `(n,)` for these terms among the allowed chunks: their weights with another idf."""
        matrix, chunks = self._model.scores, int(np.count_nonzero(allowed_n))
        found = np.zeros(self._chunks, np.float32)
        for term in ids:
            column = slice(matrix["indptr"][term], matrix["indptr"][term + 1])
            rows, weights = matrix["indices"][column], matrix["data"][column]
            allowed = allowed_n[rows]
            among = int(np.count_nonzero(allowed))
            found[rows[allowed]] += weights[allowed] * (_idf(chunks, among) / _idf(self._chunks, len(rows)))
        return found


def _idf(chunks: int, with_term: int) -> float:
    return math.log(1 + (chunks - with_term + 0.5) / (with_term + 0.5))


def _plain(text: str) -> str:
    """Lower case without accents; other marks, which are letters to their scripts, stay."""
    lower = text.lower()
    if lower.isascii():
        return lower
    return unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFKD", lower)))
