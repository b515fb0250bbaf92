"""How far llama.cpp's logits move when the same prompt is read in other batches, or beside other sequences.

    python -m benchmarks.drift                      the reader and the 135M, three prompts of 200 tokens

Sums are taken in another order, and 8-bit activations round to a neighbour: the greedy answer may change where two
tokens are nearly as likely. The table shows the largest difference over all prompts, over the whole vocabulary and over
the 20 likeliest tokens, against reading the prompt alone in one batch.
"""

import argparse
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rag.build import model_store
from rag.config import load_settings
from rag.engine.context import Context, Part, TokenArray
from rag.engine.native import Model
from rag.protocols import FloatArray
from rag.tuning import Tuning

TEXT = Path(__file__).parent.parent / "docs" / "design.md"
LENGTH, PROMPTS, COMPANY, ELSEWHERE = 200, 3, 3, 700
TUNING = Tuning(batch=512)


class Way(NamedTuple):
    """A way to read a prompt: in pieces of so many tokens, beside so many other sequences, which are being answered."""

    piece: int = LENGTH
    company: int = 0


WAYS = [Way(), Way(100), Way(64), Way(37), Way(LENGTH - 1), Way(company=COMPANY), Way(64, COMPANY)]


def main() -> None:
    """Print the table of each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["qwen2.5-coder-0.5b-reader", "smollm2-135m-instruct"])
    store = model_store(load_settings(None))
    for name in parser.parse_args().models:
        with closing(Model(store.pull(name).file)) as model:
            tokens = np.array(model.vocabulary.tokens(TEXT.read_text(encoding="utf-8")), dtype=np.int32)
            print(f"{name}: {'pieces of':>10} {'beside':>7} {'largest':>8} {'of the best 20':>15}")
            for way in WAYS:
                moved = [_moved(model, tokens[start:], way) for start in range(0, PROMPTS * LENGTH, LENGTH)]
                largest, best = (max(column) for column in zip(*moved, strict=True))
                print(f"{'':{len(name) + 1}} {way.piece:>10} {way.company:>7} {largest:>8.3f} {best:>15.3f}")


def _moved(model: Model, tokens: TokenArray, way: Way) -> tuple[float, float]:
    alone, other = (_logits(model, tokens, how) for how in (Way(), way))
    difference = np.abs(alone - other)
    return float(difference.max()), float(difference[np.argsort(-alone)[:20]].max())


def _logits(model: Model, tokens: TokenArray, way: Way) -> FloatArray:
    """Return the logits `(v,)` after the prompt's last token."""
    with closing(Context(model, cells=4096, sequences=COMPANY + 1, tuning=TUNING)) as context:
        others: Sequence[int] = range(1, way.company + 1)
        for other in others:
            context.read([Part(other, 0, _elsewhere(tokens, other, 0, 100), 1)])
        for step, start in enumerate(range(0, LENGTH, way.piece)):
            piece = tokens[start : min(start + way.piece, LENGTH)]
            beside = [Part(other, 100 + step, _elsewhere(tokens, other, 100 + step, 1), 1) for other in others]
            context.read([Part(0, start, piece, 1), *beside])
        return context.logits(len(piece) - 1).copy()


def _elsewhere(tokens: TokenArray, other: int, start: int, length: int) -> TokenArray:
    begin = ELSEWHERE + other * LENGTH + start
    return tokens[begin : begin + length]


if __name__ == "__main__":
    main()
