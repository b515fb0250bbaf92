"""How fast a prompt is read, by llama.cpp and in int8, side by side.

    python -m benchmarks.prefill                             the model of the settings; 8 to 512 tokens
    python -m benchmarks.prefill --model NAME --tokens 64 240 --runs 9 --out FILE

Both read the same tokens into an empty context, in turns, beginning with the other one each time. Beside the seconds:
how far keys and values are from llama.cpp's, as the length of the difference over the length of llama.cpp's.
"""

import argparse
import json
import statistics
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.engine.ours import find_weights
from eval.machine import describe_machine
from rag.config import load_settings
from rag.console import out
from rag.engine.context import Context, Part, TokenArray
from rag.engine.layout import StateLayout, distance
from rag.engine.native import Model
from rag.engine.prefill import open_prefill

ROOT = Path(__file__).resolve().parent.parent
TEXT = ROOT / "README.md"


def main() -> None:
    """Print the table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a generator of the registry or a GGUF file; the settings decide if unset")
    parser.add_argument("--tokens", nargs="+", type=int, default=[8, 16, 32, 64, 128, 256, 512], metavar="N")
    parser.add_argument("--runs", type=int, default=5, help="of each (%(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "prefill.json")
    args = parser.parse_args()
    weights = find_weights(load_settings(None, {"generator": {"model": args.model}} if args.model else {}))
    model = Model(weights.path, extra_buffers=weights.repacked)
    prefill = open_prefill(weights.path)
    most = max(args.tokens)
    tokens_n = np.array(model.vocabulary.tokens(TEXT.read_text(encoding="utf-8"))[:most], np.int32)
    rows = []
    with (
        closing(Context(model, cells=most, sequences=1)) as plain,
        closing(Context(model, cells=most, sequences=1, prefill=prefill)) as fast,
        suppress(KeyboardInterrupt),
    ):
        layout = StateLayout(b"", prefill.layers, prefill.width)
        for count in args.tokens:
            rows.append(measure({"llama.cpp": plain, "int8": fast}, layout, tokens_n[:count], args.runs))
    model.close()
    show(rows)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"machine": describe_machine(), "model": weights.path.name, "rows": rows}, indent=1))


def measure(contexts: dict[str, Context], layout: StateLayout, tokens_n: TokenArray, runs: int) -> dict[str, float]:
    """Return medians with the least and the most in seconds, and the distance of keys and values."""
    times: dict[str, list[float]] = {name: [] for name in contexts}
    for run in range(-1, runs):  # the first one warms up
        for name in list(contexts)[:: -1 if run % 2 else 1]:
            contexts[name].clear()
            began = time.perf_counter()
            contexts[name].read([Part(0, 0, tokens_n, 0)])
            contexts[name].save(0)  # llama.cpp computes in the background until it is asked
            if run >= 0:
                times[name].append(time.perf_counter() - began)
    plain, fast = (layout.unpack(context.save(0)) for context in contexts.values())
    keys, values = distance(fast, plain)
    found = {"tokens": len(tokens_n), "keys": keys, "values": values}
    for name, taken in times.items():
        found |= {f"{name} median": statistics.median(taken), f"{name} least": min(taken), f"{name} most": max(taken)}
    return found


def show(rows: list[dict[str, float]]) -> None:
    """Print the table."""
    table = Table(
        "tokens", "llama.cpp, s", "int8, s", "times as fast", "tokens/s in int8", "keys off by", "values off by"
    )
    for row in rows:
        cells = [
            f"{row[f'{name} median']:.3f} ({row[f'{name} least']:.3f} to {row[f'{name} most']:.3f})"
            for name in ("llama.cpp", "int8")
        ]
        faster = row["llama.cpp median"] / row["int8 median"]
        pace = row["tokens"] / row["int8 median"]
        distances = [f"{row[name]:.3f}" for name in ("keys", "values")]
        table.add_row(str(row["tokens"]), *cells, f"{faster:.2f}", f"{pace:.0f}", *distances)
    out.print(table)


if __name__ == "__main__":
    main()
