"""Guessing ahead (`generator.lookup`) side by side with none: time of writing, right guesses, answers that differ.

    python -m benchmarks.engine_lookup                                           the example questions; 2, 3, 5 tokens
    python -m benchmarks.engine_lookup --data ../shared/data/squad2-tune --limit 1000 --lookup 3

Every answerable question of the set is asked over the passage that holds its answer, in the pipeline's own prompt, one
at a time, greedily; the engines take turns at every question. For answers that differ from those without guessing the
gap is printed: by how much, in logarithms of probability, the token without is likelier than the token with, where they
part, in a plain sequence of llama.cpp. llama.cpp adds up in another order when it reads several tokens at once, which
moves logits by up to 0.25 in the 0.5B and 0.7 in the 135M: a gap within that is a near-tie, a larger one is a fault.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.machine import describe_machine
from eval.qaset import load_qaset
from eval.tune_tasks import Task, given_passages
from indexer.chunk import Chunker
from rag.build import build_embedder, build_prompt, local_model, model_store
from rag.config import Settings, load_settings
from rag.console import stage_progress
from rag.datatypes import Message, Sampling
from rag.engine.context import Context, Part
from rag.engine.generator import LlamaGenerator
from rag.engine.native import Model
from rag.probe import runnable
from rag.tuning import Tuning

ROOT = Path(__file__).parent.parent


class Written(NamedTuple):
    """An answer: its tokens' texts, "" for what ends it, and seconds to the first token and from there to the end."""

    texts: tuple[str, ...]
    first: float
    rest: float


class Difference(NamedTuple):
    """A question whose answer with guessing ahead is another one. `gap` is that of the two tokens where they part."""

    question: str
    lookup: int
    without: str
    with_it: str
    gap: float | None


@dataclass
class Engine:
    """An engine that guesses `lookup` tokens ahead, and its answers so far."""

    lookup: int
    generator: LlamaGenerator
    answers: list[Written] = field(default_factory=list)

    def ask(self, messages: Sequence[Message], sampling: Sampling) -> None:
        """Answer, and keep what was written."""
        texts, began, first = [], time.perf_counter(), 0.0
        for piece in self.generator.stream(messages, sampling):
            if piece.tokens:
                texts.append(piece.text)
                first = first or time.perf_counter()
        self.answers.append(Written(tuple(texts), first - began, time.perf_counter() - first))


class Plain:
    """The model as one sequence, read token by token after the prompt: what the gap of two tokens is measured in."""

    def __init__(self, file: Path, tuning: Tuning, *, cells: int, extra_buffers: bool) -> None:
        self.model = Model(file, extra_buffers=extra_buffers)
        self._context = Context(self.model, cells=cells, sequences=1, tuning=tuning)
        self._batch = tuning.alone

    def gap(self, messages: Sequence[Message], without: Sequence[str], with_it: Sequence[str]) -> float | None:
        """Return log p of the first token that differs minus that of the one in its place; None where it is unclear."""
        parts = next((i for i, (a, b) in enumerate(zip(without, with_it, strict=False)) if a != b), None)
        if parts is None:
            return None
        tokens = [self._token(text) for text in (*without[: parts + 1], with_it[parts])]
        known = [token for token in tokens if token is not None]
        if len(known) < len(tokens):
            return None
        *begun, one, other = known
        logits_v = self._logits(self.model.encode(messages), begun)
        return float(logits_v[one] - logits_v[other])

    def close(self) -> None:
        """Free the model."""
        self._context.close()
        self.model.close()

    def _token(self, text: str) -> int | None:
        """The token of a text, that of no text being the one that ends an answer; None for a part of a character."""
        tokens = self.model.vocabulary.tokens(text) if text else [self.model.vocabulary.end_of_turn]
        return tokens[0] if len(tokens) == 1 else None

    def _logits(self, prompt: Sequence[int], begun: Sequence[int]) -> Any:
        self._context.clear()
        chunks = [prompt[i : i + self._batch] for i in range(0, len(prompt), self._batch)] + [[t] for t in begun]
        place = 0
        for chunk in chunks:
            self._context.read([Part(0, place, np.array(chunk, np.int32), 1)])
            place += len(chunk)
        return self._context.logits(len(chunks[-1]) - 1).copy()


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    settings = load_settings(None, {"generator": {"model": args.model}} if args.model else {})
    store = model_store(settings)
    local = local_model(settings, store)
    repacked = runnable(local.file, store.directory / "probes.json")
    tasks = load_tasks(args.data, settings)[: args.limit]
    sampling = Sampling(max_tokens=settings.generator.max_tokens, decline=build_prompt(settings).decline)
    context = settings.generator.context

    with ExitStack() as stack, stage_progress() as progress:
        engines = []
        for lookup in (0, *args.lookup):
            tuning = local.tuning.model_copy(update={"lookup": lookup})
            generator = LlamaGenerator(local.file, context=context, extra_buffers=repacked, tuning=tuning)
            engines.append(Engine(lookup, stack.enter_context(closing(generator))))
        for at, task in enumerate(tasks):
            for engine in turns(engines, at):
                engine.ask(task.messages, sampling)
            progress("answers", at + 1, len(tasks))
        counters = {engine.lookup: engine.generator.lookups for engine in engines}

    plain = Plain(local.file, local.tuning, cells=context, extra_buffers=repacked)
    differences = find_differences(engines, tasks, plain)
    plain.close()
    figures = [figures_of(engine, engines[0], counters[engine.lookup]) for engine in engines]
    head = {"machine": describe_machine(), "model": Path(settings.generator.model).name, "data": args.data.name}
    show(head, figures, differences)
    if args.out:
        told = {**head, "figures": figures, "differences": [difference._asdict() for difference in differences]}
        args.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "examples" / "qa", help="a QA set folder")
    parser.add_argument("--limit", type=int, help="questions asked at most")
    parser.add_argument("--lookup", type=int, nargs="+", default=[2, 3, 5], help="tokens guessed ahead, each beside 0")
    parser.add_argument("--model", help="a name of the registry or a GGUF file; by default the settings' own")
    parser.add_argument("--out", type=Path, help="a JSON file for figures and differences")
    return parser.parse_args(arguments)


