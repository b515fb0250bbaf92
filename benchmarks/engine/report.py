"""What is shown and kept: the tables, and `engine.json`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from benchmarks.engine.journal import BARE, MACHINE, OURS, PEERS, Journal, Spread
from benchmarks.engine.ratios import FURTHER, RATIOS, Ratio
from eval.files import write_text
from rag.console import out

# What the widest table takes; a narrower terminal breaks its lines rather than its cells.
WIDTH = 150
SYSTEMS = (OURS, *PEERS, BARE)


class Row(NamedTuple):
    """How a figure is shown: divided by `unit`, with so many digits."""

    figure: str
    label: str
    unit: float = 1.0
    digits: int = 2


ROWS = (
    Row("ttft_seen", "first token, passage read before (s)", digits=3),
    Row("ttft_seen_order", "  same three, same order, other question (s)", digits=3),
    Row("ttft_seen_prompt", "  the very same prompt (s)", digits=3),
    Row("ttft_cold", "first token, never seen (s)", digits=3),
    Row("prompt_tokens_cold", "  its prompt (tokens)", digits=0),
    Row("answers_per_minute", "answers a minute, one client"),
    Row("f1", "  their F1", digits=3),
    Row("answers_per_minute_warm", "  passages read beforehand"),
    Row("f1_warm", "  their F1", digits=3),
    Row("tokens_per_second_8", "tokens a second, eight clients", digits=1),
    Row("tokens_per_answer_8", "  tokens of an answer", digits=1),
    Row("ttft_p95_8", "  95th percentile to first token (s)"),
    Row("prefill_tokens_per_second", "reading, one stream (tokens/s)", digits=1),
    Row("decode_tokens_per_second", "writing, one stream (tokens/s)", digits=1),
    Row("seconds_per_token", "  a token (ms)", 1e-3, 2),
    Row("empty_round_trip", "HTTP, an empty round trip (ms)", 1e-3, 2),
)

LIMITS = (
    Row("bandwidth_read", "memory bandwidth, read (GB/s)", 1e9, 1),
    Row("bandwidth_copy", "memory bandwidth, copy (GB/s)", 1e9, 1),
    Row("bandwidth_scale", "memory bandwidth, scale (GB/s)", 1e9, 1),
    Row("gemm_float32", "matrix product, float32 (GFLOP/s)", 1e9, 0),
    Row("gemm_bfloat16", "matrix product, bfloat16 (GFLOP/s)", 1e9, 0),
    Row("gemm_int8", "matrix product, int8 (GOP/s)", 1e9, 0),
    Row("bytes_per_token", "weights read for a written token (MB)", 1e6, 0),
    Row("prompt_matrices", "weights that a prompt token passes (M)", 1e6, 0),
)


def show(journal: Journal, notes: Sequence[str], soaked: dict[str, Any] | None) -> None:
    """Print the tables: figures by system, the machine's limits, the ratios, and what must be said beside them."""
    tables = []
    if journal.figures():
        figures = _figures(journal, ROWS, SYSTEMS, "medians (quartiles)")
        tables = [figures, _figures(journal, LIMITS, (MACHINE,), "limits"), _ratios(journal)]
    if soaked is not None:
        tables.append(_soak(soaked))
    for table in tables:
        out.print(table, width=max(WIDTH, out.width))
    for note in notes:
        out.print(f"note: {note}", markup=False)


def _figures(journal: Journal, rows: Sequence[Row], systems: Sequence[str], title: str) -> Table:
    shown = [name for name in systems if any(sample.system == name for sample in journal.samples)]
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for name in shown:
        table.add_column(name, justify="right")
    for row in rows:
        cells = [_cell(row, journal, name) for name in shown]
        if any(cells):
            table.add_row(row.label, *cells)
    return table


def _cell(row: Row, journal: Journal, system: str) -> str:
    if row.figure == "f1":  # a score of single answers is 0 or 1 mostly: its mean says more than its median
        mean = journal.mean("f1", system)
        return "" if mean is None else f"{mean:.{row.digits}f}"
    found = journal.spread(row.figure, system)
    if found is None:
        return ""
    median, low, high = (f"{value / row.unit:.{row.digits}f}" for value in found[:3])
    return median if low == high else f"{median} ({low} to {high})"


def _ratios(journal: Journal) -> Table:
    table = Table(title="ratios", title_justify="left", box=None, pad_edge=False)
    for column in ("", "what", "measured", "wanted", ""):
        table.add_column(column, justify="right" if column in {"measured", "wanted"} else "left")
    for ratio in (*RATIOS, *FURTHER):
        value = ratio.compute(journal)
        reached = {True: "[green]reached[/]", False: "[red]missed[/]", None: ""}[ratio.reached(value)]
        wanted = "" if ratio.bound is None else f"{ratio.side} {ratio.bound:g}"
        table.add_row(ratio.name, ratio.about, "not measured" if value is None else f"{value:.3f}", wanted, reached)
    return table


def _soak(soaked: dict[str, Any]) -> Table:
    table = Table(title="soak", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in soaked.items():
        if name != "apart":
            table.add_row(name.replace("_", " "), f"{value:.3f}" if isinstance(value, float) else f"{value}")
    for case in soaked["apart"]:
        table.add_row(f"{case['end']}: prompt {case['prompt']}, token {case['at']}", f"{case['lead']}")
    return table


def write(path: Path, journal: Journal, head: dict[str, Any], soaked: dict[str, Any] | None) -> None:
    """Write everything as JSON, whole or not at all: `machine` and the like from `head`, `runs`, `ratios`."""
    content = {
        **head,
        "ratios": _values(journal, RATIOS),
        "further": _values(journal, FURTHER),
        "wanted": {r.name: f"{r.side} {r.bound:g}" for r in (*RATIOS, *FURTHER) if r.bound is not None},
        "figures": _summary(journal),
        "soak": soaked,
        "runs": journal.runs(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1) + "\n")


def _values(journal: Journal, ratios: Sequence[Ratio]) -> dict[str, float | None]:
    return {ratio.name: ratio.compute(journal) for ratio in ratios}


def _summary(journal: Journal) -> dict[str, dict[str, Any]]:
    """Median, quartiles and count of every figure by system; of F1, which is a score, the mean too."""
    summary: dict[str, dict[str, Any]] = {}
    for figure in journal.figures():
        for system in dict.fromkeys(s.system for s in journal.samples if s.figure == figure):
            found: Spread | None = journal.spread(figure, system)
            assert found is not None
            mean = {"mean": journal.mean(figure, system)} if figure == "f1" else {}
            summary.setdefault(figure, {})[system] = {**found._asdict(), **mean}
    return summary
