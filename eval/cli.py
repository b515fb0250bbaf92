"""`smallhold eval run|report|compare|calibrate`. How a system is opened is passed in, so that this knows no builder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from eval import cli_ablate, cli_cascade, cli_convert, cli_export, cli_scorers, cli_synth

if TYPE_CHECKING:
    from eval.convert_csv import LoadFolder
    from eval.qaset import QASet
    from eval.results import Run
    from eval.system_row import SystemRow
    from eval.systems import OpenSystem
    from rag.config import Settings


class OpenSystems(Protocol):
    """Makes the opener of systems for a QA set, once a run.

    It keeps indexes and answers in the folder `out`, or in `cache` where that is shared with other runs.
    """

    def __call__(self, qaset: "QASet", settings: "Settings", out: Path, cache: Path | None = None, /) -> "OpenSystem":
        """Return what opens a row."""
        ...


Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Out = Annotated[Path, typer.Argument(help="The folder of a run.")]
FailIf = Annotated[
    list[str] | None,
    typer.Option(
        help='Exit with 1 where this holds of a system: "f1 < 0.6", or of one alone "small: f1 < 0.6". May be repeated.'
    ),
]
FailIfWorse = Annotated[
    Path | None,
    typer.Option(
        "--fail-if-worse-than", help="Exit with 1 where a score is worse than in this run, paired, beyond chance."
    ),
]

HELP = """Measure systems on questions of your own, offline.

A QA set is a folder with corpus.jsonl, questions.jsonl and meta.json; `convert` makes one of other people's data.

