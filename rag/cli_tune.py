"""`smallhold models tune`: finds the fastest weights and settings for this machine, and puts them into effect."""

import datetime
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from rag.build import build_embedder, build_prompt, model_store
from rag.config import Settings
from rag.datatypes import Sampling
from rag.errors import ConfigError, InvalidRequest, Unavailable
from rag.machine import available_cores
from rag.models import Model, ModelStore
from rag.probe import build_key
from rag.quantize import Quantizer
from rag.tuned import NOTES, WORKSHOP, Tuned, drop_tuned, forget_tuning, keep_tuned, this_machine

if TYPE_CHECKING:
    from eval.tune import Measurer, Outcome, Plan, Progress
    from eval.tune_tasks import Task
    from eval.tune_workbench import Workbench

WRITTEN = 16  # tokens written when measuring
QUANTIZATIONS = ("Q4_0", "Q4_K_M", "Q5_0", "Q8_0")
BATCHES = ((64, 64), (256, 256), (256, 128), (512, 512))
ATTENTION = ({"flash_attention": "off", "kv_type": "f16"}, {"flash_attention": "on", "kv_type": "q8_0"})
LOOKUPS = (2, 3, 5)  # three more tokens fill the four that llama.cpp's repacked kernels take at once
SPARE_BYTES = 200_000_000  # of the disk, that a tuning leaves free

EXAMPLES = Path(__file__).parent.parent / "examples" / "qa"

# Bytes of weights gone through in a second, of tokens read, tokens written and of loading: two cores read the 0.5B with
# about 100 tokens a second and write it with about 25. For the estimate of --dry-run alone.
_READ, _WRITE, _LOAD = 50e9, 12e9, 0.5e9
_PASSAGE_TOKENS = 300
_JUDGED = 3  # candidates whose answers are judged, beside the registry's file


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line asks for. No `quantizations` takes the usual ones, no `data` the examples."""

    data: Path | None = None
    limit: int | None = None
    prompt: int = 256
    answer: int = 8
    tolerance: float = 0.03
    quantizations: tuple[str, ...] = ()
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A tuning that is ready to begin; nothing has been measured or written yet."""

    model: Model
    store: ModelStore
    settings: Settings
    quantizer: Quantizer
    tasks: "list[Task]"
    plan: "Plan"
    data: str
    keep: bool
    sizes: dict[str, int] = field(default_factory=dict)  # bytes of the quantizations that were made

    @property
    def workshop(self) -> Path:
        """Where quantizations are tried."""
        return self.model.path / WORKSHOP

    @property
    def bytes_needed(self) -> int:
        """About how much disk the quantizations take that are not made yet."""
        missing = [name for name in self.plan.quantizations if not (self.workshop / f"{name}.gguf").is_file()]
        return sum(self.quantizer.about_bytes(name) for name in missing)

    @property
    def seconds(self) -> float:
        """About how long it takes, to an order of magnitude."""
        size, shape = self.model.file.stat().st_size, self.plan.shape
        sample = size / _LOAD + 2 * (shape.prompt * size / _READ + shape.written * size / _WRITE)
        answer = _PASSAGE_TOKENS * size / _READ + shape.answer * size / _WRITE
        making = len(self.plan.quantizations) * 10 * size / _LOAD
        answers = (1 + _JUDGED) * len(self.tasks) + len(self.plan.lookups) * self.plan.guessed
        return self.plan.most_samples * sample + answers * answer + making


def prepare(settings: Settings, wishes: Wishes) -> Prepared:
    """Check everything that can be checked before anything is measured. The model is the settings' generator.

    Raises `UnknownModel`, `ModelMissing`, `ConfigError`, `DataError`, `InvalidRequest`.
    """
    store = model_store(settings)
    spec = store.registry.get(settings.generator.model)
    if spec.kind != "generator":
        raise ConfigError(f"{spec.name} is an {spec.kind}: only language models are tuned")
    model = store.locate(spec.name)
    quantizer = Quantizer(store, spec)
    quantizer.check(wishes.quantizations)
    names = wishes.quantizations or tuple(name for name in QUANTIZATIONS if name in quantizer.known)
    data, tasks = _tasks(settings, store, wishes)
    return Prepared(model, store, settings, quantizer, tasks, _plan(names, tasks, wishes), data, wishes.keep)


def _tasks(settings: Settings, store: ModelStore, wishes: Wishes) -> "tuple[str, list[Task]]":
    """Return the set's name, and its questions with passages cut as the index would."""
    from eval.qaset import load_qaset
    from eval.tune_tasks import given_passages
    from indexer.chunk import Chunker

    if wishes.data is None and not EXAMPLES.is_dir():
        raise InvalidRequest("the example questions are not installed", hint="Name a QA set with --data.")
    qaset = load_qaset(wishes.data or EXAMPLES).limited(wishes.limit)
    tokenizer = build_embedder(settings, store).tokenizer_file
    chunker = Chunker(tokenizer, settings.chunk.tokens, settings.chunk.overlap)
    return qaset.name, given_passages(qaset, chunker.chunk, build_prompt(settings))


