"""The command line of the benchmark; see `benchmarks.engine` for what it measures."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.engine.report import show, write
from benchmarks.engine.rounds import WORKLOADS
from benchmarks.engine.session import Plan, Session
from rag.console import err, print_error
from rag.errors import SmallholdError

ROOT = Path(__file__).resolve().parent.parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; Ctrl-C leaves what there is, marked as not complete."""
    plan, path = parse(arguments)
    session = Session(plan)
    status = 0
    try:
        session.run()
    except KeyboardInterrupt:
        err.print("stopped; what was measured is kept")
        status = 130
    except SmallholdError as error:
        print_error(error)
        return error.exit_code
    write(path, session.journal, session.head(), session.soaked)
    show(session.journal, session.notes, session.soaked)
    err.print(f"written to {path}")
    return status


def parse(arguments: Sequence[str] | None) -> tuple[Plan, Path]:
    """Return what to measure and where to write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "examples" / "qa", help="a QA-set folder")
    parser.add_argument("--model", help="a generator of the registry or a GGUF file; the settings decide if unset")
    parser.add_argument("--runs", type=int, help="runs of every measurement (5)")
    parser.add_argument("--quick", action="store_true", help="very little of everything, to see that it works")
    parser.add_argument("--skip-peers", action="store_true", help="measure our engine and the limits alone")
    parser.add_argument("--published-peers", action="store_true", help="take xllamacpp as published; compile nothing")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="which of %(default)s")
    parser.add_argument("--soak", action="store_true", help="the 1,000 streamed answers by 32 clients, too")
    parser.add_argument("--soak-model", default="smollm2-135m-instruct", help="the model of the soak (%(default)s)")
    parser.add_argument("--cache", type=Path, default=Path(".smallhold/bench"), help="where the indexed corpus is kept")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "engine.json", help="the JSON")
    args = parser.parse_args(arguments)
    workloads = tuple(name for name in args.workloads.split(",") if name)
    if unknown := set(workloads) - set(WORKLOADS):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    plan = Plan(
        data=args.data,
        model=args.model,
        workloads=workloads,
        runs=args.runs,
        quick=args.quick,
        peers=not args.skip_peers,
        published=args.published_peers,
        soak=args.soak,
        soak_model=args.soak_model,
        cache=args.cache,
    )
    return plan, args.out


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # being told to end keeps what there is, too
    sys.exit(main())
