"""An index that `benchmarks.faults` and the tests disturb, and the judge of what is left of it."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.standin import WordEmbedder
from indexer.merge import MergePolicy
from indexer.sync import build
from rag.datatypes import Chunk, Document, Span
from rag.index import Index

SHOWN = 20  # of what was wrong

# Segments of one document each, until there are four of a kind: a run of few documents publishes, merges and removes.
FINE = MergePolicy(small=0, factor=4, share=0.5)
OLD = {f"d{n}": f"line {n} alpha\nbeta {n}\ngamma" for n in range(8)}
NEW = {**{name: text for name, text in OLD.items() if name not in {"d1", "d5"}}, "d2": "omega\nrye", "e": "mill\nweir"}


class LineChunker:
    """Every line is a chunk; an empty text has none."""

    tokens = 100
    overlap = 0
    fingerprint = "lines"

    def chunk(self, document: Document) -> list[Chunk]:
        """Return the lines of a document."""
        chunks, start = [], 0
        for number, line in enumerate(document.text.splitlines()):
            span = Span(start, start + len(line))
            chunks.append(Chunk(f"{document.id}#{number}", document.id, line, span, {"title": document.title}))
            start = span.end + 1
        return chunks


@dataclass
class Tally:
    """What became of the cases of one part, and what was not as it must be."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    checks: dict[str, bool] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        """Return it as plain values."""
        checks = {"nothing was wrong": not self.wrong, "something was tried": self.counts.total() > 0, **self.checks}
        return {"counts": dict(self.counts), "wrong": self.wrong[:SHOWN], "wrongs": len(self.wrong), "checks": checks}


def make(directory: Path, texts: Mapping[str, str]) -> None:
    """Bring an index to these texts."""
    documents = [Document(id_, f"file:///{id_}", id_, text) for id_, text in texts.items()]
    build(directory, documents, embedder=WordEmbedder(), chunker=LineChunker(), policy=FINE)


def state(directory: Path) -> object:
    """All that an index answers: texts, and the scores of some questions. Raises what opening it raises."""
    with Index.open(directory) as index:
        texts = {entry.id: index.document(entry.id).text for entry in index.documents()}
        chunks = [chunk.text for chunk in index.store.all_chunks()]
        questions = ("alpha beta", "omega", "line 3")
        lexical = [np.round(index.lexical.scores(question), 5).tolist() for question in questions]
        queries = WordEmbedder().embed(questions)
        dense = [np.round(index.vectors.rows(range(len(chunks))) @ query_d, 5).tolist() for query_d in queries]
        order = [index.vectors.search(query_d, 5)[1].tolist() for query_d in queries]
    return json.loads(json.dumps([texts, chunks, lexical, dense, order]))


class Stage:
    """An index of several segments with deletions, and what it answers before (0) and after (1) a run over `NEW`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = folder / "base"
        for count in (3, 4, 5, 7, 8):
            make(self.base, dict([*OLD.items()][:count]))
        shutil.copytree(self.base, folder / "after")
        make(folder / "after", NEW)
        self.outcomes = (state(self.base), state(folder / "after"))
        assert self.outcomes[0] != self.outcomes[1]

    @contextmanager
    def copy(self) -> Iterator[Path]:
        """Give a copy of the index before the run; it is removed in the end."""
        directory = self.folder / "copy"
        shutil.copytree(self.base, directory)
        try:
            yield directory
        finally:
            shutil.rmtree(directory)

    def judge(self, directory: Path, case: str, tally: Tally, *, acknowledged: bool = False) -> int | None:
        """Count which state a disturbed run has left, and see that the next run ends in the new one."""
        try:
            found = which_state(state(directory), self.outcomes)
            make(directory, NEW)
            mended = which_state(state(directory), self.outcomes)
        except Exception as error:  # whatever it is, it is a finding
            tally.wrong.append(f"{case}: {type(error).__name__}: {error}")
            return None
        tally.counts["neither" if found is None else ("old state", "new state")[found]] += 1
        if found is None:
            tally.wrong.append(f"{case}: neither the old nor the new state")
        elif acknowledged and found == 0:
            tally.wrong.append(f"{case}: what was acknowledged is lost")
        elif mended != 1:
            tally.wrong.append(f"{case}: the next run did not end in the new state")
        return found


def which_state(found: object, outcomes: Sequence[object]) -> int | None:
    return outcomes.index(found) if found in outcomes else None
