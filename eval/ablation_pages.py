"""An ablation for people: one table for the terminal and for `ablation.md`, and a picture of the gains."""

from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.markup import escape
from rich.table import Table

from eval.ablation import ANSWERED, DECLINED, NEGLIGIBLE, UNTOLD, Ablation
from eval.files import write_text
from eval.markdown import cell
from eval.markup import tag
from eval.measurements import CPU, READ, RIGHT
from eval.svg import PRINTED, line, linear, picture, shortened, text
from eval.wording import TITLES, UNKNOWN, difference, p_value

ABLATION_MARKDOWN = "ablation.md"
ABLATION_PLOT = "ablation.svg"

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 720, 170, 190, 44, 24


def write_pages(out: Path, found: Ablation) -> Path:
    """Write the Markdown and its picture; return the place of the former."""
    plot = ablation_plot(found)
    if plot:
        write_text(out / ABLATION_PLOT, plot)
    write_text(out / ABLATION_MARKDOWN, ablation_markdown(found, plot=ABLATION_PLOT if plot else ""))
    return out / ABLATION_MARKDOWN


def ablation_table(found: Ablation) -> Table:
    """Return the table for the terminal: a line per part."""
    header, *rows = _cells(found)
    table = Table(title=_heading(found), title_justify="left")
    for place, title in enumerate(header):
        table.add_column(title, justify="left" if place in (0, len(header) - 1) else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def ablation_markdown(found: Ablation, *, plot: str) -> str:
    """Return the page: the table, what its columns mean, what each part is, and what a reader should know."""
    header, *rows = [[cell(text) for text in row] for row in _cells(found)]
    lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    parts = [
        f"# {_heading(found)}",
        "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]]),
        f"![{TITLES[found['metric']]} that each part gives, with 95% intervals]({plot})" if plot else "",
        _meaning(found),
        "\n".join(f"- `{part['name']}`: {part['about']}. {_why(part)}" for part in found["parts"]),
        "\n".join(f"- {note}" for note in found["notes"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def ablation_plot(found: Ablation) -> Markup:
    """Draw what each part gives in the headline metric, with its interval, on both sides of 0; "" without a part."""
    bars = [(part, part["metrics"][found["metric"]]["gain"]) for part in found["parts"] if _has_interval(found, part)]
    if not bars:
        return Markup("")
    reach = max(abs(gain[key]) for _, gain in bars for key in ("low", "high")) * 1.05 or 0.1
    bottom = _TOP + _ROW * len(bars)
    axis = linear(-reach, reach, _LEFT, _WIDTH - _RIGHT, ticks=4)
    ticks = [tick for tick in linear(0.0, reach, 0, 1, ticks=2).ticks if tick > 0]
    rows = []
    for place, (part, gain) in enumerate(bars):
        y, colour = _TOP + _ROW * (place + 0.5), PRINTED.of(0 if part["verdict"] != UNTOLD else 6)
        rows += [
            text(_LEFT - 8, y + 4, shortened(part["name"], _LEFT - 10), anchor="end"),
            line(axis.place(gain["low"]), y, axis.place(gain["high"]), y, stroke=colour, width=3),
            tag("circle", cx=axis.place(gain["value"]), cy=y, r=5, fill=colour),
            text(_WIDTH - _RIGHT + 8, y + 4, f"{gain['value']:+.3f}, {part['verdict']}"),
        ]
    title = f"{TITLES[found['metric']]} that each part gives"
    return picture(
        _WIDTH,
        bottom + 30,
        title,
        text(8, 24, f"{title}, bars: 95% intervals", weight=600),
        line(axis.place(0.0), _TOP - 6, axis.place(0.0), bottom + 6, stroke=PRINTED.text),
        *(
            line(axis.place(s * t), _TOP, axis.place(s * t), bottom, stroke=PRINTED.grid)
            for t in ticks
            for s in (-1, 1)
        ),
        *(text(axis.place(t), bottom + 22, f"{t:+g}", anchor="middle") for s in ticks for t in (-s, s)),
        text(axis.place(0.0), bottom + 22, "0", anchor="middle"),
        *rows,
        ink=PRINTED,
    ) + Markup("\n")


def _heading(found: Ablation) -> str:
    name, questions = found["data"].get("name", ""), found["questions"]
    return f"What each part gives on {name}, {questions:,} questions: with it / without it"


def _cells(found: Ablation) -> list[list[str]]:
    """The header, then a line per part: each score with the part and without it."""
    metric = found["metric"]
    shares = [name for name in (RIGHT, ANSWERED, DECLINED) if any(name in p["metrics"] for p in found["parts"])]
    titles = {RIGHT: "right", ANSWERED: "answered", DECLINED: "declined"}
    header = ["part", TITLES[metric], "gain (95% interval)", "p (Holm)", *(titles[name] for name in shares)]
    rows = [
        [
            part["name"] + (" (turned on)" if part["turned"] == "on" else ""),
            _both(part, metric, 3),
            *_gain(part, metric),
            *(_both(part, name, 2) for name in shares),
            _both(part, CPU, 2),
            _both(part, READ, 0),
            UNKNOWN if part["gain_per_second"] is None else f"{part['gain_per_second']:+.3f}",
            verdict_words(part),
        ]
        for part in found["parts"]
    ]
    return [[*header, "CPU seconds", "tokens read", "gain a CPU second", "verdict"], *rows]


def verdict_words(part: dict[str, Any]) -> str:
    """Write a verdict, where it is none with the number of questions that left it open."""
    return f"{UNTOLD} with {part['n']:,} questions" if part["verdict"] == UNTOLD else str(part["verdict"])


def _both(part: dict[str, Any], name: str, digits: int) -> str:
    figure = part["metrics"].get(name)
    if figure is None or figure["with"] is None or figure["without"] is None:
        return UNKNOWN
    return f"{figure['with']:.{digits}f} / {figure['without']:.{digits}f}"


def _gain(part: dict[str, Any], metric: str) -> tuple[str, str]:
    if metric not in part["metrics"]:
        return UNKNOWN, UNKNOWN
    gain = part["metrics"][metric]["gain"]
    return difference(gain), p_value(gain["p_holm"])


def _has_interval(found: Ablation, part: dict[str, Any]) -> bool:
    gain = part["metrics"].get(found["metric"], {}).get("gain", {})
    return gain.get("low") is not None and gain.get("high") is not None


def _why(part: dict[str, Any]) -> str:
    needed = part["questions_needed"]
    more = f"; some {needed:,} questions would show a gain like the one seen" if needed and needed > part["n"] else ""
    verdict = verdict_words(part)
    return f"{verdict[0].upper()}{verdict[1:]}: {part['because']}{more if part['verdict'] == UNTOLD else ''}."


def _meaning(found: Ablation) -> str:
    return (
        "Each pair of figures is with the part / without it; all else is as set. Gains are paired by question. "
        "Answered: share of the answerable questions that got an answer; declined: share of the unanswerable ones "
        f"that got none. A part pays where it gains in {TITLES[found['metric']]} or in declining beyond chance, after "
        "Holm's correction for the number of parts, and loses in neither; where it gains in one and loses in the "
        "other, the CRAG score decides. Without either it pays by the processor seconds it saves, if a loss of more "
        f"than {NEGLIGIBLE:g} can be ruled out, and does not by those it takes, if such a gain can be."
    )
