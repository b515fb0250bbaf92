"""`smallhold eval synth`: a test set out of documents, what a person decides on it, how well it ranks."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from eval.synth import Source
    from rag.config import Settings

    # Opens what questions are made from: an index directory, a QA-set folder or a folder of files, and the models.
    OpenSource = Callable[[Path, Settings], AbstractContextManager[Source]]

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
SetFolder = Annotated[Path, typer.Argument(metavar="SET", help="A folder made by `eval synth`.")]

HELP = """Make a test set where there is none: a model writes questions about your documents, checks keep the good ones.

`smallhold eval synth DOCUMENTS --out SET` is short for `smallhold eval synth make DOCUMENTS --out SET`.
"""


class _MakesByDefault(TyperGroup):
    """Takes what is no command for the arguments of `make`."""

    # Typer brings a click of its own, whose Context has no public name.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["make", *args]
        return super().parse_args(ctx, args)


def make_app(open_source: "OpenSource | None") -> typer.Typer:
    """Return the commands; `open_source(path, settings)` opens documents and models."""
    app = typer.Typer(cls=_MakesByDefault, no_args_is_help=True, help=HELP)

    @app.command()
    def make(
        documents: Annotated[Path, typer.Argument(help="An index directory, a QA-set folder, or a folder of files.")],
        out: Annotated[Path, typer.Option(help="The folder of the set; an earlier run there is continued.")],
        questions: Annotated[int, typer.Option(min=1, max=10_000, help="Questions to keep.")] = 50,
        seed: Annotated[int, typer.Option(min=0, help="Another seed draws other passages.")] = 0,
        min_f1: Annotated[
            float, typer.Option(min=0.0, max=1.0, help="F1 from which a reading of the passage counts as the answer.")
        ] = 0.6,
        max_attempts: Annotated[
            int | None, typer.Option(min=1, help="Questions to write at most. Default: 12 for each to keep.")
        ] = None,
        model: Annotated[str | None, typer.Option(help="A generator of the registry, or a GGUF file.")] = None,
        config: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
        as_json: Json = False,
    ) -> None:
        """Write questions about documents into a QA-set folder, with a page to review them.

        A fifth each are asked in other words than the text's, need two passages, or are not answered by the
        documents; the rest ask for one fact. Only what passes every check is kept. Interrupt it whenever you like:
        the same command goes on where it stopped. Then look at SET/review.html: small models write nonsense too.

        Example: smallhold eval synth make .smallhold/index --questions 100 --out my-set
        """
        from eval.synth import make_set
        from eval.synth_console import Bar
        from rag.config import load_settings

        assert open_source is not None, "the command line is made with something that opens documents"
        settings = load_settings(config, {"generator": {"model": model}} if model else None)
        try:
            with open_source(documents, settings) as source:
                state = make_set(
                    source,
                    out,
                    questions=questions,
                    seed=seed,
                    min_f1=min_f1,
                    max_attempts=max_attempts,
                    progress=Bar(),
                )
        except KeyboardInterrupt:
            typer.echo(f"\nInterrupted. What is kept is in {out}; the same command goes on from there.", err=True)
            raise typer.Exit(130) from None
        _show(out, state.report, as_json=as_json)
        if state.report["kept"] < questions:
            typer.echo(
                f"Only {state.report['kept']} of {questions} questions passed. More documents, a larger --model or "
                "--max-attempts give more.",
                err=True,
            )
            raise typer.Exit(1)

    @app.command("apply")
    def apply_(
        folder: SetFolder,
        decisions: Annotated[Path, typer.Argument(help="The file that review.html saved.")],
        as_json: Json = False,
    ) -> None:
        """Strike from a set what a person struck on its page. Accepted and undecided questions stay.

        Example: smallhold eval synth apply my-set ~/Downloads/decisions.json
        """
        from eval.synth_set import apply_decisions

        report = apply_decisions(folder, decisions).report
        if as_json:
            _print_json(report)
            return
        left = report["kept"] - report["struck"]
        typer.echo(f"{folder}: {report['accepted']} accepted, {report['struck']} struck, {left} questions left")

    @app.command()
    def agree(
        run_synthetic: Annotated[Path, typer.Argument(help="A run on the synthetic set.")],
        run_human: Annotated[Path, typer.Argument(help="A run of the same systems on a set made by people.")],
        metric: Annotated[
            list[str] | None, typer.Option(help="A metric, or several split by commas. Default: all scored in both.")
        ] = None,
        as_json: Json = False,
    ) -> None:
        """Say whether two sets rank systems alike, by Kendall's tau: 1 the same order, 0 unrelated, -1 reversed.

        Example: smallhold eval synth agree out/synth out/squad2 --metric f1
        """
        from eval.synth_agree import agreement
        from eval.synth_console import agreement_table, print_tables

        names = tuple(name.strip() for value in metric or [] for name in value.split(",") if name.strip())
        found = agreement(run_synthetic, run_human, names)
        if as_json:
            _print_json([one.to_json() for one in found])
            return
        print_tables(agreement_table(found))
        for warning in dict.fromkeys(one.warning for one in found if one.warning):
            typer.echo(f"Note: {warning}", err=True)

    return app


def _show(out: Path, report: "dict[str, object]", *, as_json: bool) -> None:
    from eval.synth_console import print_tables, survivors_table

    if as_json:
        _print_json(report)
        return
    print_tables(survivors_table(report))
    typer.echo(f"Set: {out}. Review: {out / 'review.html'}", err=True)


def _print_json(value: object) -> None:
    from rag.console import print_json

    print_json(value)
