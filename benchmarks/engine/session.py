"""One session: everything is opened, the workloads run one after the other, and all of it is closed again."""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.engine.client import PeerFailed
from benchmarks.engine.journal import LLAMA_SERVER, PEERS, Journal
from benchmarks.engine.limits import bare_loop, note_weights
from benchmarks.engine.measure import QUICK, Scale
from benchmarks.engine.ours import LlamaVocabulary, Weights, available_cores, find_weights, open_engine
from benchmarks.engine.peers import install, running, settings_of
from benchmarks.engine.rounds import WORKLOADS, Rounds
from benchmarks.engine.soak import soak
from benchmarks.engine.systems import OurSystem, System
from benchmarks.engine.workload import AT_LENGTH, Case, Shapes, open_cases
from benchmarks.recalled import Recalled
from eval.machine import describe_machine
from rag.build import build_pipeline, build_prompt
from rag.config import Settings, load_settings
from rag.console import StageProgress, err, stage_progress

# What a chat template adds to a turn, and template and a changed first word to a prompt, generously; contexts come in
# steps of STEP tokens.
TURN, FRAME, STEP = 8, 96, 256
SOAK_PROMPTS, SOAK_TOKENS = 50, 24


class Plan(NamedTuple):
    """What is asked of a session. `model` None takes that of the settings, `runs` None those of the scale."""

    data: Path
    model: str | None = None
    workloads: tuple[str, ...] = WORKLOADS
    runs: int | None = None
    quick: bool = False
    peers: bool = True
    published: bool = False
    soak: bool = False
    soak_model: str = "smollm2-135m-instruct"
    cache: Path = Path(".smallhold/bench")

    @property
    def scale(self) -> Scale:
        """How much is measured."""
        scale = QUICK if self.quick else Scale()
        return scale if self.runs is None else scale._replace(runs=self.runs)

    def settings(self, model: str | None) -> Settings:
        """The settings with this model; nothing is withheld, so that F1 is over every answer."""
        flags: dict[str, Any] = {"abstention": {"enabled": False}}
        return load_settings(None, {**flags, "generator": {"model": model}} if model else flags)


