"""What `smallhold models tune` shows: the plan, and what came of it."""

from typing import TYPE_CHECKING, Any

from rag import console
from rag.cli_tune import Prepared
from rag.tuned import Tuned

if TYPE_CHECKING:
    from rich.table import Table

    from eval.tune import Outcome
    from eval.tune_choice import Candidate


def print_plan(prepared: Prepared, *, as_json: bool) -> None:
    """Write what would be tried."""
    if as_json:
        console.print_json(plan_json(prepared))
        return
    for line in plan_lines(prepared):
        console.out.print(line)


def print_outcome(prepared: Prepared, outcome: "Outcome", tuned: Tuned | None, *, as_json: bool) -> None:
    """Write what was measured and chosen."""
    if as_json:
        console.print_json(outcome_json(prepared, outcome, tuned))
        return
    console.out.print(outcome_table(prepared, outcome))
    for line in outcome_lines(prepared, outcome, tuned):
        console.out.print(line)


def plan_json(prepared: Prepared) -> dict[str, Any]:
    """Return what would be tried."""
    plan = prepared.plan
    return {
        "model": prepared.model.spec.name,
        "own": prepared.quantizer.own,
        "quantizations": {name: prepared.quantizer.about_bytes(name) for name in plan.quantizations},
        "threads": list(plan.threads),
        "batches": list(plan.batches),
        "attention": list(plan.attention),
        "lookups": list(plan.lookups),
        "shape": {"prompt": plan.shape.prompt, "answer": plan.shape.answer},
        "samples": plan.most_samples,
        "data": prepared.data,
        "questions": len(prepared.tasks),
        "bytes": prepared.bytes_needed,
        "seconds": round(prepared.seconds),
    }


def plan_lines(prepared: Prepared) -> list[str]:
    """Return the same in sentences."""
    plan, model = prepared.plan, prepared.model
    settings = [_change(changes) for changes in (*plan.threads, *plan.batches, *plan.attention)]
    sizes = [f"{name} ({prepared.quantizer.about_bytes(name) / 1e6:,.0f} MB)" for name in plan.quantizations]
    return [
        f"{model.spec.name} as it is: {prepared.quantizer.own or 'a quantization of its own'}, "
        f"{model.file.stat().st_size / 1e6:,.0f} MB",
        f"1. speed, reading {plan.shape.prompt} tokens: {', '.join(sizes) or 'no other quantization'}",
        f"2. settings of the best: {'; '.join(settings)}",
        f"3. answers to {len(prepared.tasks)} questions of {prepared.data}, for what is faster",
        f"4. whether guessing ahead pays, up to {', '.join(map(str, plan.lookups)) or 'no'} tokens, for the best",
        f"Up to {plan.most_samples} samples; about {prepared.bytes_needed / 1e9:.1f} GB of disk while it runs, "
        f"and to an order of magnitude {max(1, round(prepared.seconds / 60))} min.",
    ]


def outcome_json(prepared: Prepared, outcome: "Outcome", tuned: Tuned | None) -> dict[str, Any]:
    """Return everything that was measured, the fastest first."""
    return {
        "model": prepared.model.spec.name,
        "chosen": outcome.chosen.label,
        "lookup": {"tokens": outcome.lookup, "saves_of_writing": outcome.lookup_saves},
        "tuned": tuned.model_dump() if tuned else None,
        "candidates": [_row_json(prepared, outcome, candidate) for candidate in _by_seconds(outcome)],
        "failed": {c.label: outcome.verdicts[c] for c in outcome.verdicts if c not in outcome.speeds},
    }


def outcome_table(prepared: Prepared, outcome: "Outcome") -> "Table":
    """Return the table of candidates, the fastest first; medians, and in brackets least and most."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("weights", "threads", "batch", "flash", "kv"):
        table.add_column(column)
    for column in ("MB", "read tok/s", "write tok/s", "s/answer", "F1", "difference"):
        table.add_column(column, justify="right")
    table.add_column("")
    for candidate in _by_seconds(outcome):
        speed, t = outcome.speeds[candidate], candidate.tuning
        table.add_row(
            candidate.quantization or f"as it is ({prepared.quantizer.own})",
            str(t.threads or "all"),
            f"{t.batch}/{t.micro_batch}",
            t.flash_attention,
            t.kv_type,
            f"{_bytes(prepared, candidate) / 1e6:,.0f}",
            _rate(speed.read),
            _rate(speed.write),
            f"{speed.seconds[0]:.2f} ({speed.seconds[1]:.2f} to {speed.seconds[2]:.2f})",
            *_quality(outcome, candidate),
            outcome.verdicts.get(candidate, ""),
        )
    return table


def outcome_lines(prepared: Prepared, outcome: "Outcome", tuned: Tuned | None) -> list[str]:
    """Return what it came to, in sentences."""
    from eval.tune_choice import REGISTRY

    lines = [f"{c.label}: {outcome.verdicts[c]}" for c in outcome.verdicts if c not in outcome.speeds]
    if any("not shown" in verdict for verdict in outcome.verdicts.values()):
        lines.append("More questions (--data, --limit) may show that answers are as good.")
    if tuned is None:
        return [*lines, "Nothing faster answers as well: the registry's file stays as it is."]
    gain = outcome.speeds[REGISTRY].seconds[0] / outcome.speeds[outcome.chosen].seconds[0]
    lines.append(f"Chosen: {outcome.chosen.label}; {gain:.2f} times as fast. It is used from now on.")
    if outcome.lookup:
        lines.append(f"Guessing up to {outcome.lookup} tokens ahead saves {outcome.lookup_saves:.0%} of the writing.")
    lines.append(f"[dim]{prepared.model.path / 'tuned.toml'}; --reset goes back[/]")
    return lines


def _by_seconds(outcome: "Outcome") -> "list[Candidate]":
    return sorted(outcome.speeds, key=lambda candidate: outcome.speeds[candidate].seconds[0])


def _bytes(prepared: Prepared, candidate: "Candidate") -> int:
    """The size of a candidate's file: as it is now, or what it is about where it is not there any more."""
    if not candidate.quantization:
        return prepared.model.file.stat().st_size
    return prepared.sizes.get(candidate.quantization) or prepared.quantizer.about_bytes(candidate.quantization)


def _row_json(prepared: Prepared, outcome: "Outcome", candidate: "Candidate") -> dict[str, Any]:
    speed = outcome.speeds[candidate]
    row: dict[str, Any] = {
        "quantization": candidate.quantization,
        "settings": candidate.tuning.model_dump(),
        "bytes": _bytes(prepared, candidate),
        "read_tokens_per_second": speed.read,
        "write_tokens_per_second": speed.write,
        "seconds_per_answer": speed.seconds,
        "verdict": outcome.verdicts.get(candidate, ""),
    }
    if candidate in outcome.quality:
        f1, found = outcome.quality[candidate]
        row |= {"f1": f1, "difference": {"value": found.value, "low": found.low, "high": found.high, "n": found.n}}
    return row


def _quality(outcome: "Outcome", candidate: "Candidate") -> tuple[str, str]:
    from eval.tune_choice import REGISTRY

    if candidate not in outcome.quality:
        return "", ""
    f1, found = outcome.quality[candidate]
    if candidate == REGISTRY or found.value is None or found.low is None or found.high is None:
        return f"{f1:.3f}", ""
    return f"{f1:.3f}", f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _rate(rates: tuple[float, float, float]) -> str:
    return f"{rates[0]:,.0f} ({rates[1]:,.0f} to {rates[2]:,.0f})"


def _change(changes: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in changes.items())
