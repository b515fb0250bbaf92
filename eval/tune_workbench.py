"""The measuring itself: files made when first needed, llama.cpp timed, questions answered by the language model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from eval.scorers import f1
from eval.tune_choice import Candidate, Shape
from eval.tune_tasks import Task
from rag.datatypes import Sampling
from rag.engine.generator import LlamaGenerator
from rag.probe import runnable
from rag.speed import Sample, Speedometer


class Make(Protocol):
    """Writes a model in another quantization; tells the bytes written since the last call."""

    def __call__(self, name: str, out: Path, done: Callable[[int], None], /) -> None:
        """Write it to `out`, all or nothing."""
        ...


class Workbench:
    """Measures candidates of one model on this machine. Implements `Measurer`.

    `own` is the registry's file; others are made in `folder` under their quantization's name. `probes` remembers what
    was tried in a child process, so that a file that crashes llama.cpp is an error and not the end. `sampling` is how
    answers are asked for, `context` the length of the context for them. At most one model is loaded at a time.
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
        made: Callable[[str, int], None],
    ) -> None:
        self._own, self._folder, self._make, self._probes = own, folder, make, probes
        self._shape, self._tasks, self._sampling, self._context = shape, tasks, sampling, context
        self._made = made
        self._speedometer: Speedometer | None = None
        self._generator: LlamaGenerator | None = None
        self._answering: Candidate | None = None

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
        file = self.file(candidate.quantization)
        if self._speedometer is None or self._speedometer.path != file:
            self.close()
            self._speedometer = Speedometer(file, extra_buffers=runnable(file, self._probes))
        return self._speedometer.sample(candidate.tuning, prompt=self._shape.prompt, written=self._shape.written)

    def f1(self, candidate: Candidate, question: int) -> float:
        """Answer one question from its passage and score the answer."""
        if self._generator is None or self._answering != candidate:
            self.close()
            file = self.file(candidate.quantization)
            repacked = runnable(file, self._probes)
            self._generator = LlamaGenerator(
                file, context=self._context, extra_buffers=repacked, tuning=candidate.tuning
            )
            self._answering = candidate
        task = self._tasks[question]
        pieces = self._generator.stream(task.messages, self._sampling)
        return f1("".join(piece.text for piece in pieces).strip(), task.question.answers)

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
        self._speedometer = self._generator = self._answering = None
