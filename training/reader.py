"""Teach the small model to read one passage; writes the LoRA adapter that the registry's reader model is made with.

    python -m training.reader --set squad2-tune --set nq-recorded:200 --set qed@1 --out reader.gguf
    python -m training.reader --whole squad-train --set nq-recorded:120@1 --beyond reader.gguf --out beyond.gguf
    python -m training.reader --pairs near.json --set nq-recorded:120@1 --beyond reader.gguf --out near.gguf
    python -m training.reader --pairs near.json:720 --paragraphs other.json:620 --set nq-recorded:120@1 \
        --beyond reader.gguf --out other.gguf

Needs the QA-set folders named: `--set` takes lessons of many kinds (`:N` from the first N questions, `@K` at most K a
question, drawn at random), `--whole` takes whole passages, each with all that is asked of it and what is made of that
(training/sheets.py). `--pairs` takes SQuAD 2.0 JSON (training/pairs.py), every paragraph with what is asked of it, and
puts orders to the reader into some (training/attacks.py); `--paragraphs` takes the same (training/agreed.py) and makes
questions of it that the paragraph does not answer, as for `--whole`. `:N` draws N paragraphs of a file. 100 to 160
tokens a second on 2 cores, and 12 GB of memory. The set qed is made of QED's training shards with `smallhold eval
convert qed`, squad-train of ten articles of SQuAD 2.0's training part with `smallhold eval convert squad`.

A run differs from another one in its last digits, so the file is kept, not made at installation. How
configs/adapters/reader-0.5b.gguf came about is in docs/lab.md. Then put the SHA-256 that `--print-sha256` shows into
configs/models.toml.
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

from rag.adapter import adapt, read_pairs
from rag.build import model_store
from rag.config import Settings, load_settings
from rag.datatypes import Chunk, ScoredChunk, Span
from rag.engine.generator import LlamaGenerator
from rag.machine import available_cores
from rag.prompt import Prompt, load_prompt
from training.attacks import attacked
from training.examples import Choice, Example, asked_of, examples_of
from training.lora import AdaptedModel
from training.sheets import Sheet, harder, sheets

BATCH = 16  # lessons, at most, if a page has fewer
RATE = 4e-4
RANK = 8
FIRST_LAYER = 4  # the lowest layers stay as they are: a sixth less to compute


class Lesson(NamedTuple):
    """The rest of a prompt and its answer in tokens; only those of the answer, its end included, are learnt."""

    rest: list[int]
    answer: list[int]


class Page(NamedTuple):
    """A sheet in tokens: what its prompts begin with alike, and its lessons."""

    start: list[int]
    lessons: list[Lesson]

    @property
    def length(self) -> int:
        """Return how many tokens the page has in all."""
        return len(self.start) + sum(len(rest) + len(answer) for rest, answer in self.lessons)


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
    pages = _pages(_sheets(options, settings, prompt), base, prompt)
    random.Random(options.seed).shuffle(pages)  # noqa: S311 - an order of lessons
    pages = pages[: options.limit]
    tokens = sum(page.length for page in pages)
    print(
        f"{sum(len(page.lessons) for page in pages)} lessons on {len(pages)} pages of {tokens / len(pages):.0f} tokens"
    )
    learnt = read_pairs(options.beyond) if options.beyond else {}
    model = AdaptedModel(base, rank=RANK, first=FIRST_LAYER, learnt=learnt)
    _learn(model, pages, random.Random(options.seed))  # noqa: S311
    model.save(options.out, "smallhold reader 0.5B")
    print(options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--set", action="append", default=[], metavar="FOLDER[:N][@K]", help="a QA set, or its first N; see above"
    )
    parser.add_argument(
        "--whole",
        action="append",
        default=[],
        metavar="FOLDER",
        help="a QA set, whole passages of it with harder questions",
    )
    parser.add_argument(
        "--pairs",
        action="append",
        default=[],
        metavar="FILE[:N]",
        help="SQuAD 2.0 JSON, whole passages, some with orders",
    )
    parser.add_argument(
        "--paragraphs",
        action="append",
        default=[],
        metavar="FILE[:N]",
        help="SQuAD 2.0 JSON, whole passages with harder questions",
    )
    parser.add_argument("--beyond", type=Path, help="an adapter already learnt, which stays as it is")
    parser.add_argument("--out", type=Path, required=True, help="the adapter to write")
    parser.add_argument("--base", default="qwen2.5-coder-0.5b-instruct", help="the model of the registry to teach")
    parser.add_argument("--limit", type=int, help="learn from so many pages only, for a trial")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--print-sha256", action="store_true", help="only say what the model made with --out hashes to")
    return parser.parse_args()


def _sheets(options: argparse.Namespace, settings: Settings, prompt: Prompt) -> list[Sheet]:
    rng = random.Random(options.seed)  # noqa: S311 - a seeded choice of lessons
    found: list[Sheet] = []
    for named in options.set:
        named, _, each = named.partition("@")
        folder, _, limit = named.partition(":")
        chosen = Choice(int(limit) if limit else None, int(each) if each else None)
        found += sheets(_examples(Path(folder), settings, chosen, prompt.decline))
    whole = Choice(whole=True)
    for folder in options.whole:
        found += harder(list(sheets(_examples(Path(folder), settings, whole, prompt.decline))), prompt.decline, rng)
    for file in options.pairs:
        found += attacked(_drawn(file, prompt.decline, rng), prompt.decline, rng)
    for file in options.paragraphs:
        found += harder(_drawn(file, prompt.decline, rng), prompt.decline, rng)
    return found


def _drawn(named: str, decline: str, rng: random.Random) -> list[Sheet]:
    file, _, limit = named.partition(":")
    found = list(sheets(asked_of(Path(file), decline)))
    return rng.sample(found, min(int(limit), len(found))) if limit else found


def _examples(folder: Path, settings: Settings, choice: Choice, decline: str) -> list[Example]:
    with tempfile.TemporaryDirectory() as index:
        return examples_of(folder, Path(index), settings, choice, decline=decline)


def _pages(given: Sequence[Sheet], base: Path, prompt: Prompt) -> list[Page]:
    """Turn sheets into the very tokens that the pipeline will ask with."""
    model = LlamaGenerator(base)
    try:
        return [_page(sheet, model, prompt) for sheet in given]
    finally:
        model.close()


def _page(sheet: Sheet, model: LlamaGenerator, prompt: Prompt) -> Page:
    passage = _passage(sheet)
    prompts = [model.encode(prompt.messages(question, [passage])) for question, _ in sheet.asked]
    shortest = min(map(len, prompts)) - 1  # a lesson needs a token to predict its answer from
    columns = zip(*prompts, strict=False)
    alike = next((place for place, tokens in enumerate(columns) if len(set(tokens)) > 1), shortest)
    alike = min(alike, shortest)
    answers = [[*model.tokens(answer), model.end_of_turn] for _, answer in sheet.asked]
    return Page(prompts[0][:alike], [Lesson(p[alike:], a) for p, a in zip(prompts, answers, strict=True)])


def _passage(sheet: Sheet) -> ScoredChunk:
    chunk = Chunk("0", "0", sheet.text, Span(0, len(sheet.text)), {"title": sheet.title})
    return ScoredChunk(chunk, 1.0)


def _learn(model: AdaptedModel, pages: Sequence[Page], rng: random.Random) -> None:
    """Go through all lessons once, the rate rising over the first 6% and falling to 0 along a cosine."""
    parameters = model.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01, betas=(0.9, 0.99))
    batches = list(_batches(pages, rng))
    steps, tokens = len(batches), sum(page.length for page in pages)
    began, read, losses = time.monotonic(), 0, []
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / (0.06 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = _loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        read += sum(page.length for page in batch)
        if step % 10 == 9 or step == steps - 1:
            left = (time.monotonic() - began) / read * (tokens - read)
            recent = sum(losses[-10:]) / len(losses[-10:])
            print(f"step {step + 1} of {steps}, loss {recent:.3f}, {left:.0f} s left", flush=True)


def _batches(pages: Sequence[Page], rng: random.Random) -> Iterator[list[Page]]:
    """Yield batches of pages of about equal length, so that little is padded, in random order."""
    order = list(pages)
    rng.shuffle(order)
    batches: list[list[Page]] = []
    for start in range(0, len(order), 8 * BATCH):
        batch: list[Page] = []
        for page in sorted(order[start : start + 8 * BATCH], key=lambda page: page.length):
            if batch and (sum(len(p.lessons) for p in batch) + len(page.lessons) > BATCH):
                batches.append(batch)
                batch = []
            batch.append(page)
        batches.append(batch)
    rng.shuffle(batches)
    yield from batches


def _loss(model: AdaptedModel, batch: Sequence[Page]) -> Tensor:
    """Return the mean over lessons of the mean cross-entropy of their answers' tokens."""
    length = max(page.length for page in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    places = torch.zeros(len(batch), length, dtype=torch.long)
    seen = torch.eye(length, dtype=torch.bool).repeat(len(batch), 1, 1)
    wanted = torch.zeros(len(batch), length, dtype=torch.bool)
    targets: list[int] = []
    weights: list[float] = []
    for row, (start, lessons) in enumerate(batch):
        at = len(start)
        ids[row, :at], places[row, :at] = torch.tensor(start), torch.arange(at)
        seen[row, :at, :at] = torch.ones(at, at, dtype=torch.bool).tril()
        for rest, answer in lessons:
            end = at + len(rest) + len(answer)
            ids[row, at:end] = torch.tensor(rest + answer)
            places[row, at:end] = torch.arange(len(start), len(start) + end - at)
            seen[row, at:end, : len(start)] = True
            seen[row, at:end, at:end] = torch.ones(end - at, end - at, dtype=torch.bool).tril()
            wanted[row, at + len(rest) - 1 : end - 1] = True
            targets += answer
            weights += [1 / len(answer)] * len(answer)
            at = end
    logits = model.logits(ids, places, seen, wanted)
    losses = F.cross_entropy(logits, torch.tensor(targets), reduction="none")
    return (losses * torch.tensor(weights)).sum() / sum(len(page.lessons) for page in batch)


def _sha256(base: Path, adapter: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.gguf"
        adapt(base, adapter, made, "Q6_K", lambda _: None)
        with made.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
