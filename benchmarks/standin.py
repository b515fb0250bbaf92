"""Parts that stand in for the models, where a measurement is about the service around them: its contract, its limits.

    python -m benchmarks.standin FOLDER [--pace SECONDS]      the real server process over them

The rest is the real thing: index, retrieval, pipeline, keys, HTTP. Documents and answers are made by a seeded program.
"""

import argparse
import hashlib
import random
import re
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np

import rag.serve
from indexer.sync import build
from rag.abstain import Abstention, Signal
from rag.config import load_settings
from rag.datatypes import Chunk, Document, Message, Piece, PrefixCounters, Sampling, Span, Usage
from rag.errors import PromptTooLong
from rag.index import Index
from rag.labels import LabelRule
from rag.pipeline import RagPipeline
from rag.prompt import load_prompt
from rag.protocols import FloatArray
from rag.retrieve import FusedRetriever
from rag.serve import left, listed, seen
from rag.service import Service

CONTEXT = 4096
FOLDERS = ("open", "staff", "board")
RULES = (LabelRule(path="staff/**", labels=("staff",)), LabelRule(path="board/**", labels=("board",)))
_WORDS = "ferry harbour lighthouse council crowns salt wool sheep dairy slip gale keeper lamp stone bell tide".split()
_SENTENCE = re.compile(r"(?<=[.:])\s+")


class WordEmbedder:
    """Counts words into 64 dimensions, by hash: texts that share words are near. Deterministic; keeps nothing."""

    name = "words"
    fingerprint = "words-64"
    dimension = 64

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return `(n, 64)`, each row of length 1."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()) or ["-"]:
                vectors[row, hashlib.sha256(word.encode()).digest()[0] % self.dimension] += 1
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    def count(self, text: str) -> int:
        """Return the number of words."""
        return len(text.split())


class StandIn:
    """A language model that quotes: the sentence before the question, or the last one there is, word by word.

    `pace` seconds go by before the first word and with every further one.
    """

    restarts = 0

    def __init__(self, pace: float = 0.0, context: int = CONTEXT) -> None:
        self._pace = pace
        self._context = context

    def count(self, text: str) -> int:
        """Return the number of words."""
        return len(text.split())

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        """Quote. Raises `PromptTooLong` past the context, in words."""
        read = sum(self.count(message.content) for message in messages)
        if read + sampling.max_tokens > self._context:
            raise PromptTooLong(f"{read} tokens and an answer of {sampling.max_tokens} do not fit {self._context}")
        yield Piece("", usage=Usage(read, 0, 0))
        sentences = [s for s in _SENTENCE.split(messages[-1].content.strip()) if s.endswith(".")]
        words = re.findall(r"\s*\S+", (sentences or ["Nothing."])[-1])
        told = words[: sampling.max_tokens]
        for word in told:
            time.sleep(self._pace)
            yield Piece(word, -0.1, 1)
        cut = len(words) > len(told)
        yield Piece("", finish_reason="length" if cut else "stop", usage=Usage(read, 0, len(told)))

    def prefixes(self) -> PrefixCounters:
        """Return that nothing is kept."""
        return PrefixCounters()

    def close(self) -> None:
        """Release nothing."""


class WholeChunker:
    """One chunk a document."""

    tokens = CONTEXT
    overlap = 0
    fingerprint = "whole"

    def chunk(self, document: Document) -> list[Chunk]:
        """Return the document as its only chunk."""
        span = Span(0, len(document.text))
        metadata = {**document.metadata, "title": document.title, "uri": document.uri}
        return [Chunk(f"{document.id}#0", document.id, document.text, span, metadata)]


def make_documents(count: int, seed: int = 7) -> list[Document]:
    """Return documents about nothing, of every folder in turn; each holds its folder's secret word and its number."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        folder = FOLDERS[number % len(FOLDERS)]
        about = " and the ".join(draw.sample(_WORDS, 4))
        text = f"The {folder}secret of the {about} is number {number}. It was told in {1900 + number % 120}."
        metadata = {"format": ("markdown", "pdf")[number % 2], "date": f"20{number % 25:02d}-0{1 + number % 9}-11"}
        made.append(
            Document(f"{folder}/{number:04d}.md", f"file:///{folder}/{number}", f"Paper {number}", text, metadata)
        )
    return made


def build_index(folder: Path, count: int = 60, seed: int = 7) -> Path:
    """Index such documents with the stand-in embedder; return the index's directory."""
    build(folder, make_documents(count, seed), embedder=WordEmbedder(), chunker=WholeChunker(), labels=RULES)
    return folder


def load_service(index: Index, context: int = CONTEXT) -> Service:
    """Return what a server serves, without any model, over an open index of `build_index`."""
    reader, embedder, documents = StandIn(context=context), WordEmbedder(), listed(index)
    return Service(
        RagPipeline(
            generator=reader,
            counter=reader,
            prompt=load_prompt("extractive"),
            retriever=FusedRetriever(index, embedder, candidates=100),
            # Sure of what shares words with a question and unsure of the rest, so that both ends are met.
            abstention=Abstention(
                fitted_on="hand", threshold=0.5, intercept=-2.0, signals={"cosine": Signal(weight=5.0, best=1.0)}
            ),
            max_tokens=96,
        ),
        embedder,
        embedder,
        "standin",
        embedder.name,
        lambda view: left(documents, index, view),
        document=index.document,
        index=lambda view: seen(index, view),
    )


def main() -> None:
    """Run the real server process with the stand-ins in the places where it builds its models."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.standin", description=__doc__)
    parser.add_argument("index", type=Path, help="an index of `build_index`")
    parser.add_argument("--pace", type=float, default=0.0, help="seconds a word")
    parser.add_argument("--host", default="127.0.0.1")
    args = parser.parse_args()
    rag.serve.build_embedder = lambda *_: WordEmbedder()  # type: ignore[assignment, attr-defined]
    rag.serve.build_served_generator = lambda *_: StandIn(args.pace)  # type: ignore[assignment, attr-defined]
    flags = {"server": {"port": 0, "host": args.host}, "index": {"dir": args.index}, "answer": {"long": "never"}}
    rag.serve.run_server(load_settings(flags=flags))


if __name__ == "__main__":
    main()
