"""`smallhold feedback`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rag.config import load_settings

app = typer.Typer(no_args_is_help=True, help="What people said of answers, where feedback.enabled lets them.")

ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file of settings.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command("list")
def list_feedback(config: ConfigFile = None, as_json: Json = False) -> None:
    """Show what was said, the latest last. What is older than feedback.days is removed first."""
    from rich.markup import escape
    from rich.table import Table

    from rag import console

    settings = load_settings(config)
    said = _book(settings.feedback).read()
    if as_json:
        console.print_json([_plain(one) for one in said])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("day", "rating", "question", "answer", "comment", "should be"):
        table.add_column(column, overflow="fold")
    for one in said:
        answer = one.answer or f"({one.verdict})"
        texts = (one.question, answer, one.opinion.comment, one.opinion.right_answer)
        table.add_row(str(one.at.date()), one.opinion.rating, *(escape(_printable(text)) for text in texts))
    console.out.print(table)
    place = escape(str(settings.feedback.file))
    console.err.print(f"[dim]kept in {place} for {settings.feedback.days} days[/]")


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="The QA-set folder to write, new or empty.")],
    index_dir: Annotated[
        Path | None, typer.Option("--index", help="The index that was asked. (default: .smallhold/index)")
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Write a QA set of what was said, over the documents of the index, for `smallhold eval run --data`.

    A helpful answer is right, and so is what somebody wrote in place of a wrong one; a helpful abstention is a question
    without an answer. What was only found wrong goes into review.jsonl: give it answers and move it to questions.jsonl.

    Example: smallhold feedback export --out my-questions --index .smallhold/index
    """
    from rich.markup import escape

    from eval.feedback_set import REVIEW, write_feedback_set
    from rag import console
    from rag.datatypes import Document
    from rag.errors import UnknownDocument
    from rag.index import Index

    flags = {"index": {"dir": index_dir}} if index_dir is not None else {}
    settings = load_settings(config, flags)
    with Index.open(settings.index.dir) as index:

        def find(id_: str) -> Document | None:
            try:
                return index.document(id_)
            except UnknownDocument:
                return None

        documents = (index.document(entry.id) for entry in index.documents())
        exported = write_feedback_set(out, documents, _book(settings.feedback).read(), find)
    if as_json:
        console.print_json({"out": str(out), **exported._asdict()})
        return
    console.out.print(f"{escape(str(out))}: {exported.questions:,} questions over {exported.documents:,} documents")
    if exported.review:
        waiting = f"{exported.review:,} more wait in {REVIEW} for their right answers"
        console.err.print(f"[dim]{waiting}; complete them and move them to questions.jsonl.[/]")


def _book(settings: Any) -> Any:
    from rag.feedback import FeedbackBook

    return FeedbackBook(settings.file, settings.days)


def _plain(one: Any) -> dict[str, Any]:
    """A rating as JSON values."""
    history = [{"role": turn.role, "content": turn.content} for turn in one.history]
    fields = {**one._asdict(), "at": one.at.isoformat(), "history": history, "cited": list(one.cited)}
    return {**fields, **fields.pop("opinion")._asdict()}


def _printable(text: str) -> str:
    """On one line, and nothing in it that a terminal obeys: the texts are strangers'."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
