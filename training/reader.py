"""Teach the small model to read one passage; writes the LoRA adapter that the registry's reader model is made with.

    python -m training.reader --set squad2-tune --set nq-recorded:200 --set qed@1 --out reader.gguf

Needs the QA-set folders named (`:N` takes the first N questions, `@K` at most K lessons of a question, drawn at
random), and about an hour and 12 GB of memory on 2 cores with bfloat16 instructions. The set qed is made of the
training shards of QED with `smallhold eval convert qed`. A run differs from another one in its last digits, so the
file is kept, not made at installation: configs/adapters/reader-0.5b.gguf is the average (training/soup.py) of one that
was made so and of one that an earlier form of this program made of the first two sets. Then put the SHA-256 that
`--print-sha256` shows into configs/models.toml.
"""

import argparse
import hashlib
import math
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from rag.adapter import adapt
from rag.build import model_store
from rag.config import Settings, load_settings
from rag.datatypes import Chunk, ScoredChunk, Span
from rag.engine.generator import LlamaGenerator
from rag.engine.native import available_cores
from rag.prompt import Prompt, load_prompt
from training.examples import Choice, Example, examples_of
from training.lora import AdaptedModel

BATCH = 8
RATE = 4e-4
RANK = 8
FIRST_LAYER = 4  # the lowest layers stay as they are: a sixth less to compute


class Lesson(NamedTuple):
    """An example in tokens; only those of the answer, its end included, are learnt."""

    prompt: list[int]
    answer: list[int]


def main() -> None:
    """Make the lessons, learn them once, write the adapter."""
    options = _options()
    torch.manual_seed(options.seed)
    torch.set_num_threads(available_cores())
    settings = load_settings(None)
    store = model_store(settings)
    prompt = load_prompt("reader")
    base = store.pull(options.base).file
    if options.print_sha256:
        print(_sha256(base, options.out))
        return
    examples = _examples(options.set, settings, prompt)
    lessons = _lessons(examples, base, prompt)[: options.limit]
    print(
        f"{len(lessons)} lessons, {sum(len(p) + len(a) for p, a in lessons) / len(lessons):.0f} tokens each on average"
    )
    model = AdaptedModel(base, rank=RANK, first=FIRST_LAYER)
    _learn(model, lessons, random.Random(options.seed))  # noqa: S311 - an order of lessons
    model.save(options.out, "smallhold reader 0.5B")
    print(f"{options.out}; the model made with it has the SHA-256 {_sha256(base, options.out)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--set", action="append", default=[], metavar="FOLDER[:N][@K]", help="a QA set, or its first N; see above"
    )
    parser.add_argument("--out", type=Path, required=True, help="the adapter to write")
    parser.add_argument("--base", default="qwen2.5-coder-0.5b-instruct", help="the model of the registry to teach")
    parser.add_argument("--limit", type=int, help="learn from so many lessons only, for a trial")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--print-sha256", action="store_true", help="only say what the model made with --out hashes to")
    return parser.parse_args()


def _examples(sets: Sequence[str], settings: Settings, prompt: Prompt) -> list[Example]:
    found: list[Example] = []
    for named in sets:
        named, _, each = named.partition("@")
        folder, _, limit = named.partition(":")
        chosen = Choice(int(limit) if limit else None, int(each) if each else None)
        with tempfile.TemporaryDirectory() as index:
            found += examples_of(Path(folder), Path(index), settings, chosen, decline=prompt.decline)
    random.Random(1).shuffle(found)  # noqa: S311
    return found


def _lessons(examples: Sequence[Example], base: Path, prompt: Prompt) -> list[Lesson]:
    """Turn examples into the very tokens that the pipeline will ask with."""
    model = LlamaGenerator(base)
    try:
        return [
            Lesson(
                model.encode(prompt.messages(e.question, [_passage(e)])), [*model.tokens(e.answer), model.end_of_turn]
            )
            for e in examples
        ]
    finally:
        model.close()


def _passage(example: Example) -> ScoredChunk:
    chunk = Chunk("0", "0", example.text, Span(0, len(example.text)), {"title": example.title})
    return ScoredChunk(chunk, 1.0)


def _learn(model: AdaptedModel, lessons: Sequence[Lesson], rng: random.Random) -> None:
    """Go through all lessons once, the rate rising over the first 6% and falling to 0 along a cosine."""
    parameters = model.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01, betas=(0.9, 0.99))
    steps = math.ceil(len(lessons) / BATCH)
    began, losses = time.monotonic(), []
    for step, batch in enumerate(_batches(lessons, rng)):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / (0.06 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = _loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step % 10 == 9 or step == steps - 1:
            left = (time.monotonic() - began) / (step + 1) * (steps - step - 1)
            recent = sum(losses[-10:]) / len(losses[-10:])
            print(f"step {step + 1} of {steps}, loss {recent:.3f}, {left:.0f} s left", flush=True)


def _batches(lessons: Sequence[Lesson], rng: random.Random) -> Iterator[list[Lesson]]:
    """Yield batches of about equal length, so that little is padded, in random order."""
    order = list(lessons)
    rng.shuffle(order)
    batches = []
    for start in range(0, len(order), 8 * BATCH):
        alike = sorted(order[start : start + 8 * BATCH], key=lambda lesson: len(lesson.prompt) + len(lesson.answer))
        batches += [alike[i : i + BATCH] for i in range(0, len(alike), BATCH)]
    rng.shuffle(batches)
    yield from batches


def _loss(model: AdaptedModel, batch: Sequence[Lesson]) -> Tensor:
    """Return the mean over lessons of the mean cross-entropy of their answers' tokens."""
    length = max(len(p) + len(a) for p, a in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    wanted = torch.zeros(len(batch), length, dtype=torch.bool)
    targets: list[int] = []
    weights: list[float] = []
    for row, (prompt, answer) in enumerate(batch):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        wanted[row, len(prompt) - 1 : end - 1] = True
        targets += answer
        weights += [1 / len(answer)] * len(answer)
    logits = model.logits(ids, wanted)
    losses = F.cross_entropy(logits, torch.tensor(targets), reduction="none")
    return (losses * torch.tensor(weights)).sum() / len(batch)


def _sha256(base: Path, adapter: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.gguf"
        adapt(base, adapter, made, "Q8_0", lambda _: None)
        with made.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
