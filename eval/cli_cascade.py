"""`smallhold eval cascade`: whether asking a larger model about the unsure questions pays, told from a finished run."""

from pathlib import Path
from typing import Annotated, Any

import typer


def add_commands(app: typer.Typer) -> None:
    """Add the command to `smallhold eval`."""

    @app.command()
    def cascade(
        run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
        small: Annotated[str, typer.Option(help="The system that is asked first.")] = "small+retrieval",
        large: Annotated[str, typer.Option(help="The system that the unsure questions go to.")] = "large+retrieval",
        metric: Annotated[str, typer.Option(help="What must be kept: f1 or right.")] = "f1",
        keep: Annotated[
            float, typer.Option(min=0.0, max=1.0, help="Share of the large one's score that must be kept.")
        ] = 0.98,
        seed: Annotated[int | None, typer.Option(help="Another seed splits the questions otherwise.")] = None,
        write: Annotated[Path | None, typer.Option(help="Write the fitted file for the setting cascade.file.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    ) -> None:
        """Say whether a cascade pays: the small system first, the large one where the small one is unsure.

        Takes the answers of both from the run, asks nothing, and tells accuracy against cost and seconds for every cut,
        how far that lies above tossing a coin, and how a cut chosen on half of the questions does on the other half.
        Writes RUN/cascade.json and a plot for cost and for seconds. The large system may be recorded or an endpoint's.

        Example: smallhold eval cascade out/first --small small+retrieval --large large+retrieval --write cascade.toml
        """
        from eval.cascade import evaluate, write_cascade
        from eval.cascade_gain import gain_of, write_gain
        from eval.cascade_pairs import read_pairs
        from eval.cascade_plot import cascade_plot, plot_name
        from eval.files import write_text
        from eval.statistics import SEED
        from rag.console import print_json

        pairs = read_pairs(run, small, large)
        found = evaluate(pairs, metric=metric, keep=keep, seed=SEED if seed is None else seed)
        file = write_cascade(run, found)
        for axis in pairs.axes:
            write_text(run / plot_name(axis), cascade_plot(found, axis))
        if write is not None:
            write_gain(write, gain_of(pairs, run, metric=metric, keep=keep))
        if as_json:
            print_json(found)
            return
        _print(found)
        typer.echo(f"All figures: {file}" + (f", fitted file: {write}" if write else ""), err=True)


def _print(found: dict[str, Any]) -> None:
    from rich.table import Table

    from eval.console import print_table
    from eval.wording import TITLES

    metrics = [name for name in ("f1", "right") if name in found["always"]["small"]]
    axes = [name for name in ("cost", "seconds") if name in found["always"]["small"]]
    titles = {**TITLES, "cost": "US dollars a thousand"}
    names = [*metrics, *axes]
    table = Table("", "handed on", *(titles[n] for n in names), title="Means (95% interval)", title_justify="left")
    for side in ("small", "large"):
        table.add_row(found[side], "-", *(_figure(found["always"][side][n], n) for n in names))
    table.add_section()
    for policy, label in (("confidence", "least sure"), ("gain", "largest gain")):
        for point in found["curves"][policy]["points"][10:50:10]:
            table.add_row(f"{label} first", f"{point['handed_on']:.0%}", *(_figure(point[n], n) for n in names))
        table.add_section()
    for policy, label in (("confidence", "least sure"), ("gain", "largest gain")):
        chosen = found["chosen"][policy]
        table.add_row(
            f"{label} first, chosen on other questions",
            f"{chosen['handed_on']:.0%}",
            *(f"{_figure(chosen[n], n)}\n{_share(chosen[n]['of_large'])} of large" for n in names),
        )
    print_table(table)
    for policy, label in (("confidence", "least sure"), ("gain", "largest gain")):
        _print_chosen(found, policy, label, axes)
        _print_above(found, policy, label, metrics, axes)
    for row in found["prices"]:
        typer.echo(
            f"At ${row['error_price']:.3g} an error: {row['handed_on']:.0%} handed on; a thousand questions with "
            f"their errors cost {_dollars(row['cascade'])}, with the small system alone {_dollars(row['small'])}, the "
            f"large alone {_dollars(row['large'])}; saved against the better {_signed(row['saved'], 1000)}"
        )
    left = f"; {found['left_out']} left out, where one failed" if found["left_out"] else ""
    typer.echo(f"{found['questions']:,} questions in {found['clusters']:,} clusters{left}", err=True)


def _print_chosen(found: dict[str, Any], policy: str, label: str, axes: list[str]) -> None:
    from eval.wording import TITLES

    score = found["chosen"][policy][found["metric"]]
    lines = [
        f"{_signed(above)} above the line over {axis}"
        for axis in axes
        if (above := score["above_line"][axis]) is not None
    ]
    told = ", ".join([*lines, f"{_signed(score['above_random'])} above handing on as many at random"])
    typer.echo(f"{label} first, chosen on other questions, {TITLES[found['metric']]}: {told}")


def _print_above(found: dict[str, Any], policy: str, label: str, metrics: list[str], axes: list[str]) -> None:
    from eval.wording import TITLES

    curve, metric = found["curves"][policy], found["metric"]
    for m in metrics:
        for axis in axes:
            above = curve["above"][m][axis]
            if above is None:
                typer.echo(f"{label} first, {TITLES[m]} over {axis}: the large system takes no more")
                continue
            typer.echo(
                f"{label} first, {TITLES[m]} over {axis}: on average {_signed(above['line'])} above the line between "
                f"the systems, {_signed(above['random'])} above handing on at random"
            )
    cheapest = curve["cheapest"]
    told = ", ".join(
        f"{cheapest[axis]['value'] / found['always']['large'][axis]['value']:.0%} of the large one's {axis}"
        for axis in axes
        if found["always"]["large"][axis]["value"]
    )
    typer.echo(
        f"{label} first, {found['keep']:.0%} of the large one's {TITLES[metric]} is reached with "
        f"{cheapest['handed_on']:.0%} handed on, {told} (chosen on the same questions)"
    )


def _figure(figure: dict[str, float], name: str) -> str:
    factor = 1000 if name == "cost" else 1
    value, low, high = (factor * figure[key] for key in ("value", "low", "high"))
    return f"{value:.3g} ({low:.3g} to {high:.3g})"


def _share(figure: dict[str, float | None]) -> str:
    value, low, high = (figure[key] for key in ("value", "low", "high"))
    if value is None:
        return "-"
    return f"{value:.0%} ({'-' if low is None else f'{low:.0%}'} to {'-' if high is None else f'{high:.0%}'})"


def _dollars(figure: dict[str, float]) -> str:
    """Write what a thousand questions cost."""
    return f"${1000 * figure['value']:.3g}"


def _signed(figure: dict[str, float], factor: int = 1) -> str:
    value, low, high = (factor * figure[key] for key in ("value", "low", "high"))
    return f"{value:+.3g} ({low:+.3g} to {high:+.3g})"
