"""The command line, `smallhold index|store|warm|ask|chat|serve|top|keys|feedback|calibrate|eval|models|doctor`.

Parts are imported when a command needs them, so that `--help` is instant.
"""

import errno
import os
import signal
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from rag import cli_feedback, cli_keys, cli_models, cli_store, cli_sync
from rag.config import Settings, load_settings
from rag.errors import ConfigError, InvalidRequest, SmallholdError, Unavailable

# What the system may refuse anywhere, and no fault of the program's.
_REFUSALS = frozenset((errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EMFILE, errno.ENFILE))

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Answers from your documents by a small local model, with sources, or an honest 'the documents do not say'."
    '\n\nBegin with `smallhold index FOLDER`, then `smallhold ask "..."` or `smallhold serve`.'
    "\n\nExit codes: 0 done, 1 a check failed or a document could not be read, 2 bad usage or input, "
    "3 something the run needs is missing or broken.",
)
app.add_typer(cli_models.app, name="models")
app.add_typer(cli_keys.app, name="keys")
app.add_typer(cli_feedback.app, name="feedback")
app.add_typer(cli_store.app, name="store")
app.command("doctor")(cli_models.doctor)

IndexDir = Annotated[Path | None, typer.Option("--index", help="The index directory. (default: .smallhold/index)")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file of settings.")]
ModelName = Annotated[str | None, typer.Option("--model", help="A generator of the registry, or a GGUF file.")]
Passages = Annotated[int | None, typer.Option("--passages", min=1, max=50, help="Passages given to the model.")]
NoAbstain = Annotated[bool, typer.Option("--no-abstain", help="Answer however unsure.")]
Risk = Annotated[
    float | None,
    typer.Option(help="Largest share of the answers given that may be wrong, such as 0.2; see `smallhold calibrate`."),
]
Length = Annotated[
    int | None,
    typer.Option(
        "--length",
        min=0,
        max=2000,
        help="Most words of an answer composed of the documents' sentences, whatever the question; 0: a short answer.",
    ),
]
Wanted = Annotated[
    str | None,
    typer.Option("--filter", help='Documents to answer from, as JSON: \'{"path": {"glob": "hr/**"}, "type": "pdf"}\'.'),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.callback(invoke_without_command=True)
def _root(show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show_version:
        typer.echo(f"smallhold {version('smallhold')}")
        raise typer.Exit


app.command("index")(cli_sync.index)


@app.command()
def warm(
    index_dir: IndexDir = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read the first N passages alone.")] = None,
    model: ModelName = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what disk it takes, and read nothing.")] = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Read every passage of the index now, so that a question over one reads nothing but the question.

    What the model has read of a passage, some megabytes, is kept on disk beside the weights, within
    generator.prefix_disk_mb. The disk it takes is said first, and what does not fit is refused. States count for this
    model and this llama.cpp only; after a change of either run it again. Follow-up questions read their passages anew.
    A server that is running takes note of the states when it is started again.

    Interrupt it whenever you like: what was read is kept, and the same command goes on from there.

    Example: SMALLHOLD_GENERATOR__PREFIX_DISK_MB=5000 smallhold warm
    """
    from rag import console
    from rag.cli_warm import warm_index

    settings = _settings(config, index_dir, generator={"model": model})
    try:
        warm_index(settings, limit=limit, dry_run=dry_run, as_json=as_json)
    except KeyboardInterrupt:
        console.err.print("Interrupted. What was read is kept; the same command goes on from there.")
        raise typer.Exit(130) from None


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="The question, in quotes.")],
    index_dir: IndexDir = None,
    model: ModelName = None,
    passages: Passages = None,
    no_abstain: NoAbstain = False,
    length: Length = None,
    risk: Risk = None,
    wanted: Wanted = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Answer one question from the index, with numbered sources, or say that there is no answer and what comes closest.

    Questions that ask why or how, or to explain, compare or list, get several sentences of the documents. A filter
    names path, type, tags, date or title of the documents to answer from (docs/filters.md).

    Example: smallhold ask "Who built the mill?"

    Example: smallhold ask "Who built the mill?" --filter '{"date": {"to": "1950-12-31"}}'
    """
    from rag import console
    from rag.options import AskOptions

    _refuse_both(risk, {"--no-abstain": no_abstain, "--length": length is not None, "--filter": wanted is not None})
    settings = _settings(
        config,
        index_dir,
        # Weights in int8 are made in some seconds at each start, and a single answer wins one back.
        generator={"model": model, "int8": False},
        evidence={"passages": passages},
        abstention={"risk": risk},
    )
    options = AskOptions(abstain=False if no_abstain else None, words=length, view=_view(wanted))
    with _pipeline(settings) as pipeline:
        answer = pipeline.answer(question, options=options)
    if as_json:
        console.print_json(console.answer_json(question, answer))
    else:
        console.print_answer(answer)


@app.command()
def chat(
    index_dir: IndexDir = None,
    model: ModelName = None,
    passages: Passages = None,
    no_abstain: NoAbstain = False,
    length: Length = None,
    wanted: Wanted = None,
    show_question: Annotated[
        bool, typer.Option("--show-question", help="Say as which question each follow-up was understood.")
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Talk with the index in the terminal. /new starts over, /quit ends.

    A follow-up ("and when did it burn?") becomes a question of its own from what was said before, which is searched for
    and asked of the model; a change of topic is noticed by itself.

    Example: smallhold chat --show-question
    """
    from rag import console
    from rag.datatypes import Message
    from rag.options import AskOptions
    from rag.pipeline import said

    settings = _settings(config, index_dir, generator={"model": model}, evidence={"passages": passages})
    options = AskOptions(abstain=False if no_abstain else None, words=length, view=_view(wanted))
    history: list[Message] = []
    with _pipeline(settings) as pipeline:
        console.err.print("[dim]Ask away. /new starts over, /quit ends. Ctrl-C stops an answer.[/]")
        while (line := _read_line()) not in {None, "/quit", "/exit"}:
            if line == "/new":
                history.clear()
            elif line:
                try:
                    answer = console.stream_answer(pipeline.stream(line, history, options))
                except SmallholdError as error:
                    console.print_error(error)
                    continue
                if answer is not None:
                    if show_question and answer.question != line:
                        console.print_question(answer.question)
                    history += [Message("user", line), Message("assistant", said(answer))]


@app.command()
def serve(
    index_dir: IndexDir = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. (default: 127.0.0.1)")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one. (default: 8080)")] = None,
    model: ModelName = None,
    risk: Risk = None,
    config: ConfigFile = None,
) -> None:
    """Serve the chat page and the OpenAI-compatible endpoint.

    Listens on this machine only unless --host says otherwise; then every request needs an API key (`smallhold keys`).
    /health answers at once, /ready once the model and the index are loaded.

    Example: smallhold serve --port 8080, then open http://127.0.0.1:8080
    """
    # Until the server is there to end in good order, nothing has to be: the imports alone take seconds.
    endings = [signal.SIGTERM] + [signal.SIGHUP] * (signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN)
    before = {number: signal.signal(number, lambda *_: os._exit(0)) for number in endings}
    try:
        from rag.serve import run_server

        flags = {"host": host, "port": port}
        run_server(_settings(config, index_dir, generator={"model": model}, server=flags, abstention={"risk": risk}))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@app.command()
def top(
    url: Annotated[str, typer.Option(help="Address of the server.")] = "http://127.0.0.1:8080",
    interval: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print the figures since the server's start, and end.")] = False,
    key: Annotated[
        str | None,
        typer.Option(envvar="SMALLHOLD_API_KEY", help="An API key, where the server needs one."),
    ] = None,
) -> None:
    """Show what a running server is doing: requests, queue, tokens, times, index, memory, cost. Ctrl-C ends it.

    Rates and quantiles are those of the last minute, at first those since the server was started.

    Example: smallhold top --url http://127.0.0.1:8080 --interval 2
    """
    from rag.cli_top import show_live, show_once

    if once:
        show_once(url, key)
    else:
        show_live(url, key, interval)


@app.command()
def calibrate(
    data: Annotated[list[Path], typer.Option(help="A QA-set folder of questions about your documents; repeatable.")],
    out: Annotated[Path, typer.Option(help="The file to write, for the setting abstention.file.")],
    index_dir: Annotated[
        Path | None,
        typer.Option("--index", help="Ask this index instead of one made of each QA set's own documents."),
    ] = None,
    model: ModelName = None,
    keep_right: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Without a risk target: share of the right answers that must be given."),
    ] = 0.9,
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first N questions of each set.")] = None,
    runs: Annotated[
        Path | None,
        typer.Option(help="The folder where the answers are kept. (default: OUT with -runs behind its name)"),
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Fit to your own questions when to answer, and say which share of wrong answers that can promise.

    Answers every question of the QA sets with nothing withheld, fits on half of the answers how likely one is right,
    and tests on the other half which risk targets can be kept: `smallhold ask --risk 0.2` then holds with 95%
    confidence on new questions like these. Some should have no answer in the documents, as many as you expect to be
    asked. Interrupt it whenever you like: the same command goes on where it stopped.

    Example: smallhold calibrate --data my-questions --index .smallhold/index --out abstention.toml
    """
    from rag.cli_calibrate import calibrate_on, show_calibration

    settings = _settings(config, None, generator={"model": model})
    runs = runs or out.with_name(f"{out.stem}-runs")
    found = calibrate_on(settings, data, out, index=index_dir, keep_right=keep_right, limit=limit, runs=runs)
    show_calibration(found, out, as_json=as_json)


def mount_eval() -> None:
    """Add `eval`, whose commands are told how to open a system; metrics and reports need none of that."""
    from eval.cli import make_app

    def open_systems(qaset: Any, settings: Settings, out: Path, cache: Path | None = None) -> Any:
        from rag.cli_eval import open_systems

        return open_systems(qaset, settings, out, cache)

    def load_folder(folder: Path) -> Any:
        from rag.cli_synth import load_folder

        return load_folder(folder)

    def open_source(path: Path, settings: Settings) -> Any:
        from rag.cli_synth import open_source

        return open_source(path, settings)

    app.add_typer(make_app(open_systems, load_folder=load_folder, open_source=open_source), name="eval")


def _refuse_both(risk: float | None, others: Mapping[str, bool]) -> None:
    """Refuse a promise about answers that nothing withholds, or that are not those which were tested."""
    for flag in (flag for flag, given in others.items() if given and risk is not None):
        raise ConfigError(
            f"--risk and {flag} exclude each other",
            hint="A risk target is kept by abstaining, and holds for answers as they were tested.",
        )


def _view(wanted: str | None) -> Any:
    """Return the view of a filter as JSON. Labels hold back nothing here: the index's files are this user's to read."""
    from rag.filter import EVERYTHING, View, parse_filter

    return EVERYTHING if wanted is None else View(parse_filter(wanted))


def _read_line() -> str | None:
    from rag.console import print_error

    try:
        return input("\n> ").strip()
    except (EOFError, KeyboardInterrupt):
        return None
    except UnicodeDecodeError:
        print_error(InvalidRequest("the line holds bytes that are no UTF-8", hint="Is the terminal set to UTF-8?"))
        return ""


def _settings(config: Path | None, index_dir: Path | None, **sections: dict[str, Any]) -> Settings:
    """Read the settings with the flags that were given."""
    flags = {name: {k: v for k, v in values.items() if v is not None} for name, values in sections.items()}
    if index_dir is not None:
        flags["index"] = {"dir": index_dir}
    return load_settings(config, {name: values for name, values in flags.items() if values})


def _pipeline(settings: Settings) -> Any:
    from rag.build import local_pipeline

    return local_pipeline(settings)


def main() -> None:
    """Run the command line; errors of ours become one message and an exit code."""
    from rag.console import err, print_error

    try:
        mount_eval()
        app(prog_name="smallhold")
    except SmallholdError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("[dim]interrupted[/]")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print_error(Unavailable(f"{where}{error.strerror}", hint="See to that, then run it again."))
        sys.exit(Unavailable.exit_code)


if __name__ == "__main__":
    main()
