"""`smallhold models` and `smallhold doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from rag.config import load_settings
from rag.errors import SmallholdError

app = typer.Typer(no_args_is_help=True, help="Model weights: where each comes from, its licence and its SHA-256.")

ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file of settings.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command("list")
def list_models(config: ConfigFile = None, as_json: Json = False) -> None:
    """Show the models of the registry: kind, size, licence, sources, and whether they are here."""
    from rich.table import Table

    from rag import console
    from rag.build import model_store

    store = model_store(load_settings(config))
    if as_json:
        rows = [{**spec.model_dump(), "here": store.is_kept(spec.name)} for spec in store.registry.model]
        console.print_json(rows)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "kind", "size", "licence", "here", "about"):
        table.add_column(column, overflow="fold")
    for spec in store.registry.model:
        here = "yes" if store.is_kept(spec.name) else "no" if spec.pinned else "no, unpinned"
        size = f"{spec.bytes / 1e6:,.0f} MB" if spec.bytes else "?"
        table.add_row(spec.name, spec.kind, size, spec.license, here, spec.about)
    console.out.print(table)
    console.err.print(f"[dim]kept in {store.directory}[/]")


@app.command()
def pull(
    names: Annotated[list[str] | None, typer.Argument(help="Models of the registry. None: the default ones.")] = None,
    accept_unpinned: Annotated[
        bool, typer.Option("--accept-unpinned", help="Take a model that the registry has no hash for, and pin it.")
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Fetch models and check them against their SHA-256; what is here and whole already is left alone.

    Example: smallhold models pull qwen2.5-coder-1.5b-instruct
    """
    from rag import console
    from rag.build import model_store

    store = model_store(load_settings(config))
    for name in names or [spec.name for spec in store.registry.defaults()]:
        spec = store.registry.get(name)
        with console.byte_progress(spec.bytes) as progress:
            model = store.pull(name, progress, accept_unpinned=accept_unpinned)
        console.out.print(f"{name}: verified, {spec.license}, in {model.path}")


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Models to check. None: all that are here.")] = None,
    config: ConfigFile = None,
) -> None:
    """Hash the weights again, all of them, and compare with the registry. Exit code 1 where one differs."""
    from rag import console
    from rag.build import model_store

    store = model_store(load_settings(config))
    here = [spec.name for spec in store.registry.model if store.is_kept(spec.name)]
    damaged = False
    for name in names or here:
        try:
            with console.byte_progress(store.registry.get(name).bytes) as progress:
                model = store.verify(name, progress)
            console.out.print(f"{name}: whole, fingerprint {model.fingerprint}")
        except SmallholdError as error:
            console.print_error(error)
            damaged = True
    if damaged:
        raise typer.Exit(1)


def doctor(
    index_dir: Annotated[Path | None, typer.Option("--index", help="The index directory to check.")] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Check the machine, the weights and the index. Each failure prints what mends it; then the exit code is 1."""
    from rag import console
    from rag.doctor import examine

    settings = load_settings(config, {"index": {"dir": index_dir}} if index_dir else {})
    findings = []
    for finding in examine(settings):
        findings.append(finding)
        if not as_json:
            console.print_finding(finding)
    if as_json:
        console.print_json([finding._asdict() for finding in findings])
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)
