"""`report.md`: what a run says, in words and one table, then the differences, the setting and where the rows are."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from eval.markdown_decision import decision, further_rows, risk_sentences
from eval.measurements import COST, SECONDS
from eval.system_row import changed_settings
from eval.wording import (
    MEANINGS,
    TITLES,
    UNKNOWN,
    difference,
    dollars,
    headline_metric,
    interval,
    p_value,
    per_thousand,
    scored_metrics,
    seconds,
    share,
    shows_a_difference,
    times,
)

Report = dict[str, Any]


def report_markdown(report: Report, *, plot: str) -> str:
    """Return the page; `plot` names the picture beside it, "" where there is none."""
    blocks = [
        _flat(f"# Evaluation on {report['data'].get('name', 'a QA set')}"),
        _questions(report["data"]),
        "## What it says",
        _flat(" ".join(report["verdict"])),
        *_verdict(report),
        *(f"**Note:** {_flat(note)}" for note in report["notes"]),
        f"![{TITLES[headline_metric(report)]} against cost]({plot})" if plot else "",
        "## Systems",
        "Each figure stands with its 95% interval; `-` says that the metric does not apply.",
        _systems_table(report),
        _meanings(report),
        "## Differences, paired by question",
        *_differences(report),
        *decision(report),
        "## Setting",
        _setting(report),
        "## The rows",
        "Every question with its answer, citations, scores, tokens and seconds is a line of "
        "[results.jsonl](results.jsonl); every figure of this page is in [report.json](report.json). "
        "`smallhold eval report` makes both anew from the rows.",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _questions(data: dict[str, Any]) -> str:
    asked = f"{data.get('questions', 0):,} questions ({data.get('answerable', 0):,} answerable, "
    asked += f"{data.get('unanswerable', 0):,} not) over {data.get('documents', 0):,} documents"
    if data.get("retrieval_only"):
        asked = f"{data.get('questions', 0):,} questions without answers, over {data.get('documents', 0):,} documents"
    return _flat(f"{asked}. Kind: {data.get('kind')}. Licence: {data.get('license')}. Source: {data.get('source')}.")


def _verdict(report: Report) -> Iterator[str]:
    metric = headline_metric(report)
    ranking = _ranking(report, metric)
    if not ranking:
        yield "Nothing was scored."
        return
    best = ranking[0]
    figure = report["systems"][best]["metrics"][metric]
    yield f"`{best}` has the highest {TITLES[metric]}: {interval(figure)}, over {figure['n']:,} questions."
    sentences = [_pair_sentence(report, metric, pair) for pair in _pairs_to_tell(report, metric, best)]
    if sentences:
        yield "\n".join(f"- {sentence}" for sentence in sentences)
    abstentions = [_abstention_sentence(name, report["systems"][name]) for name in report["systems"]]
    if any(abstentions):
        yield " ".join(filter(None, abstentions))
    if targets := [*risk_sentences(report)]:
        yield "\n".join(f"- {_flat(sentence)}" for sentence in targets)


def _ranking(report: Report, metric: str) -> list[str]:
    systems = report["systems"]
    scored = [name for name in systems if systems[name]["metrics"][metric]["value"] is not None]
    return sorted(scored, key=lambda name: -systems[name]["metrics"][metric]["value"])


def _pairs_to_tell(report: Report, metric: str, best: str) -> list[dict[str, Any]]:
    """All pairs of a few systems; of many those with the best one."""
    pairs = [pair for pair in report["differences"] if pair["metric"] == metric]
    return pairs if len(pairs) <= 6 else [pair for pair in pairs if best in (pair["system"], pair["baseline"])]


def _pair_sentence(report: Report, metric: str, pair: dict[str, Any]) -> str:
    name, baseline = pair["system"], pair["baseline"]
    # As far as it is better, or worse: an interval may reach beyond 0 where the test shows a difference.
    low, high = (pair["low"], pair["high"]) if pair["value"] > 0 else (-pair["high"], -pair["low"])
    figures = f"{share(abs(pair['value']))} (95% interval {share(low)} to {share(high)}, {pair['n']:,} questions)"
    if not shows_a_difference(pair):
        told = f"No difference in {TITLES[metric]} is shown between `{name}` and `{baseline}`: {difference(pair)}"
    elif pair["value"] > 0:
        told = f"`{name}` is better than `{baseline}` in {TITLES[metric]} by {figures}"
    else:
        told = f"`{name}` is worse than `{baseline}` in {TITLES[metric]} by {figures}"
    return f"{told}{_cost_clause(report['systems'][name], report['systems'][baseline])}."


def _cost_clause(system: dict[str, Any], baseline: dict[str, Any]) -> str:
    ours, theirs = system["cost_per_question"], baseline["cost_per_question"]
    if not ours or not theirs:
        return ""
    ratio = ours / theirs
    if 0.95 < ratio < 1.05:
        return "; both cost about the same"
    return f"; it costs {times(ratio)} as much" if ratio > 1 else f"; it costs {times(1 / ratio)} less"


def _abstention_sentence(name: str, system: dict[str, Any]) -> str:
    recall, coverage = system["metrics"]["abstention_recall"], system["metrics"]["coverage"]
    if recall["value"] is None or coverage["value"] is None:
        return ""
    declined = f"{recall['value']:.0%} of the {recall['n']:,} unanswerable questions"
    return (
        f"`{name}` declined {declined} and answered {coverage['value']:.0%} of the {coverage['n']:,} answerable ones."
    )


def _systems_table(report: Report) -> str:
    systems = report["systems"]
    rows = [["", *(f"`{cell(name)}`" for name in systems)]]
    for metric in scored_metrics(report):
        rows.append([TITLES[metric], *(interval(system["metrics"][metric]) for system in systems.values())])
    rows.append(["cost of 1,000 questions", *(per_thousand(s["cost_per_question"]) for s in systems.values())])
    rows += further_rows(report)
    for name, key in (("seconds, mean", "mean"), ("seconds, median", "p50"), ("seconds, 95th percentile", "p95")):
        rows.append([name, *(seconds(system["seconds_per_question"][key]) for system in systems.values())])
    rows.append(["tokens a question, read + written", *(_tokens(system) for system in systems.values())])
    rows.append(["questions (failed, missing)", *(_counts(system) for system in systems.values())])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---|" + "---|" * len(systems), *lines[1:]])


def _meanings(report: Report) -> str:
    return "\n".join(f"- {TITLES[metric]}: {MEANINGS[metric]}" for metric in scored_metrics(report))


def _tokens(system: dict[str, Any]) -> str:
    means = system["tokens"]["per_question"]
    if not means["prompt"]:
        return UNKNOWN
    return f"{means['prompt']:.0f} + {means['completion']:.0f}"


def _counts(system: dict[str, Any]) -> str:
    return f"{system['n']:,} ({system['errors']:,}, {system['missing']:,})"


def _differences(report: Report) -> Iterator[str]:
    metric = headline_metric(report)
    told = [pair for pair in report["differences"] if pair["metric"] in (metric, SECONDS, COST)]
    pairs: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for pair in told:
        pairs.setdefault((pair["system"], pair["baseline"]), {})[pair["metric"]] = pair
    p_of = {(p["system"], p["baseline"]): p["p_holm"] for p in told if p["metric"] == metric}
    lines = [
        _difference_line(name, baseline, by, metric, p_of.get((name, baseline)))
        for (name, baseline), by in pairs.items()
    ]
    if not lines:
        yield "One system alone has nothing to be compared with."
        return
    yield "\n".join(
        [f"| pair | {TITLES[metric]} | p | cost of 1,000 questions | seconds |", "|---|---|---|---|---|", *lines]
    )
    yield (
        "Both systems of a pair are resampled on the same questions. An interval that holds 0 shows no difference. "
        "The p values are corrected for the number of pairs (Holm), the intervals are not."
    )


def _difference_line(name: str, baseline: str, by: dict[str, dict[str, Any]], metric: str, p: float | None) -> str:
    cells = [
        f"`{cell(name)}` minus `{cell(baseline)}`",
        difference(by[metric]) if metric in by else UNKNOWN,
        p_value(p),
        _signed(by.get(COST), per_thousand),
        _signed(by.get(SECONDS), seconds),
    ]
    return "| " + " | ".join(cells) + " |"


def _signed(pair: dict[str, Any] | None, write: Callable[[float], str]) -> str:
    if pair is None:
        return UNKNOWN
    value, low, high = (f"{'-' if pair[k] < 0 else '+'}{write(abs(pair[k]))}" for k in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _setting(report: Report) -> str:
    machine, statistics = report["machine"], report["statistics"]
    memory = machine.get("memory_bytes")
    lines = [
        f"- Machine: {machine.get('cpu')}, {machine.get('cores')} cores, "
        f"{f'{memory / 2**30:.1f} GiB of memory' if memory else 'unknown memory'}, {machine.get('system')}",
        f"- Software: Python {machine.get('python')}, "
        + ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items()),
        f"- Date: {machine.get('date')}",
        *(f"- `{name}`: {_system_setting(system)}" for name, system in report["systems"].items()),
        f"- Intervals: {statistics['method']}, {statistics['resamples']:,} resamples, seed {statistics['seed']}. "
        "Where all questions score alike, where the bootstrap sees no spread, they are those of Clopper and Pearson.",
        "- Seconds are those of the answering alone, without loading, an endpoint's among others under way; cost is "
        "what the prices above make of them. A machine that idles costs more per question.",
        "- Energy that is estimated is what a power model makes of processor seconds; operations are 2 x parameters x "
        "tokens, and attention.",
    ]
    return "\n".join(lines)


def _system_setting(system: dict[str, Any]) -> str:
    generator = system["generator"]
    if isinstance(generator, dict):
        generator = f"{generator.get('model')} at {generator.get('endpoint')}"
    if system["recorded"]:
        parts = ["answers recorded elsewhere"]
    else:
        reads = "the relevant documents handed over" if system["oracle"] else "with retrieval"
        parts = [generator or "no language model", reads if system["retrieval"] else "closed-book"]
    parts.append(_prices(system["prices"]))
    parts += [f"{key} = {json.dumps(value)}" for key, value in changed_settings(system["settings"]).items()]
    return _flat("; ".join(parts))


def _prices(prices: dict[str, Any]) -> str:
    told = [
        f"{dollars(price)} {key.removeprefix('price_').replace('_', ' ')}"
        for key, price in prices.items()
        if key.startswith("price_")
    ]
    if "utilisation" in prices:
        told.append(f"used {prices['utilisation']:.0%} of the time")
    if "source" in prices:
        told.append(f"by {prices['source']}")
    return ", ".join(told) if told else "no price stated"


def cell(text: str) -> str:
    """Write a text so that it stays within its cell."""
    return text.replace("|", "\\|")


def _flat(text: str) -> str:
    return " ".join(text.split())
