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
    from rich.markup import escape
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
    console.err.print(f"[dim]kept in {escape(str(store.directory))}[/]")


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
    from rich.markup import escape

    from rag import console
    from rag.build import model_store

    store = model_store(load_settings(config))
    for name in names or [spec.name for spec in store.registry.defaults()]:
        spec = store.registry.get(name)
        with console.byte_progress(spec.bytes) as progress:
            model = store.pull(name, progress, accept_unpinned=accept_unpinned)
        console.out.print(f"{name}: verified, {spec.license}, in {escape(str(model.path))}")


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Models to check. None: all that are here.")] = None,
    config: ConfigFile = None,
) -> None:
    """Hash the weights again, all of them, and compare with the registry. Exit code 1 where one differs."""
    from rag import console
    from rag.build import model_store
    from rag.tuned import TUNED, verify_tuned

    store = model_store(load_settings(config))
    here = [spec.name for spec in store.registry.model if store.is_kept(spec.name)]
    damaged = False
    for name in names or here:
        try:
            with console.byte_progress(store.registry.get(name).bytes) as progress:
                model = store.verify(name, progress)
            console.out.print(f"{name}: whole, fingerprint {model.fingerprint}")
            if (model.path / TUNED).is_file():
                tuned = verify_tuned(model.path)
                console.out.print(f"{name}: tuned weights whole ({tuned.file or 'the same file'})")
        except SmallholdError as error:
            console.print_error(error)
            damaged = True
    if damaged:
        raise typer.Exit(1)


@app.command()
def tune(
    name: Annotated[str, typer.Argument(help="A language model of the registry that is here.")],
    data: Annotated[Path | None, typer.Option(help="QA-set folder to check answers on. Default: the examples.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first N questions.")] = None,
    prompt: Annotated[int, typer.Option(min=16, max=4096, help="Tokens that are read for a usual answer.")] = 256,
    answer: Annotated[int, typer.Option(min=1, max=4096, help="Tokens that are written for it.")] = 8,
    tolerance: Annotated[float, typer.Option(min=0.0, max=1.0, help="How much F1 may be lost at most.")] = 0.03,
    quantizations: Annotated[
        str, typer.Option(help="Quantizations to try, split by commas. Default: Q4_0, Q4_K_M, Q5_0, Q8_0.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be tried, the disk and the time.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the files that were made and not chosen.")] = False,
    reset: Annotated[
        bool, typer.Option("--reset", help="Go back to the registry's file, and forget what was measured.")
    ] = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Find the fastest weights and settings for this machine that answer as well, and use them from then on.

    In stages: other quantizations, made here of the registry's file, are timed in turns; then threads, batches, flash
    attention and the type of kept keys and values, for the best of them; then what is on the Pareto front of reading
    and writing speed answers questions from given passages, the fastest first.

    The rule: chosen is the fastest candidate whose loss of F1 is shown to be small: the 95% interval of the difference
    to the registry's file, paired by question, must lie above minus the tolerance as a whole. It must be at least 3%
    faster in seconds of the usual answer (--prompt tokens read, --answer tokens written).

    The choice is in the readable file tuned.toml beside the weights. It counts for this processor, this
    llama-cpp-python and these weights, and is ignored with a note when one of them changes. Close other programs
    first; interrupt it whenever you like, the same command goes on where it stopped.

    Example: smallhold models tune qwen2.5-coder-0.5b-reader --dry-run
    """
    from rag import cli_tune, cli_tune_show, console

    settings = load_settings(config, {"generator": {"model": name, "endpoint": ""}})
    if reset:
        had = cli_tune.reset(settings)
        console.out.print(f"{name}: the registry's file is used" + ("" if had else ", as before"))
        return
    names = tuple(part.strip().upper() for part in quantizations.split(",") if part.strip())
    prepared = cli_tune.prepare(settings, cli_tune.Wishes(data, limit, prompt, answer, tolerance, names, keep))
    if dry_run:
        cli_tune_show.print_plan(prepared, as_json=as_json)
        return
    try:
        with console.stage_progress() as progress:
            outcome, tuned = cli_tune.tune(prepared, progress)
    except KeyboardInterrupt:
        console.err.print("Interrupted. What was measured is kept; the same command goes on from there.")
        raise typer.Exit(130) from None
    cli_tune_show.print_outcome(prepared, outcome, tuned, as_json=as_json)


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
