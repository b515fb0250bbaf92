"""`smallhold eval export`: a run in the forms of other tools."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from eval.export import Exported

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
OutFolder = Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write to.")]
Data = Annotated[Path, typer.Option(help="The QA-set folder of the run; the texts come from it.")]
Depth = Annotated[int, typer.Option(min=1, max=20, help="Retrieved documents whose texts are given.")]


def make_app() -> typer.Typer:
    """Return the commands."""
    app = typer.Typer(no_args_is_help=True, help="Write a run for trec_eval, ragas or RAGChecker: a file per system.")

    @app.command()
    def trec(run: RunFolder, out: OutFolder) -> None:
        """Write TREC run files and qrels.txt.

        Example: smallhold eval export trec out/scifact out/scifact-trec
        """
        from eval.export import export_trec

        _say(export_trec(run, out), out)

    @app.command()
    def ragas(run: RunFolder, out: OutFolder, data: Data, depth: Depth = 5) -> None:
        """Write JSON lines for ragas: EvaluationDataset.from_jsonl("OUT/SYSTEM.jsonl").

        Example: smallhold eval export ragas out/first out/first-ragas --data my-set
        """
        from eval.export import export_ragas

        _say(export_ragas(run, out, data, depth=depth), out)

    @app.command()
    def ragchecker(run: RunFolder, out: OutFolder, data: Data, depth: Depth = 5) -> None:
        """Write JSON for RAGChecker: ragchecker-cli --input_path=OUT/SYSTEM.json.

        Example: smallhold eval export ragchecker out/first out/first-ragchecker --data my-set
        """
        from eval.export import export_ragchecker

        _say(export_ragchecker(run, out, data, depth=depth), out)

    return app


def _say(exported: "Exported", out: Path) -> None:
    typer.echo(f"{out}: {exported.questions:,} questions, {', '.join(p.name for p in exported.files.values())}")
    if exported.failed:
        typer.echo(f"Left out: {exported.failed:,} rows that ended in an error", err=True)
