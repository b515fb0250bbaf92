"""What is kept of the attempts, as a QA set with a page to review it; and what a person decided on that page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from eval.files import atomic_writer, dump_line, open_data, read_bounded, write_text
from eval.qaset import read_corpus
from eval.qaset_draft import write_meta
from eval.results import locked
from eval.rows import Record
from eval.synth_attempts import Attempt, SetState, read_attempts, read_state, write_state
from eval.synth_drafts import Kind
from eval.synth_judge import CHECKS, MEANINGS
from eval.synth_page import Card, review_page
from rag.errors import DataError

REVIEW = "review.html"
DECISIONS = "decisions.json"
_MAX_DECISIONS = 50_000_000


class Decision(Record):
    """What a person decided on one question; its text tells whether the decision is on this question still."""

    id: str
    question: str
    decision: Literal["accept", "strike"]


class Decisions(Record):
    """What the review page gives out."""

    set: str
    decisions: tuple[Decision, ...]


def write_set(out: Path, state: SetState, attempts: Sequence[Attempt]) -> SetState:
    """Write questions, `meta.json`, the page and the report; return the state with the report.

    Questions struck by earlier decisions stay out. `corpus.jsonl` is there already.
    """
    decided = _decisions(out / DECISIONS, attempts) if (out / DECISIONS).exists() else {}
    kept = [attempt for attempt in attempts if attempt.kept]
    left = [attempt for attempt in kept if decided.get(attempt.id) != "strike"]
    with atomic_writer(out / "questions.jsonl") as file:
        file.writelines(dump_line(_question(attempt)) for attempt in left)
    source = f"written by {state.model} from {state.source}, seed {state.seed}; {_reviewed(kept, decided)}"
    write_meta(out, out.resolve().name, "synthetic QA", state.license, source)
    state = state.model_copy(update={"report": report_of(attempts, decided)})
    write_state(out, state)
    write_text(out / REVIEW, review_page(out.resolve().name, _cards(out, kept), decided))
    return state


def apply_decisions(out: Path, file: Path) -> SetState:
    """Strike what a person struck, and keep the decisions in the set, where a continued run minds them.

    Raises `DataError` where the folder is no set of `eval synth`, or a decision is on no question of it.
    """
    state = read_state(out)
    if state is None:
        raise DataError(f"{out} is no set of `eval synth`")
    with locked(out):
        attempts = read_attempts(out)
        _decisions(file, attempts)
        with open_data(file) as opened:
            content = opened.read(_MAX_DECISIONS + 1)
        with atomic_writer(out / DECISIONS) as target:
            target.write(content)
        return write_set(out, state, attempts)


def report_of(attempts: Sequence[Attempt], decided: Mapping[str, str]) -> dict[str, Any]:
    """Count what survived each check, for each kind and altogether.

    `share` is that of those which came to the check; None where none did.
    """
    kept = [attempt for attempt in attempts if attempt.kept]
    return {
        "attempts": len(attempts),
        "kept": len(kept),
        "kept_by_kind": {kind.value: sum(attempt.kind is kind for attempt in kept) for kind in Kind},
        "attempts_by_kind": {kind.value: sum(attempt.kind is kind for attempt in attempts) for kind in Kind},
        "checks": [_survivors(name, attempts) for name in MEANINGS],
        "accepted": sum(decided.get(attempt.id) == "accept" for attempt in kept),
        "struck": sum(decided.get(attempt.id) == "strike" for attempt in kept),
        "seconds": sum(attempt.seconds for attempt in attempts),
    }


def _survivors(name: str, attempts: Sequence[Attempt]) -> dict[str, Any]:
    came, passed = Counter[str](), Counter[str]()
    for attempt in attempts:
        names = CHECKS[attempt.kind]
        if name not in names:
            continue
        ended = names.index(attempt.failed) if attempt.failed else len(names)
        came[attempt.kind.value] += names.index(name) <= ended
        passed[attempt.kind.value] += names.index(name) < ended
    kinds = {k.value: _share(came[k.value], passed[k.value]) for k in Kind if name in CHECKS[k]}
    return {"check": name, **_share(came.total(), passed.total()), "by_kind": kinds}


def _share(came: int, passed: int) -> dict[str, Any]:
    return {"came": came, "passed": passed, "share": passed / came if came else None}


def _question(attempt: Attempt) -> dict[str, Any]:
    answerable = attempt.kind is not Kind.UNANSWERABLE
    documents = list(dict.fromkeys(document for document, _ in attempt.passages))
    return {
        "id": attempt.id,
        "question": attempt.question,
        "answers": [attempt.answer] if answerable else [],
        "answerable": answerable,
        "relevant": documents if answerable else [],
        "kind": attempt.kind.value,
        "passages": [{"document_id": document, "span": span} for document, span in attempt.passages],
    }


def _reviewed(kept: Sequence[Attempt], decided: Mapping[str, str]) -> str:
    seen = sum(attempt.id in decided for attempt in kept)
    return f"{seen} of {len(kept)} questions looked at by a person"


def _cards(out: Path, kept: Sequence[Attempt]) -> list[Card]:
    """Return what the page shows; passages are read from the corpus, of which no more than these is held."""
    wanted: dict[str, set[tuple[int, int]]] = {}
    for attempt in kept:
        for document, span in attempt.passages:
            wanted.setdefault(document, set()).add(span)
    texts: dict[tuple[str, tuple[int, int]], str] = {}
    for found in read_corpus(out / "corpus.jsonl"):
        for start, end in wanted.get(found.id, ()):
            texts[found.id, (start, end)] = found.text[start:end]
    return [
        Card(
            id=attempt.id,
            kind=attempt.kind.value,
            question=attempt.question,
            answer="" if attempt.kind is Kind.UNANSWERABLE else attempt.answer,
            base=" / ".join(attempt.base),
            read=attempt.read,
            passages=tuple((document, texts.get((document, span), "")) for document, span in attempt.passages),
        )
        for attempt in kept
    ]


def _decisions(file: Path, attempts: Sequence[Attempt]) -> dict[str, str]:
    """Read decisions on the questions of these attempts."""
    content = read_bounded(file, _MAX_DECISIONS)
    try:
        found = Decisions.model_validate_json(content)
    except ValidationError as error:
        raise DataError(
            f"{file} is no file of decisions: {error.errors()[0]['msg']}", hint="Export one from review.html."
        ) from error
    questions = {attempt.id: attempt.question for attempt in attempts if attempt.kept}
    for decision in found.decisions:
        if questions.get(decision.id) != decision.question:
            raise DataError(
                f"{file} decides on {decision.id} {decision.question!r}, which is no question of this set",
                hint=f"The file was exported from the set {found.set!r}.",
            )
    return {decision.id: decision.decision for decision in found.decisions}
