"""`smallhold eval judged|score|counterfactual`: how far scorers can be trusted, and whether systems can."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from eval.agreement import Agreement, Scorer
    from eval.judge import ModelJudge
    from rag.embedder import SentenceEmbedder

Similarity = Annotated[bool, typer.Option("--similarity", help="With the embedder's similarity too.")]
Judge = Annotated[str, typer.Option(help="A system whose generator judges too, such as large.")]
Systems = Annotated[Path | None, typer.Option(help="A TOML file of further systems.")]
Config = Annotated[Path | None, typer.Option(help="A TOML file of settings.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands to `smallhold eval`."""

    @app.command()
    def judged(
        source: Annotated[
            Path, typer.Argument(help="EVOUNA's JSON, a QA set with recorded/*.jsonl, or a run with human verdicts.")
        ],
        fit: Annotated[bool, typer.Option("--fit", help="Learn the rule anew, on the first 1,000 questions.")] = False,
        out: Annotated[Path | None, typer.Option(help="The file to write the learnt rule to.")] = None,
        rule: Annotated[Path | None, typer.Option(help="Another rule than the shipped one.")] = None,
        limit: Annotated[int | None, typer.Option(min=1, help="Report on the first N answers alone.")] = None,
        similarity: Similarity = False,
        judge: Judge = "",
        systems: Systems = None,
        config: Config = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    ) -> None:
        """Compare every answer scorer with people's verdicts: agreement and Cohen's kappa, system by system.

        Of a file with more than 1,000 questions those after the first 1,000 are reported, for the rule was learnt on
        these. Also tells which share of answers that list many options each scorer would call right.

        Example: smallhold eval judged triviaqa-judged.json

        Example: smallhold eval judged triviaqa-judged.json --fit --out right.toml
        """
        from eval.agreement import (
            Embedded,
            accepted_lists,
            agreement_table,
            fitting_part,
            learn_rule,
            text_scorers,
            to_json,
        )
        from eval.judged import load_judged
        from eval.right import load_rule, write_rule
        from rag.console import print_json
        from rag.errors import ConfigError

        if fit != (out is not None):
            raise ConfigError("--fit and --out belong together", hint="--out names the file for the learnt rule.")
        answers = load_judged(source)
        first, others = fitting_part(answers)
        with _models(similarity, judge, systems, config) as (embedder, model):
            scorers = text_scorers(None if embedder is None else Embedded(embedder, answers))
            chosen = load_rule(rule)
            if fit and out is not None:
                told = f"{len(first):,} judged answers of {source.name}"
                chosen = learn_rule(first, fitted_on=told, scorers=scorers, kept=chosen.thresholds)
                write_rule(out, chosen)
            reported = (others or first)[:limit]
            table = agreement_table(reported, chosen, scorers, _as_scorer(model))
        lists = accepted_lists(reported, chosen, text_scorers())
        if as_json:
            print_json({"rule": chosen.model_dump(), "agreement": to_json(table), "accepted_option_lists": lists})
            return
        _print(table, lists)
        if out is not None:
            typer.echo(f"Rule: {out}", err=True)

    @app.command()
    def score(
        out: Annotated[Path, typer.Argument(help="The folder of a run.")],
        similarity: Similarity = False,
        judge: Judge = "",
        systems: Systems = None,
        config: Config = None,
    ) -> None:
        """Add the scores that need a model to the rows of a run: similarity, and a language model as a judge.

        Then `smallhold eval report OUT` reports them. What this model has scored already is not asked again; the scores
        of another one are replaced.

        Example: smallhold eval score out/squad2 --similarity --judge large
        """
        from eval.dear import add_scores
        from rag.errors import InvalidRequest

        if not similarity and not judge:
            raise InvalidRequest("nothing to score with", hint="Give --similarity, --judge SYSTEM or both.")
        with _models(similarity, judge, systems, config) as (embedder, model):
            name = embedder.fingerprint if embedder else ""
            counts = add_scores(out, embedder=embedder, embedder_name=name, judge=model)
        for name, count in counts.items():
            typer.echo(f"{name}: {count:,} answers scored")

    @app.command()
    def counterfactual(
        data: Annotated[Path, typer.Argument(help="The QA set.")],
        out: Annotated[Path, typer.Argument(help="The new folder.")],
        seed: Annotated[int, typer.Option(help="Another seed swaps otherwise.")] = 0,
    ) -> None:
        """Rewrite the answers in a copy of the documents: a run on it shows who follows them and who remembers.

        Numbers, dates and names are swapped for others of their kind, in documents and right answers alike. The run's
        `memorised` counts answers that are right by the original documents and wrong by these.

        Example: smallhold eval counterfactual my-set my-set-rewritten
        """
        from eval.counterfactual import counterfactual_qaset

        made = counterfactual_qaset(data, out, seed=seed)
        typer.echo(f"{out}: {made.kept:,} of {made.questions:,} questions kept")
        for reason, count in made.left_out.items():
            typer.echo(f"left out, {reason}: {count:,}")


@contextmanager
def _models(
    similarity: bool, judge: str, systems: Path | None, config: Path | None
) -> "Iterator[tuple[SentenceEmbedder | None, ModelJudge | None]]":
    """Yield the embedder and the judge that were asked for."""
    from eval.judge import open_judge
    from eval.system_file import choose_systems, load_systems
    from rag.config import load_settings

    with ExitStack() as opened:
        embedder, model = None, None
        if similarity or judge:
            settings = load_settings(config)
        if similarity:
            from rag.build import build_embedder, model_store

            embedder = build_embedder(settings, model_store(settings))
        if judge:
            (row,) = choose_systems([judge], load_systems(systems))
            model = opened.enter_context(open_judge(row, settings))
        yield embedder, model


def _as_scorer(model: "ModelJudge | None") -> "Scorer | None":
    return None if model is None else lambda a: model.right(a.question, a.answer, a.gold)


def _print(table: "list[Agreement]", lists: dict[str, float]) -> None:
    from rich.table import Table

    from eval.console import print_table

    systems = list(dict.fromkeys(row.system for row in table))
    shown = Table("scorer", *systems, "option lists", title="Agreement with people (95% interval), kappa, answers")
    for scorer in dict.fromkeys(row.scorer for row in table):
        cells = {row.system: _cell(row) for row in table if row.scorer == scorer}
        accepted = f"{lists[scorer]:.3f}" if scorer in lists else "-"
        shown.add_row(scorer, *(cells[system] for system in systems), accepted)
    print_table(shown)


def _cell(row: "Agreement") -> Any:
    if row.agreement is None:
        return "-"
    unscored = f", {row.unscored:,} unscored" if row.unscored else ""
    return f"{row.agreement:.3f} ({row.low:.3f} to {row.high:.3f}), {row.kappa:.2f}\n{row.n:,}{unscored}"
