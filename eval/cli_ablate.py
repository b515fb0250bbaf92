"""`smallhold eval ablate`: what each part of the system gives, by switching one after the other."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from eval.ablation_parts import Plan
    from eval.cli import OpenSystems
    from eval.qaset import QASet
    from eval.systems import OpenSystem

RUNS = Path("ablation-runs")


def add_commands(app: typer.Typer, open_systems: "OpenSystems") -> None:
    """Add the command to `smallhold eval`."""

    @app.command()
    def ablate(
        data: Annotated[Path, typer.Option(help="The QA-set folder.")],
        limit: Annotated[int | None, typer.Option(min=1, help="Take the first N questions.")] = None,
        skip: Annotated[
            int, typer.Option(min=0, help="Leave out the first N questions, such as those something was tuned on.")
        ] = 0,
        part: Annotated[
            list[str] | None,
            typer.Option(help="A part, or several split by commas; may be repeated. Default: all of them."),
        ] = None,
        parts: Annotated[
            Path | None, typer.Option(help="A TOML file of parts in place of those shipped, in the same form.")
        ] = None,
        out: Annotated[
            Path | None,
            typer.Option(help="The folder for rows and table. Default: one in ablation-runs, named after the set."),
        ] = None,
        cache: Annotated[
            Path | None,
            typer.Option(help="A folder of answers and indexes to share with other runs. Default: the run's own."),
        ] = None,
        config: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Say what would be run, and about how long that takes; run nothing.")
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    ) -> None:
        """Switch each part of the system off in turn, options on, and say what it gives: does it pay?

        Asks every question of the system as set and of one system for each part, then prints what each part gives in
        F1, in declining unanswerable questions and in processor seconds, paired by question, with 95% intervals and p
        values corrected for the number of parts. Writes OUT/ablation.json, ablation.md and a picture. Interrupt it
        whenever you like: the same command goes on where it stopped.

        Example: smallhold eval ablate --data squad2-small --limit 200 --out out/ablation

        Example: smallhold eval ablate --data my-set --part reader,second-search --dry-run
        """
        from eval.ablation_parts import choose_parts, load_parts, plan
        from eval.cli import split
        from eval.console import Bars
        from eval.qaset import load_qaset
        from eval.runner import run
        from rag.config import load_settings
        from rag.registry import load_registry

        settings = load_settings(config)
        qaset = load_qaset(data).limited(limit, skip)
        known = load_parts(parts)
        registry = load_registry(settings.models.registry)
        chosen = choose_parts(split(part or []), known)
        planned = plan(chosen, known, settings, registry.base_of, retrieval_only=qaset.retrieval_only)
        folder = out or RUNS / data.resolve().name
        if dry_run:
            _tell(planned, qaset, folder, as_json=as_json)
            return
        opener = open_systems(qaset, settings, folder, cache)
        planned = _openable(planned, opener)
        try:
            run(qaset, planned.rows, folder, opener, settings=settings, progress=Bars())
        except KeyboardInterrupt:
            typer.echo(
                f"\nInterrupted. What is answered is kept in {folder}; the same command goes on from there.", err=True
            )
            raise typer.Exit(130) from None
        _show(folder, planned, as_json=as_json)


def _openable(planned: "Plan", opener: "OpenSystem") -> "Plan":
    """Return the plan without the parts whose settings do not go together with those in force.

    The whole command would end there, after the hours of the systems before. Nothing is loaded.
    """
    from eval.ablation_parts import FULL
    from rag.errors import ConfigError, Unavailable

    faults = {}
    for row in planned.rows:
        try:
            with opener(row):
                pass
        except ConfigError as error:
            if row.name == FULL:
                raise
            faults[row.name] = str(error)
        except Unavailable:  # the runner tells of it
            pass
    return planned.without(faults)


def _tell(planned: "Plan", qaset: "QASet", folder: Path, *, as_json: bool) -> None:
    """Say which systems would run on how many questions."""
    from eval.ablation_estimate import estimate_work
    from rag.console import print_json

    work = estimate_work(planned, qaset, folder)
    if as_json:
        print_json(work.to_json())
        return
    for system in work.systems:
        about = f"  {system.about}" if system.about else ""
        typer.echo(f"{system.name}: {system.left:,} of {len(qaset.questions):,} questions left{about}")
    for note in planned.notes:
        typer.echo(f"Note: {note}", err=True)
    typer.echo(work.told)


def _show(folder: Path, planned: "Plan", *, as_json: bool) -> None:
    """Make the table, write it, print it. Exit code 3 where a system could not be run to its end."""
    from eval.ablation import ABLATION_JSON, ablate
    from eval.ablation_pages import ablation_table, write_pages
    from eval.console import print_table
    from eval.results import read_run
    from rag.console import print_json

    found = ablate(folder, planned)
    page = write_pages(folder, found)
    if as_json:
        print_json(found)
    else:
        print_table(ablation_table(found))
        for note in found["notes"]:
            typer.echo(f"Note: {note}", err=True)
        typer.echo(f"Page: {page}, all figures: {folder / ABLATION_JSON}", err=True)
    run = read_run(folder)
    stopped = [row.name for row in planned.rows if run.systems[row.name].stopped]
    if stopped:
        typer.echo(f"Not finished: {', '.join(stopped)}. The same command goes on from there.", err=True)
        raise typer.Exit(3)