class Session:
    """A session and what has come of it so far: `journal`, `notes` and, after a soak, `soaked`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.journal = Journal()
        self.notes: list[str] = []
        self.soaked: dict[str, Any] | None = None
        self.complete = False
        self._settings = plan.settings(plan.model)
        self._threads = available_cores()
        self._peers: dict[str, Any] = {}

    def head(self) -> dict[str, Any]:
        """What the figures were measured on, as plain data; no paths of this machine."""
        generator = self._settings.generator.model
        return {
            "complete": self.complete,
            "machine": {**describe_machine(), "threads": self._threads},
            "model": Path(generator).name,
            "data": self.plan.data.name,
            "scale": self.plan.scale._asdict(),
            "peers": self._peers,
            "notes": self.notes,
        }

    def run(self) -> None:
        """Measure everything that the plan asks for. Raises `ModelMissing`, `DataError` and the like."""
        with stage_progress() as progress:
            if self.plan.workloads:
                self._measure(progress)
            if self.plan.soak:
                self._soak(progress)
        self.complete = True

    def _measure(self, progress: StageProgress) -> None:
        scale, weights = self.plan.scale, find_weights(self._settings)
        pythons = self._install_peers() if self.plan.peers else {}
        few = 4 * scale.runs if self.plan.quick else None
        note_weights(self.journal, weights.path)
        written = self._settings.generator.max_tokens
        shapes = Shapes(build_prompt(self._settings), self._settings.evidence.passages, written)
        with ExitStack() as stack:
            opened = open_cases(self.plan.data, self._settings, self.plan.cache, progress, few)
            cases, retriever = stack.enter_context(opened)
            room = room_for(weights, cases, shapes, max(scale.written, written), scale.read)
            engine = open_engine(weights, room=room, clients=scale.clients, threads=self._threads)
            systems: list[System] = [OurSystem(stack.enter_context(closing(engine)))]
            for name, python in pythons.items():
                self._start_peer(stack, systems, name, python, weights, room)
            loop = bare_loop(weights.path, context=room, threads=self._threads, extra_buffers=weights.repacked)
            recalled = Recalled({case.question: case.retrieved for case in cases}, retriever)
            pipeline = build_pipeline(self._settings, engine, recalled)
            rounds = Rounds(self.journal, scale, systems, cases, shapes, pipeline, stack.enter_context(loop))
            self._rounds(rounds, progress)

    def _install_peers(self) -> dict[str, Path]:
        """Return the Pythons of the peers that can be had; the others are noted."""
        found = {}
        for name in PEERS:
            try:
                found[name] = install(name, published=self.plan.published and name == LLAMA_SERVER)
            except PeerFailed as error:
                self._note_failure(error)
        return found

    def _start_peer(
        self, stack: ExitStack, systems: list[System], name: str, python: Path, weights: Weights, room: int
    ) -> None:
        clients, threads = self.plan.scale.clients, self._threads
        try:
            peer = stack.enter_context(running(name, python, weights, clients=clients, room=room, threads=threads))
        except PeerFailed as error:
            self._note_failure(error)
            return
        systems.append(peer)
        known = settings_of(name, weights, clients=clients, room=room, threads=threads, port=0)
        shown = {k: v for k, v in known.items() if k not in {"model", "model.path", "port"}}
        self._peers[name] = {"compiled_here": not (self.plan.published and name == LLAMA_SERVER), "settings": shown}
        if self.plan.published and name == LLAMA_SERVER:
            self.notes.append(f"{name} is the published build: AVX2 and no more, where ours has all of this CPU")

    def _note_failure(self, error: PeerFailed) -> None:
        self.notes.append(f"{error}; it is not compared with")
        self._peers[error.peer] = None
        err.print(f"[yellow]{self.notes[-1]}[/]")

    def _rounds(self, rounds: Rounds, progress: StageProgress) -> None:
        """Run the workloads; a peer that stops answering is left out of what follows."""
        ticks = {name: Ticks(progress, name, rounds.steps(name)) for name in self.plan.workloads}
        for run in range(self.plan.scale.runs):  # so that one that is stopped has something of every workload
            for name in self.plan.workloads:
                try:
                    rounds.run(name, run, ticks[name])
                except PeerFailed as error:
                    self._note_failure(error)
                    rounds.drop(error.peer)
        self.notes.extend(rounds.notes())

    def _soak(self, progress: StageProgress) -> None:
        """Load the soak's own model and run its answers, over best passages alone."""
        settings = self.plan.settings(self.plan.soak_model)
        weights, quick = find_weights(settings), self.plan.quick
        clients, answers, prompts = (4, 20, 4) if quick else (32, 1000, SOAK_PROMPTS)
        with open_cases(self.plan.data, settings, self.plan.cache, progress, prompts) as (cases, _):
            pass
        shapes = Shapes(build_prompt(settings), 1, SOAK_TOKENS)
        chats = [shapes.alone(case) for case in cases]
        tick = Ticks(progress, "soak", answers + len(chats))
        room = room_for(weights, cases, shapes, SOAK_TOKENS)
        with closing(open_engine(weights, room=room, clients=clients, threads=self._threads)) as engine:
            self.soaked = soak(
                engine,
                chats,
                answers=answers,
                hang_ups=answers // 5,
                clients=clients,
                max_tokens=SOAK_TOKENS,
                advance=tick,
            )


class Ticks:
    """A progress bar that is moved on by calling it."""

    def __init__(self, progress: StageProgress, name: str, total: int) -> None:
        self._progress, self._name, self._total, self._done = progress, name, total, 0

    def __call__(self) -> None:
        """One more is done; several threads may say so."""
        self._done += 1
        self._progress(self._name, min(self._done, self._total), self._total)


def room_for(weights: Weights, cases: Sequence[Case], shapes: Shapes, answer: int, read: int = 0) -> int:
    """Return the context tokens that any prompt here and its answer take, or one of `read` tokens."""
    with closing(LlamaVocabulary(weights.path)) as vocabulary:
        chats = [shapes.joint(case, max(case.question, AT_LENGTH, key=len)) for case in cases]
        longest = max(sum(vocabulary.count(m.content) + TURN for m in chat) for chat in chats)
    return -(-(max(longest, read) + FRAME + answer) // STEP) * STEP
