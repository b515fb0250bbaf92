"""Does the server keep the contract of its own OpenAPI document? Schemathesis asks, with whatever the document allows.

    python -m benchmarks.contract                     500 examples an operation, in the process, over stand-in models
    python -m benchmarks.contract --examples 50       fewer

Three kinds of request: boundary values of every field and odd methods (`coverage`), random ones within and outside of
the schemas (`fuzzing`), and chains along the document's links (`stateful`). Of each answer its status, type, headers
and body must be as the document says; none may be a 5xx; what is within the schemas must be accepted and what is not
refused; and without the key all must be refused.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import schemathesis
from fastapi import FastAPI
from rich.table import Table
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import Failure
from schemathesis.core.transport import Response
from schemathesis.engine import events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder
from schemathesis.openapi.checks import RejectedPositiveData

from benchmarks.standin import build_index, load_service
from rag.api import MAX_TOKENS, ChatRequest
from rag.app import create_app
from rag.config import FeedbackSettings, ServerSettings
from rag.console import err, out
from rag.index import Index
from rag.keys import create_key

PHASES = ("examples", "coverage", "fuzzing", "stateful")
# The rules that no schema can say, by what is answered.
UNSAID = (
    r"messages: the last message",
    r"messages\[\d+\]\.content: only the assistant",
    r"tools: tools cannot be called|functions: functions cannot be called",
    r"dimensions|this model's vectors have \d+ dimensions",
    r"filter.*has more than \d+ parts",
    r"a risk (of|target holds)",
    r"(query|question|the question).* is empty",
)
QUESTION = {"role": "user", "content": "When was the ferry number 3 of the harbour told?"}


@dataclass
class Tally:
    """What came of a run: requests by operation and phase, statuses by operation, and every breach of the contract."""

    requests: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    breaches: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def take(self, phase: str, recorder: ScenarioRecorder) -> None:
        """Count what one scenario sent and got."""
        for id_, node in recorder.cases.items():
            label, told = node.value.operation.label, recorder.interactions.get(id_)
            self.requests[label][phase] += 1
            if told is not None and told.response is not None:
                self.statuses[label][told.response.status_code] += 1
            for check in recorder.checks.get(id_, ()):
                if check.failure_info is not None:
                    failure = check.failure_info.failure
                    said = f"{failure.title}\n{failure.message}\n{check.failure_info.code_sample[:2000]}"
                    self.breaches.setdefault(f"{label}: {check.name}: {failure.title}", said)

    def as_json(self) -> dict[str, Any]:
        """Return it all."""
        return {
            "seconds": round(self.seconds, 1),
            "operations": {
                label: {"requests": dict(self.requests[label]), "statuses": dict(sorted(self.statuses[label].items()))}
                for label in self.requests
            },
            "breaches": self.breaches,
        }


def check(
    app: FastAPI, key: str, *, examples: int, chains: int, phases: Sequence[str] = PHASES, seed: int = 7
) -> Tally:
    """Ask an application whatever its document allows and forbids; `examples` an operation, `chains` along links."""
    config = SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "headers": {"Authorization": f"Bearer {key}"},
            "workers": 1,
            "output": {"sanitization": {"enabled": False}},
            "checks": {"negative_data_rejection": {"expected-statuses": [400, 401, 404, 405, 413, 415]}},
            "analysis": {"constants": {"enabled": False}},
            "generation": {"deterministic": True, "max-examples": examples},
            "phases": {
                **{name: {"enabled": name in phases} for name in PHASES},
                "stateful": {"enabled": "stateful" in phases, "generation": {"max-examples": chains}},
            },
        }
    )
    schema = schemathesis.openapi.from_asgi(
        "/openapi.json", app, config=config, headers={"Authorization": f"Bearer {key}"}
    )
    schema.hook("map_body")(_with_question)
    schema.hook("filter_failure")(_is_breach)
    tally, began = Tally(), time.perf_counter()
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            tally.take(event.phase.value, event.recorder)
        elif isinstance(event, events.NonFatalError):
            tally.breaches.setdefault(f"{event.label}: {event.phase}", str(event.value))
        elif isinstance(event, events.FatalError):
            raise event.exception
    tally.seconds = time.perf_counter() - began
    return tally


def _with_question(_context: Any, body: Any) -> Any:
    """Let a chat that is within the schema end in a question, and mostly name the model: it is to be answered."""
    if not isinstance(body, dict) or not isinstance(turns := body.get("messages"), list) or not turns:
        return body
    model = (
        "smallhold" if isinstance(body.get("model"), str) and len(body["model"]) % 4 else body.get("model", "default")
    )
    asked = {**body, "messages": [*turns, QUESTION]}
    try:
        ChatRequest.model_validate_json(json.dumps(asked))
    except ValueError:
        return body
    return {**asked, "model": model}


def _is_breach(_context: Any, failure: Failure, _case: Any, response: Response) -> bool:
    """Whether a failed check is one: not where a rule was applied that no schema can say, nor where an object became a
    parameter of the query several times over, of which the last one counts.
    """
    names = [name for name, _ in parse_qsl(urlsplit(response.request.url or "").query, keep_blank_values=True)]
    if response.status_code < 400 and len(names) > len(set(names)):
        return False
    if not isinstance(failure, RejectedPositiveData) or response.status_code != 400:
        return True
    said = json.loads(response.content)["error"]["message"]
    return not any(re.match(rule, said) for rule in UNSAID)


def make_app(folder: Path) -> tuple[FastAPI, Index, str]:
    """Return an application over stand-ins that demands keys and takes feedback, its index, and a key."""
    index = Index.open(build_index(folder / "index"))
    key = create_key(folder / "keys.json", "contract", allow=["staff"]).text
    server = ServerSettings(
        host="0.0.0.0",  # for the demand of keys: nothing listens
        keys=folder / "keys.json",
        # As long as the document allows, so that it is the only limit.
        max_tokens=MAX_TOKENS,
    )
    feedback = FeedbackSettings(enabled=True, file=folder / "feedback.sqlite")
    return create_app(lambda: load_service(index, context=10 * MAX_TOKENS), server, feedback=feedback), index, key


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write; 1 where the contract is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contract", description=__doc__)
    parser.add_argument("--examples", type=int, default=500, help="an operation (%(default)s)")
    parser.add_argument("--chains", type=int, default=200, help="along the document's links (%(default)s)")
    parser.add_argument("--phases", default=",".join(PHASES), help="which of %(default)s")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("out/contract.json"))
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        app, index, key = make_app(Path(folder))
        with closing(index):
            tally = check(
                app, key, examples=args.examples, chains=args.chains, phases=args.phases.split(","), seed=args.seed
            )
    table = Table("operation", *PHASES, "statuses")
    for label, asked in sorted(tally.requests.items()):
        told = " ".join(f"{status}×{n}" for status, n in sorted(tally.statuses[label].items()))
        table.add_row(label, *(str(asked[phase]) for phase in PHASES), told)
    out.print(table)
    for said in tally.breaches.values():
        err.print(said, markup=False)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(tally.as_json(), indent=1) + "\n", encoding="utf-8")
    err.print(f"{len(tally.breaches)} breaches, {tally.seconds:.0f} s; written to {args.out}")
    return 1 if tally.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