def _plan(names: tuple[str, ...], tasks: "list[Task]", wishes: Wishes) -> "Plan":
    from eval.tune import Plan
    from eval.tune_choice import Shape
    from eval.tune_tasks import task_clusters
    from rag.tuning import UNTUNED

    cores = available_cores()
    longest = max(wishes.prompt, UNTUNED.batch)
    return Plan(
        quantizations=names,
        threads=[{"threads": n} for n in sorted({cores // 2, cores * 3 // 4}) if 0 < n < cores],
        batches=[{"batch": batch, "micro_batch": micro} for batch, micro in BATCHES if batch <= longest],
        attention=ATTENTION,
        shape=Shape(wishes.prompt, wishes.answer, WRITTEN),
        questions=tuple(task.id for task in tasks),
        groups=task_clusters(tasks),
        tolerance=wishes.tolerance,
        lookups=LOOKUPS,
    )


def tune(
    prepared: Prepared,
    progress: "Progress",
    seam: "Callable[[Workbench], Measurer]" = lambda bench: bench,
) -> "tuple[Outcome, Tuned | None]":
    """Measure, and put the best into effect; the record is None where the registry's file is the best as it is.

    `seam` may stand between the search and the machine. However it ends, only what is in effect stays on the disk, and
    the notes, from which the next tuning goes on. Raises `Unavailable` where the disk is too full or another process
    is at it, `ModelLoadFailed` where the registry's own file does not run.
    """
    from eval.tune import search
    from eval.tune_notes import Notes

    with _alone(prepared), _workbench(prepared, progress) as bench:
        _refuse_full_disk(prepared)
        shape = prepared.plan.shape
        machine = {**this_machine(prepared.model.fingerprint), "build": build_key(), "cores": available_cores()}
        int8 = prepared.settings.generator.int8
        key = {**machine, "prompt": shape.prompt, "written": shape.written, "int8": int8}
        outcome = search(seam(bench), Notes(prepared.model.path / NOTES, key), prepared.plan, progress)
        return outcome, _put_into_effect(prepared, bench, outcome)


def reset(settings: Settings) -> bool:
    """Go back to the registry's file and forget what was measured; whether anything else was in effect."""
    store = model_store(settings)
    name = store.registry.get(settings.generator.model).name
    return forget_tuning(store.directory / name)


@contextmanager
def _alone(prepared: Prepared) -> Iterator[None]:
    lock = FileLock(prepared.store.directory / f".{prepared.model.spec.name}.tune.lock", timeout=0)
    try:
        with lock:
            yield
    except Timeout as error:
        raise Unavailable(f"another process is tuning {prepared.model.spec.name}") from error


@contextmanager
def _workbench(prepared: Prepared, progress: "Progress") -> "Iterator[Workbench]":
    """Yield what measures; what it made is removed in the end unless it is to be kept."""
    from eval.tune_workbench import Workbench

    written: dict[str, int] = {}

    def made(name: str, n: int) -> None:
        written[name] = written.get(name, 0) + n
        progress(f"{name}, MB", written[name] // 1_000_000, prepared.quantizer.about_bytes(name) // 1_000_000)

    def make(name: str, out: Path, done: Callable[[int], None]) -> None:
        prepared.quantizer.make(name, out, done)
        prepared.sizes[name] = out.stat().st_size

    bench = Workbench(
        prepared.model.file,
        prepared.workshop,
        make,
        probes=prepared.store.directory / "probes.json",
        shape=prepared.plan.shape,
        tasks=prepared.tasks,
        sampling=_sampling(prepared.settings),
        context=prepared.settings.generator.context,
        int8=prepared.settings.generator.int8,
        made=made,
    )
    try:
        yield bench
    finally:
        bench.close()
        if not prepared.keep:
            shutil.rmtree(prepared.workshop, ignore_errors=True)


def _sampling(settings: Settings) -> Sampling:
    return Sampling(max_tokens=settings.generator.max_tokens, decline=build_prompt(settings).decline)


def _refuse_full_disk(prepared: Prepared) -> None:
    free, needed = shutil.disk_usage(prepared.model.path).free, prepared.bytes_needed
    if free < needed + SPARE_BYTES:
        raise Unavailable(
            f"the quantizations take about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free",
            hint="Free some space, or try fewer of them with --quantizations.",
        )


def _put_into_effect(prepared: Prepared, bench: "Workbench", outcome: "Outcome") -> Tuned | None:
    from eval.tune_choice import REGISTRY

    folder, chosen = prepared.model.path, outcome.chosen
    if chosen == REGISTRY and not outcome.lookup:
        drop_tuned(folder)
        return None
    tuned = Tuned(
        **this_machine(prepared.model.fingerprint),
        quantization=chosen.quantization,
        settings=chosen.tuning.model_copy(update={"lookup": outcome.lookup}),
        measured=_measured(prepared, outcome),
    )
    bench.close()
    weights = bench.file(chosen.quantization) if chosen.quantization else None
    return keep_tuned(folder, tuned, weights)


def _measured(prepared: Prepared, outcome: "Outcome") -> dict[str, float | str]:
    from eval.tune_choice import REGISTRY

    shape, speed = prepared.plan.shape, outcome.speeds[outcome.chosen]
    measured: dict[str, float | str] = {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "prompt_tokens": shape.prompt,
        "answer_tokens": shape.answer,
        "seconds_per_answer": round(speed.seconds[0], 4),
        "seconds_per_answer_of_registry": round(outcome.speeds[REGISTRY].seconds[0], 4),
        "read_tokens_per_second": round(speed.read[0], 1),
        "write_tokens_per_second": round(speed.write[0], 1),
        "lookup_saves_of_writing": round(outcome.lookup_saves, 3),
        "data": prepared.data,
        "questions": len(prepared.tasks),
    }
    if outcome.chosen in outcome.quality:  # not where nothing but guessing ahead makes the registry's file faster
        f1, difference = outcome.quality[outcome.chosen]
        measured |= {
            "f1": round(f1, 4),
            "f1_difference": round(difference.value or 0.0, 4),
            "f1_difference_low": round(difference.low or 0.0, 4),
            "f1_difference_high": round(difference.high or 0.0, 4),
        }
    return measured
