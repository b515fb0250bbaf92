"""Lexical matching: how text becomes terms, and BM25 over them with bm25s."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rag.errors import IndexDamaged
from rag.manifest import LEXICAL_FILES, REBUILD_HINT
from rag.protocols import FloatArray

# Changing anything about terms or weights below changes the index format: raise FORMAT_VERSION with it.
_WORD = re.compile(r"\w+")
_STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "but",
        "by",
        "for",
        "if",
        "in",
        "into",
        "is",
        "it",
        "no",
        "not",
        "of",
        "on",
        "or",
        "such",
        "that",
        "the",
        "their",
        "then",
        "there",
        "these",
        "they",
        "this",
        "to",
        "was",
        "will",
        "with",
    ]
)
_METHOD = "lucene"
_K1 = 1.2
_B = 0.75


class Analyzer:
    """Text to terms, the same at indexing and at asking: lower-case words, no stop words, English Snowball stems.

    Keeps the stem of every word it has seen; not for several threads at once.
    """

    def __init__(self) -> None:
        import Stemmer

        # PyStemmer's own cache is off: the dictionary below is faster, and this object is thread-safe without it.
        self._stem = Stemmer.Stemmer("english", 0).stemWord
        self._terms: dict[str, str] = dict.fromkeys(_STOP_WORDS, "")

    def terms(self, text: str) -> list[str]:
        """Return the terms of a text in order, repeated as they occur."""
        known = self._terms
        found = []
        for word in _WORD.findall(text.lower()):
            term = known.get(word)
            if term is None:
                term = known[word] = self._stem(word)
            if term:
                found.append(term)
        return found


class LexicalIndex:
    """BM25 scores of every chunk for a question (Robertson et al. 1994, in Lucene's form).

    score(q, c) = sum over terms t of q: idf(t) * tf / (tf + k1 * (1 - b + b * |c| / avg|c|)),
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
        """Write the files of `LEXICAL_FILES`, without pickle. Raises `OSError`."""
        self._model.save(folder, allow_pickle=False, show_progress=False)
        assert {path.name for path in folder.iterdir()} == set(LEXICAL_FILES)

    def __len__(self) -> int:
        return self._chunks

    def scores(self, question: str) -> FloatArray:
        """Return the score of every chunk, `(n,)`, 0 where no term occurs."""
        vocabulary = self._model.vocab_dict
        ids = [vocabulary[term] for term in Analyzer().terms(question) if term in vocabulary]
        if not ids:
            return np.zeros(self._chunks, np.float32)
        found: FloatArray = self._model.get_scores_from_ids(ids)
        return found
