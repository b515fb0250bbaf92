"""`smallhold keys`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rag.config import load_settings

app = typer.Typer(no_args_is_help=True, help="API keys: who may use a server that others can reach, and how much.")

ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file of settings.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def create(
    label: Annotated[str, typer.Option(help="Whose key it is, or what for.")],
    budget: Annotated[
        int | None,
        typer.Option("--budget-tokens-per-day", min=1, help="Tokens that it may use each UTC day. Default: no limit."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="An access label whose documents it may see, beside those without labels; may be repeated. "
            "'*' are all labels."
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once: only its hash is kept. A running server takes it at once.

    Example: smallhold keys create --label laptop --budget-tokens-per-day 200000
    """
    from rich.markup import escape

    from rag import console
    from rag.keys import create_key

    path = load_settings(config).server.keys
    made = create_key(path, label, tokens_per_day=budget, allow=allow or ())
    if as_json:
        console.print_json({"key": made.text, **_shown(made.key)})
        return
    console.out.print(made.text)
    console.err.print(f"[dim]The key {made.key.id}, kept as a hash in {escape(str(path))}. It is not shown again.[/]")


@app.command("list")
def list_keys(config: ConfigFile = None, as_json: Json = False) -> None:
    """Show the keys that were made, with what those with a budget have used today. The keys themselves are not kept."""
    from rich.markup import escape
    from rich.table import Table

    from rag import console
    from rag.budget import Ledger, ledger_path
    from rag.keys import load_keys

    path = load_settings(config).server.keys
    ledger = Ledger(ledger_path(path))
    rows = [
        {**_shown(key), "tokens_today": ledger.spent(key) if key.tokens_per_day else None} for key in load_keys(path)
    ]
    ledger.close()
    if as_json:
        console.print_json(rows)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("id", "label", "made", "revoked", "tokens a day", "today", "may read"):
        table.add_column(column, overflow="fold")
    for row in rows:
        numbers = ["" if row[name] is None else f"{row[name]:,}" for name in ("tokens_per_day", "tokens_today")]
        dates = [str(row[name] or "")[:10] for name in ("created", "revoked")]
        table.add_row(row["id"], escape(row["label"]), *dates, *numbers, escape(", ".join(row["allow"])))
    console.out.print(table)
    console.err.print(f"[dim]kept in {escape(str(path))}[/]")


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Id or label of a key, as `smallhold keys list` shows them.")],
    config: ConfigFile = None,
) -> None:
    """Revoke a key. A running server refuses it from the next request on.

    Example: smallhold keys revoke laptop
    """
    from rich.markup import escape

    from rag import console
    from rag.keys import revoke_key

    revoked = revoke_key(load_settings(config).server.keys, key)
    console.out.print(f"{revoked.id}: revoked ({escape(revoked.label)})")


def _shown(key: Any) -> dict[str, Any]:
    """What may be shown of a key: all but the hash."""
    shown: dict[str, Any] = key.model_dump(mode="json", exclude={"sha256"})
    return shown