Example: smallhold eval run --data my-set --system small+retrieval,large --out out/first
"""


def make_app(
    open_systems: OpenSystems,
    *,
    load_folder: "LoadFolder | None" = None,
    open_source: "cli_synth.OpenSource | None" = None,
) -> typer.Typer:
    """Return the commands; `open_systems(qaset, settings, out, cache)` gives what opens a row.

    `load_folder(path)` reads the documents of a folder of files, for `convert csv`; `open_source(path, settings)`
    opens documents and models for `synth`.
    """
    app = typer.Typer(no_args_is_help=True, help=HELP)

    @app.command()
    def run(
        data: Annotated[Path, typer.Option(help="The QA-set folder.")],
        out: Annotated[Path, typer.Option(help="The folder for rows and report; an earlier run there is continued.")],
        system: Annotated[
            list[str] | None,
            typer.Option(
                help="A system, or several split by commas; may be repeated. Built in: tiny, small, large, each "
                "also with +retrieval; small+oracle, large+oracle; retrieval. Default: small+retrieval, or retrieval "
                "where the set has no answers."
            ),
        ] = None,
        limit: Annotated[int | None, typer.Option(min=1, help="Take the first N questions.")] = None,
        skip: Annotated[
            int, typer.Option(min=0, help="Leave out the first N questions, such as those something was tuned on.")
        ] = 0,
        systems: Annotated[Path | None, typer.Option(help="A TOML file of further systems.")] = None,
        no_abstain: Annotated[bool, typer.Option("--no-abstain", help="Answer however unsure.")] = False,
        risk: Annotated[
            float | None,
            typer.Option(help="Largest share of the answers given that may be wrong, such as 0.2."),
        ] = None,
        config: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
        cache: Annotated[
            Path | None,
            typer.Option(help="A folder of answers and indexes to share with other runs. Default: the run's own."),
        ] = None,
        max_cost: Annotated[
            float | None, typer.Option(min=0.0, help="Stop before the run's answers cost more US dollars than this.")
        ] = None,
        fail_if: FailIf = None,
        fail_if_worse_than: FailIfWorse = None,
        as_json: Json = False,
    ) -> None:
        """Ask every question of every system, then report scores, cost and seconds with 95% intervals.

        Writes OUT/results.jsonl (a row for each question and system), report.json, report.md and a plot. Interrupt it
        whenever you like: the same command goes on where it stopped. Only what has changed is asked again. Exit code 1
        where --max-cost or the budget of an endpoint stopped it.

        Example: smallhold eval run --data squad2-small --system small,small+retrieval --system large --out out/squad2

        Example: smallhold eval run --data scifact --system retrieval --out out/scifact --fail-if "ndcg@10 < 0.7"

        Example: smallhold eval run --data my-set --systems mine.toml --system gpt --max-cost 2.50 --out out/gpt
        """
        from eval.console import Bars
        from eval.qaset import load_qaset
        from eval.runner import run as run_systems
        from eval.spending import Spending
        from rag.config import load_settings

        _check_conditions(fail_if, fail_if_worse_than)
        settings = load_settings(config, _abstention(risk, no_abstain))
        qaset = load_qaset(data).limited(limit, skip)
        rows = _choose(system or [], qaset, systems)
        spending = Spending(max_cost)
        opener = open_systems(qaset, settings, out, cache)
        try:
            finished = run_systems(qaset, rows, out, opener, settings=settings, progress=Bars(), spending=spending)
        except KeyboardInterrupt:
            typer.echo(
                f"\nInterrupted. What is answered is kept in {out}; the same command goes on from there.", err=True
            )
            raise typer.Exit(130) from None
        made = _show(out, as_json=as_json, notes=False)  # they were shown as they came
        _exit_if_stopped(finished, [row.name for row in rows], limited=spending.reached)
        _exit_if_failed(made, out, fail_if, fail_if_worse_than)

    @app.command()
    def report(out: Out, fail_if: FailIf = None, fail_if_worse_than: FailIfWorse = None, as_json: Json = False) -> None:
        """Make the report of a run anew from its rows, by the scorers and prices of now.

        Example: smallhold eval report out/squad2 --fail-if "small+retrieval: f1 < 0.6" --fail-if-worse-than out/last
        """
        _check_conditions(fail_if, fail_if_worse_than)
        _exit_if_failed(_show(out, as_json=as_json, notes=True), out, fail_if, fail_if_worse_than)

    @app.command()
    def compare(
        out_a: Out,
        out_b: Out,
        metric: Annotated[
            list[str] | None, typer.Option(help="A metric, or several split by commas. Default: all that were scored.")
        ] = None,
        as_json: Json = False,
    ) -> None:
        """Compare two runs over the questions that both asked: B minus A, paired, with 95% intervals.

        Systems of the same name are compared, or the only system of each run. Beside each difference stand its p
        value (McNemar's test for right or wrong, corrected by Holm for several systems), the smallest difference that
        so many questions can show, and how many more would show the one observed.

        Example: smallhold eval compare out/before out/after --metric f1
        """
        from eval.compare import compare_runs, scored_metrics
        from eval.console import comparison_table, print_table
        from rag.console import print_json

        comparisons = compare_runs(out_a, out_b, tuple(split(metric or [])) or scored_metrics(out_a))
        if as_json:
            print_json([comparison.to_json() for comparison in comparisons])
        else:
            print_table(comparison_table(comparisons))

    @app.command()
    def calibrate(
        runs: Annotated[list[Path], typer.Argument(help="Folders of runs made with --no-abstain.")],
        out: Annotated[Path, typer.Option(help="The file to write, for the setting abstention.file.")],
        system: Annotated[str, typer.Option(help="Which system, where a run has several that read documents.")] = "",
        keep_right: Annotated[
            float, typer.Option(min=0.0, max=1.0, help="Share of the right answers that must still be given.")
        ] = 0.9,
    ) -> None:
        """Fit on answered questions when to say that the documents do not hold the answer, and what that can promise.

        `smallhold calibrate` makes the runs as well.

        Example: smallhold eval calibrate out/tune --keep-right 0.9 --out abstention.toml
        """
        from eval.calibration import calibrate as fit
        from eval.calibration import described, write_abstention

        found = fit(runs, keep_right=keep_right, system=system)
        write_abstention(out, found)
        typer.echo(f"{out}: {described(found)}")

    app.add_typer(cli_convert.make_app(load_folder), name="convert")
    app.add_typer(cli_export.make_app(), name="export")
    app.add_typer(cli_synth.make_app(open_source), name="synth")
    cli_scorers.add_commands(app)
    cli_cascade.add_commands(app)
    cli_ablate.add_commands(app, open_systems)
    return app


def _abstention(risk: float | None, no_abstain: bool) -> dict[str, Any]:
    """Return the flags as settings. Raises `ConfigError` where they exclude each other."""
    from rag.errors import ConfigError

    if no_abstain and risk is not None:
        raise ConfigError("--risk and --no-abstain exclude each other", hint="A risk target is kept by abstaining.")
    if no_abstain:
        return {"abstention": {"enabled": False}}
    return {} if risk is None else {"abstention": {"risk": risk}}


def _choose(asked: list[str], qaset: "QASet", file: Path | None) -> "list[SystemRow]":
    from eval.recorded import check_recorded
    from eval.system_file import choose_systems, load_systems

    default = "retrieval" if qaset.retrieval_only else "small+retrieval"
    return check_recorded(choose_systems(split(asked) or [default], load_systems(file)))


def _show(out: Path, *, as_json: bool, notes: bool) -> dict[str, Any]:
    """Make the report and print it."""
    from eval.console import print_table, report_table
    from eval.report import REPORT_MARKDOWN, write_report
    from rag.console import print_json

    report = write_report(out)
    if as_json:
        print_json(report)
        return report
    print_table(report_table(report))
    for note in report["notes"] if notes else ():
        typer.echo(f"Note: {note}", err=True)
    typer.echo(f"Report: {out / REPORT_MARKDOWN}", err=True)
    return report


def _check_conditions(conditions: list[str] | None, baseline: Path | None) -> None:
    """Refuse what cannot be checked before hours are spent on a run."""
    from eval.conditions import parse_condition
    from eval.results import read_run

    for condition in conditions or []:
        parse_condition(condition)
    if baseline is not None:
        read_run(baseline)


def _exit_if_failed(report: dict[str, Any], out: Path, conditions: list[str] | None, baseline: Path | None) -> None:
    from eval.compare import worsened
    from eval.conditions import failures, parse_condition

    reasons = failures(report, [parse_condition(condition) for condition in conditions or []])
    reasons += worsened(baseline, out) if baseline is not None else []
    for reason in reasons:
        typer.echo(f"Failed: {reason}", err=True)
    if reasons:
        raise typer.Exit(1)


def _exit_if_stopped(run: "Run", asked: list[str], *, limited: bool) -> None:
    stopped = [name for name in asked if name in run.systems and run.systems[name].stopped]
    if stopped:
        more = " with a higher limit" if limited else ""
        typer.echo(f"Not finished: {', '.join(stopped)}. The same command{more} goes on from there.", err=True)
        raise typer.Exit(1 if limited else 3)


def split(values: list[str]) -> list[str]:
    """Return the names in options that may be repeated and may each hold several, split by commas."""
    return [name.strip() for value in values for name in value.split(",") if name.strip()]
