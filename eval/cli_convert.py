"""`smallhold eval convert`: other people's data to QA-set folders."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from eval.convert_csv import LoadFolder
    from eval.qaset import QASet


def make_app(load_folder: "LoadFolder | None") -> typer.Typer:
    """Return the commands; `load_folder(path)` reads the documents of a folder of files."""
    app = typer.Typer(no_args_is_help=True, help="Make a QA-set folder of other people's data.")
    name_option = typer.Option(help="Name of the set. Default: that of the source.")
    license_option = typer.Option("--license", help="Licence of the data.")

    @app.command()
    def squad(
        source: Annotated[Path, typer.Argument(help="A SQuAD v1.1 or v2.0 JSON file.")],
        out: Annotated[Path, typer.Argument(help="The new folder.")],
        name: Annotated[str, name_option] = "",
        license_: Annotated[str, license_option] = "",
    ) -> None:
        """Convert SQuAD JSON: each paragraph becomes a document.

        Example: smallhold eval convert squad dev-v2.0.json my-squad --license "CC BY-SA 4.0"
        """
        from eval.convert import squad_to_qaset
        from eval.qaset_draft import UNKNOWN_LICENSE

        _say(squad_to_qaset(source, out, name=name, license_=license_ or UNKNOWN_LICENSE), out)

    @app.command()
    def beir(
        source: Annotated[Path, typer.Argument(help="A folder with corpus.jsonl, queries.jsonl and qrels/.")],
        out: Annotated[Path, typer.Argument(help="The new folder.")],
        split: Annotated[str, typer.Option(help="Which qrels/SPLIT.tsv.")] = "test",
        name: Annotated[str, name_option] = "",
        license_: Annotated[str, license_option] = "",
    ) -> None:
        """Convert a BEIR folder to a set for retrieval alone.

        Example: smallhold eval convert beir beir/scifact my-scifact
        """
        from eval.convert import beir_to_qaset
        from eval.qaset_draft import UNKNOWN_LICENSE

        _say(beir_to_qaset(source, out, split=split, name=name, license_=license_ or UNKNOWN_LICENSE), out)

    @app.command()
    def hotpot(
        source: Annotated[Path, typer.Argument(help="A HotpotQA JSON file with answers.")],
        out: Annotated[Path, typer.Argument(help="The new folder.")],
        name: Annotated[str, name_option] = "",
        license_: Annotated[str, license_option] = "",
    ) -> None:
        """Convert HotpotQA JSON: each paragraph becomes a document, those of the supporting facts are relevant.

        Example: smallhold eval convert hotpot hotpot_dev_distractor_v1.json my-hotpot --license "CC BY-SA 4.0"
        """
        from eval.convert_hotpot import hotpot_to_qaset
        from eval.qaset_draft import UNKNOWN_LICENSE

        _say(hotpot_to_qaset(source, out, name=name, license_=license_ or UNKNOWN_LICENSE), out)

    @app.command()
    def qed(
        sources: Annotated[list[Path], typer.Argument(help="JSON-lines files of QED.")],
        out: Annotated[Path, typer.Option(help="The new folder.")],
        name: Annotated[str, name_option] = "",
        license_: Annotated[str, license_option] = "",
    ) -> None:
        """Convert QED: search questions of Natural Questions, answered by one sentence of a paragraph.

        Example: smallhold eval convert qed qed-dev.jsonlines --out my-qed --license "CC BY-SA 3.0"
        """
        from eval.convert_qed import qed_to_qaset
        from eval.qaset_draft import UNKNOWN_LICENSE

        _say(qed_to_qaset(sources, out, name=name, license_=license_ or UNKNOWN_LICENSE), out)

    @app.command("csv")
    def csv_(
        source: Annotated[Path, typer.Argument(help="A CSV file with the columns question and answer.")],
        out: Annotated[Path, typer.Argument(help="The new folder.")],
        documents: Annotated[Path, typer.Option(help="The folder of documents, or a corpus.jsonl.")],
        separator: Annotated[str, typer.Option(help="What splits several right answers in one cell.")] = "|",
        delimiter: Annotated[str, typer.Option(help="What splits cells. Default: comma, semicolon or tab.")] = "",
        encoding: Annotated[str, typer.Option(help="The file's encoding.")] = "utf-8-sig",
        name: Annotated[str, name_option] = "",
        license_: Annotated[str, license_option] = "",
    ) -> None:
        """Convert a table of questions and answers, over documents of your own.

        Optional columns: id, answerable (true or false; false goes with an empty answer) and relevant (ids of the
        documents that hold the answer, which are their paths in the folder).

        Example: smallhold eval convert csv questions.csv my-set --documents ~/handbook
        """
        from eval.convert_csv import CsvForm, csv_to_qaset
        from eval.qaset_draft import UNKNOWN_LICENSE

        assert load_folder is not None, "the command line is made with something that loads folders"
        form = CsvForm(delimiter.replace("\\t", "\t"), separator, encoding)
        _say(
            csv_to_qaset(
                source, documents, out, load_folder, form=form, name=name, license_=license_ or UNKNOWN_LICENSE
            ),
            out,
        )

    @app.command()
    def foreign(
        questions: Annotated[Path, typer.Argument(help="The QA set whose questions are asked.")],
        corpus: Annotated[Path, typer.Argument(help="The QA set whose documents hold none of the answers.")],
        out: Annotated[Path, typer.Argument(help="The new folder.")],
    ) -> None:
        """Put the questions of one QA set to the documents of another: all unanswerable, for `calibrate`.

        Example: smallhold eval convert foreign questions-of-others my-set foreign-set
        """
        from eval.convert_unanswerable import foreign_to_qaset

        _say(foreign_to_qaset(questions, corpus, out), out)

    @app.command()
    def withheld(
        source: Annotated[Path, typer.Argument(help="A QA set with answers.")],
        out: Annotated[Path, typer.Argument(help="The new folder.")],
        seed: Annotated[int, typer.Option(help="Which half of the documents is withheld.")] = 0,
    ) -> None:
        """Withhold half of a set's documents from their own questions: near misses, for `calibrate`.

        Example: smallhold eval convert withheld my-set withheld-set
        """
        from eval.convert_unanswerable import withheld_to_qaset

        _say(withheld_to_qaset(source, out, seed=seed), out)

    return app


def _say(qaset: "QASet", out: Path) -> None:
    typer.echo(f"{out}: {len(qaset.questions):,} questions over {qaset.documents_count:,} documents")
