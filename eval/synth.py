"""A test set out of documents alone: passages are drawn, a model writes questions, checks keep the good ones.

Every attempt is a row of `attempts.jsonl`, kept or not, with what the model said, so that an interrupted run goes on
where it stopped and the share that survives each check can be told. The draws depend on the seed alone and the model
is greedy: the same command makes the same set.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from eval.files import atomic_writer, dump_line
from eval.results import locked
from eval.rows import printable
from eval.synth_ask import Asker
from eval.synth_attempts import (
    ATTEMPTS,
    Attempt,
    SetState,
    appending,
    encode_attempt,
    read_attempts,
    read_state,
    write_state,
)
from eval.synth_drafts import SHARES, Assignment, Assignments, Draft, Kind, Swaps, write_draft
from eval.synth_judge import Judge, Judgement
from eval.synth_passages import Passage, draw_passages
from eval.synth_set import write_set
from rag.datatypes import Chunk, Document
from rag.errors import DataError, PromptTooLong
from rag.protocols import Embedder

MAX_QUESTIONS = 10_000
# Small models lose nine of ten questions of two passages to the checks.
ATTEMPTS_PER_QUESTION = 12


@dataclass(frozen=True, slots=True)
class Source:
    """What questions are made from: documents, how they are cut, and whose they are.

    `fingerprint` names everything besides the documents that the outcome depends on: model, prompts, cutting.
    """

    name: str
    license: str
    documents: Callable[[], Iterator[Document]]
    passages: Callable[[Document], Sequence[Chunk]]
    asker: Asker
    embedder: Embedder
    model: str
    fingerprint: str


class Progress(Protocol):
    """Is told how the writing goes on."""

    def start(self, total: int, kept: int, attempts: int) -> None:
        """The writing begins; some may be kept from an earlier run."""
        ...

    def advance(self, attempt: Attempt, kept: int, attempts: int) -> None:
        """A question was written and judged."""
        ...

    def finish(self) -> None:
        """The writing is over."""
        ...


def make_set(
    source: Source,
    out: Path,
    *,
    questions: int,
    seed: int,
    progress: Progress,
    min_f1: float,
    max_attempts: int | None = None,
) -> SetState:
    """Write up to `questions` questions into the QA-set folder `out`; return what `synth.json` then holds.

    An earlier run in that folder is continued, also towards more questions. On an interruption the set is written
    with what is kept so far, and the interruption goes on. Raises `DataError` where the folder holds something else,
    or the documents, the model or a threshold are not those it was begun with.
    """
    if not 1 <= questions <= MAX_QUESTIONS:
        raise DataError(f"from 1 to {MAX_QUESTIONS:,} questions are wanted, not {questions:,}")
    _refuse_other_folder(out)
    with locked(out):
        passages, digest = _draw(source, out, seed)
        state = _begin(source, out, digest, seed=seed, min_f1=min_f1, questions=questions)
        attempts = read_attempts(out)
        limit = max_attempts or ATTEMPTS_PER_QUESTION * questions
        try:
            _write_questions(source, out, passages, state, attempts, limit, progress)
        finally:
            progress.finish()
            state = write_set(out, state, attempts)
    return state


def _refuse_other_folder(out: Path) -> None:
    if not out.exists():
        return
    # A hidden file may be the lock, or the draft of a run that was killed before it had drawn its passages.
    others = not out.is_dir() or any(not path.name.startswith(".") for path in out.iterdir())
    if others and read_state(out) is None:
        raise DataError(f"{out} exists and is no set of `eval synth`", hint="Name a new folder.")


def _draw(source: Source, out: Path, seed: int) -> tuple[list[Passage], str]:
    """Copy the documents into the set and draw passages on the way; return these and the digest of the corpus."""
    digest = hashlib.sha256()
    out.mkdir(parents=True, exist_ok=True)
    with atomic_writer(out / "corpus.jsonl") as corpus:

        def copied() -> Iterator[Document]:
            for document in source.documents():
                line = dump_line({"id": document.id, "title": document.title, "text": document.text})
                digest.update(line)
                corpus.write(line)
                yield document

        passages = draw_passages(copied(), source.passages, seed)
        # Raised in here, so that the corpus of the set stays what it was.
        _refuse_another_corpus(out, digest.hexdigest())
        if not passages:
            raise DataError(
                f"{source.name} has no passage of running text to ask about",
                hint="Passages of 35 words and two sentences at least are wanted, no tables, lists or code.",
            )
    return passages, digest.hexdigest()


def _refuse_another_corpus(out: Path, digest: str) -> None:
    state = read_state(out)
    if state is not None and state.corpus != digest:
        raise DataError(
            f"the documents are not those that {out} was begun with", hint="Name another --out for the new ones."
        )


def _begin(source: Source, out: Path, digest: str, *, seed: int, min_f1: float, questions: int) -> SetState:
    fresh = SetState(
        source=source.name,
        license=source.license,
        model=source.model,
        fingerprint=source.fingerprint,
        corpus=digest,
        seed=seed,
        min_f1=min_f1,
        wanted=questions,
    )
    earlier = read_state(out)
    if earlier is None:
        write_state(out, fresh)
        return fresh
    for key in ("fingerprint", "seed", "min_f1"):
        if getattr(earlier, key) != getattr(fresh, key):
            what = {"fingerprint": "another model, prompt or way of cutting"}.get(key, f"another {key}")
            raise DataError(f"{out} was begun with {what}", hint="Name another --out, or go on with the same one.")
    return earlier.model_copy(update={"wanted": questions})


def _write_questions(
    source: Source,
    out: Path,
    passages: Sequence[Passage],
    state: SetState,
    attempts: list[Attempt],
    limit: int,
    progress: Progress,
) -> None:
    """Write and judge until enough are kept, the passages are used up or `limit` attempts are made."""
    assignments = Assignments(passages, state.seed)
    swaps = Swaps(passages, state.seed)
    judge = Judge(source.asker, source.embedder, passages, state.min_f1)
    _replay(attempts, assignments, judge)
    kept, tried = Counter(a.kind for a in attempts if a.kept), Counter(a.kind for a in attempts)
    used_up: set[Kind] = set()
    progress.start(state.wanted, kept.total(), len(attempts))
    with appending(out, attempts) as file:
        while kept.total() < state.wanted and (kind := _most_wanting(kept, tried, used_up, limit)):
            assignment = assignments.next(kind)
            if assignment is None:
                used_up.add(kind)
                continue
            attempt = _attempt(len(attempts) + 1, assignment, source.asker, swaps, judge)
            file.write(encode_attempt(attempt))
            file.flush()
            attempts.append(attempt)
            kept[kind] += attempt.kept
            tried[kind] += 1
            progress.advance(attempt, kept.total(), len(attempts))


def _most_wanting(kept: Counter[Kind], tried: Counter[Kind], used_up: Collection[Kind], limit: int) -> Kind | None:
    """Return the kind that is farthest behind its share of the questions, None where no kind may be tried again.

    Each kind has its share of the attempts too: one that the model cannot write must not use up those of the others.
    """
    left = [kind for kind in Kind if kind not in used_up and tried[kind] < SHARES[kind] * limit]
    if not left or tried.total() >= limit:
        return None
    return min(left, key=lambda kind: (kept[kind] / SHARES[kind], tried[kind] / SHARES[kind]))


def _replay(attempts: Sequence[Attempt], assignments: Assignments, judge: Judge) -> None:
    """Bring assignments and judge to where an earlier run left them."""
    for attempt in attempts:
        assignment = assignments.next(attempt.kind)
        if assignment is None or assignment.key != attempt.key:
            raise DataError(f"attempt {attempt.number} of {ATTEMPTS} is not of these passages", hint="Start anew.")
        if attempt.kept:
            judge.keep(attempt.question)


def _attempt(number: int, assignment: Assignment, asker: Asker, swaps: Swaps, judge: Judge) -> Attempt:
    began = time.perf_counter()
    try:
        draft = write_draft(assignment, asker, swaps)
        judgement = judge.judge(draft)
    except PromptTooLong:
        draft, judgement = Draft(assignment, ""), Judgement("written")
    if not judgement.failed:
        judge.keep(draft.question)
    return Attempt(
        number=number,
        kind=assignment.kind,
        key=assignment.key,
        passages=tuple((p.document_id, p.span) for p in assignment.passages),
        question=printable(draft.question),
        answer=assignment.answer.text,
        answer_kind=assignment.answer.kind,
        base=tuple(map(printable, draft.base)),
        swapped=draft.swapped,
        failed=judgement.failed,
        read=printable(judgement.read),
        remembered=printable(judgement.remembered),
        nearest=judgement.nearest,
        seconds=time.perf_counter() - began,
    )