def load_tasks(folder: Path, settings: Settings) -> list[Task]:
    """Return the answerable questions, each over the passage that holds its answer, cut as the index would."""
    tokenizer = build_embedder(settings, model_store(settings)).tokenizer_file
    chunker = Chunker(tokenizer, settings.chunk.tokens, settings.chunk.overlap)
    return given_passages(load_qaset(folder), chunker.chunk, build_prompt(settings))


def turns(engines: Sequence[Engine], at: int) -> list[Engine]:
    """Return the engines in the order of turn `at`: another one begins each time."""
    start = at % len(engines)
    return [*engines[start:], *engines[:start]]


def find_differences(engines: Sequence[Engine], tasks: Sequence[Task], plain: Plain) -> list[Difference]:
    """Return the answers that are others than those of the first engine."""
    first, *others = engines
    found = []
    for engine in others:
        for task, without, with_it in zip(tasks, first.answers, engine.answers, strict=True):
            if without.texts != with_it.texts:
                gap = plain.gap(task.messages, without.texts, with_it.texts)
                said = ("".join(without.texts), "".join(with_it.texts))
                found.append(Difference(task.question.question, engine.lookup, *said, gap))
    return found


def figures_of(engine: Engine, plain: Engine, counters: Any) -> dict[str, float | int | None]:
    """What is to be told of an engine. Rates count the tokens after each answer's first, which reading brings."""
    steps = sum(len(answer.texts) - 1 for answer in engine.answers)
    both = [
        (one.rest, other.rest)
        for one, other in zip(engine.answers, plain.answers, strict=True)
        if one.texts == other.texts and len(one.texts) > 1
    ]
    same = sum(one.texts == other.texts for one, other in zip(engine.answers, plain.answers, strict=True))
    return {
        "lookup": engine.lookup,
        "answers": len(engine.answers),
        "tokens": sum(len(answer.texts) for answer in engine.answers),
        "tokens_per_second": steps / sum(answer.rest for answer in engine.answers),
        "seconds_per_answer": statistics.mean(answer.first + answer.rest for answer in engine.answers),
        # Over answers that are the same: all of them together, and the median of the answers' own ratios.
        "time_of_writing": sum(one for one, _ in both) / sum(other for _, other in both) if both else None,
        "median_time_of_writing": statistics.median(one / other for one, other in both) if both else None,
        "drafted": counters.drafted,
        "accepted": counters.accepted,
        "acceptance": counters.accepted / counters.drafted if counters.drafted else None,
        "steps_saved": counters.accepted / steps if steps else None,
        "same_answers": same / len(engine.answers),
    }


def show(head: dict[str, Any], figures: Sequence[dict[str, Any]], differences: Sequence[Difference]) -> None:
    print(json.dumps(head["machine"]))
    print(f"{head['model']}, {figures[0]['answers']} questions of {head['data']}, greedy, one at a time")
    print(
        f"{'guessed':>7} {'tokens/s':>9} {'s/answer':>9} {'writing, of none':>17} {'median':>7}"
        f" {'drafted':>8} {'right':>6} {'steps saved':>12} {'same answers':>13}"
    )
    for f in figures:
        print(
            f"{f['lookup']:>7} {f['tokens_per_second']:>9.1f} {f['seconds_per_answer']:>9.2f}"
            f" {_number(f['time_of_writing']):>17} {_number(f['median_time_of_writing']):>7} {f['drafted']:>8}"
            f" {_share(f['acceptance']):>6} {_share(f['steps_saved']):>12} {f['same_answers']:>13.1%}"
        )
    for difference in sorted(differences, key=lambda d: abs(d.gap or 0.0), reverse=True):
        gap = "not known" if difference.gap is None else f"{difference.gap:.3f}"
        print(f"\ngap {gap}, guessing {difference.lookup} ahead: {difference.question}")
        print(f"  without: {difference.without!r}\n  with:    {difference.with_it!r}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


if __name__ == "__main__":
    main()
