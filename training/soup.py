"""Several adapters as one: their average, or a weighted sum, as few ranks as wanted.

    python -m training.soup first.gguf second.gguf --out average.gguf
    python -m training.soup average.gguf beyond.gguf --weights 1 0.5 --rank 16 --out configs/adapters/reader-0.5b.gguf

Averaging the weights of models that were taught apart from one start often reads better than each of them, at the cost
of one ("Model soups", Wortsman et al. 2022). What is summed here is what is added to the base's matrices: the thin
matrices stand side by side, so that the rank of the sum is the sum of theirs; `--rank` keeps the largest singular
values of each sum. An adapter that was learnt beyond another (`training.reader --beyond`) is added to it with a weight
of how far to go ("Editing models with task arithmetic", Ilharco et al. 2023).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rag.adapter import read_pairs
from rag.protocols import FloatArray
from training.lora import write_adapter


def main() -> None:
    """Write the sum of the adapters named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", nargs="+", type=Path, metavar="ADAPTER")
    parser.add_argument("--weights", nargs="+", type=float, help="one for each adapter; without them the average")
    parser.add_argument("--rank", type=int, help="the rank of what is written; without it the sum of theirs")
    parser.add_argument("--out", type=Path, required=True, help="the adapter to write")
    options = parser.parse_args()
    weights = options.weights or [1 / len(options.adapters)] * len(options.adapters)
    if len(weights) != len(options.adapters):
        parser.error("there must be as many weights as adapters")
    combine(options.adapters, weights, options.out, rank=options.rank)


def combine(adapters: Sequence[Path], weights: Sequence[float], out: Path, *, rank: int | None = None) -> None:
    """Write the weighted sum of adapters, each zero where it has no such matrix. Raises `ModelDamaged`."""
    learnt = [read_pairs(adapter) for adapter in adapters]
    halves = {}
    for matrix in {name: None for pairs in learnt for name in pairs}:
        taught = [(pairs[matrix], weight) for pairs, weight in zip(learnt, weights, strict=True) if matrix in pairs]
        a_rd = np.concatenate([pair.a_rd for pair, _ in taught])
        b_or = np.concatenate([pair.b_or * np.float32(pair.scale * weight) for pair, weight in taught], axis=1)
        halves[matrix] = (a_rd, b_or) if rank is None else thinner(a_rd, b_or, rank)
    ranks = {len(a_rd) for a_rd, _ in halves.values()}
    if len(ranks) > 1:
        raise SystemExit("the adapters have different matrices: give the --rank of the sum")
    write_adapter(out, "smallhold reader 0.5B", alpha=ranks.pop(), halves=halves)


def thinner(a_rd: FloatArray, b_or: FloatArray, rank: int) -> tuple[FloatArray, FloatArray]:
    """Return A and B of at most `rank` whose product is nearest to B A (Eckart and Young 1936)."""
    q_or, upper_b = np.linalg.qr(b_or)
    q_dr, upper_a = np.linalg.qr(a_rd.T)
    left, sizes, right = np.linalg.svd(upper_b @ upper_a.T)
    roots = np.sqrt(sizes[:rank]).astype(np.float32)
    b = (q_or @ left[:, :rank] * roots).astype(np.float32)
    a = (roots[:, None] * (right[:rank] @ q_dr.T)).astype(np.float32)
    return a, b


if __name__ == "__main__":
    main()
