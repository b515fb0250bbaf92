"""The average of several adapters: what they agree on stays, what each learnt by chance is halved.

    python -m training.soup first.gguf second.gguf --out configs/adapters/reader-0.5b.gguf

Averaging the weights of models that were taught apart from one start often reads better than each of them, at the cost
of one ("Model soups", Wortsman et al. 2022). What is averaged here is what is added to the base's matrices: the thin
matrices stand side by side, so that the rank of the average is the sum of theirs.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rag.adapter import read_pairs
from training.lora import write_adapter


def main() -> None:
    """Write the average of the adapters named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", nargs="+", type=Path, metavar="ADAPTER")
    parser.add_argument("--out", type=Path, required=True, help="the adapter to write")
    options = parser.parse_args()
    average(options.adapters, options.out)


def average(adapters: Sequence[Path], out: Path) -> None:
    """Write the average of adapters to the same matrices. Raises `ModelDamaged` where a file is no adapter."""
    learnt = [read_pairs(adapter) for adapter in adapters]
    halves = {}
    for matrix in learnt[0]:
        pairs = [pairs[matrix] for pairs in learnt]
        a_rd = np.concatenate([pair.a_rd for pair in pairs])
        b_or = np.concatenate([pair.b_or * np.float32(pair.scale / len(pairs)) for pair in pairs], axis=1)
        halves[matrix] = a_rd, b_or
    rank = len(next(iter(halves.values()))[0])
    write_adapter(out, "smallhold reader 0.5B", alpha=rank, halves=halves)


if __name__ == "__main__":
    main()
