"""The measuring itself: files made when first needed, llama.cpp timed, questions answered by the language model."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from eval.scorers import f1
from eval.tune_choice import Candidate, Shape
from eval.tune_lookup import Guesses
from eval.tune_tasks import Task
from rag.datatypes import Sampling
from rag.engine.generator import LlamaGenerator
from rag.engine.prefill import open_prefill
from rag.probe import look
from rag.speed import Sample, Speedometer

STEPS = 15  # of each width; a step takes some 30 ms


class Make(Protocol):
    """Writes a model in another quantization; tells the bytes written since the last call."""

    def __call__(self, name: str, out: Path, done: Callable[[int], None], /) -> None:
        """Write it to `out`, all or nothing."""
        ...


class Workbench:
    """Measures candidates of one model on this machine. Implements `Measurer`.

    `own` is the registry's file; others are made in `folder` under their quantization's name. `probes` remembers what
    was tried in a child process, so that a file that crashes llama.cpp is an error and not the end. `sampling` is how
    answers are asked for, `context` the length of the context for them, `int8` whether prompts may be read in int8:
    then they are wherever that is faster, as where answers are served. At most one model is loaded at a time.
    """

    def __init__(
        self,
        own: Path,
        folder: Path,
        make: Make,
        *,
        probes: Path,
        shape: Shape,
        tasks: Sequence[Task],
        sampling: Sampling,
        context: int,
        int8: bool,
        made: Callable[[str, int], None],
    ) -> None:
        self._own, self._folder, self._make, self._probes = own, folder, make, probes
        self._shape, self._tasks, self._sampling, self._context = shape, tasks, sampling, context
        self._int8, self._made = int8, made
        self._speedometer: Speedometer | None = None
        self._generator: LlamaGenerator | None = None
        self._loaded: Candidate | None = None

    def file(self, quantization: str) -> Path:
        """Return the weights of a quantization, made now where they are not there."""
        if not quantization:
            return self._own
        out = self._folder / f"{quantization}.gguf"
        if not out.is_file():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make(quantization, out, lambda n: self._made(quantization, n))
        return out

    def speed(self, candidate: Candidate) -> Sample:
        """Time one reading and writing."""
        speedometer = self._timed(candidate)
        return speedometer.sample(candidate.tuning, prompt=self._shape.prompt, written=self._shape.written)

    def steps(self, candidate: Candidate, widths: Sequence[int]) -> Mapping[int, float]:
        """Return the median seconds of a step of so many tokens."""
        return self._timed(candidate).steps(candidate.tuning, widths, prompt=self._shape.prompt, rounds=STEPS)

    def f1(self, candidate: Candidate, question: int) -> float:
        """Answer one question from its passage and score the answer."""
        task = self._tasks[question]
        pieces = self._answering(candidate).stream(task.messages, self._sampling)
        return f1("".join(piece.text for piece in pieces).strip(), task.question.answers)

    def guesses(self, candidate: Candidate, question: int) -> Guesses:
        """Answer one question from its passage and count what was guessed ahead."""
        generator = self._answering(candidate)
        before = generator.lookups
        written = sum(piece.tokens for piece in generator.stream(self._tasks[question].messages, self._sampling))
        after = generator.lookups
        # The first token comes with the reading of the prompt.
        return Guesses(max(0, written - 1), after.drafted - before.drafted, after.accepted - before.accepted)

    def drop(self, quantization: str) -> None:
        """Remove a quantization's file."""
        self.close()
        (self._folder / f"{quantization}.gguf").unlink(missing_ok=True)

    def close(self) -> None:
        """Free whichever model is loaded."""
        if self._speedometer is not None:
            self._speedometer.close()
        if self._generator is not None:
            self._generator.close()
        self._speedometer = self._generator = self._loaded = None

    def _timed(self, candidate: Candidate) -> Speedometer:
        file = self.file(candidate.quantization)
        if self._speedometer is None or self._speedometer.path != file:
            self.close()
            found = look(file, self._probes)
            prefill = open_prefill(file) if self._int8 and found.int8 else None
            self._speedometer = Speedometer(file, extra_buffers=found.repacked, prefill=prefill)
        return self._speedometer

    def _answering(self, candidate: Candidate) -> LlamaGenerator:
        if self._generator is None or self._loaded != candidate:
            self.close()
            file = self.file(candidate.quantization)
            found = look(file, self._probes)
            self._generator = LlamaGenerator(
                file,
                context=self._context,
                extra_buffers=found.repacked,
                int8=self._int8 and found.int8 and candidate.tuning.writable,
                tuning=candidate.tuning,
            )
            self._loaded = candidate
        return self._generator
