"""Passages read before anybody asks: with a made-up context, and once with the smallest model."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from rag import build, cli_warm
from rag.build import build_ahead, build_generator, build_prompt, model_store
from rag.cli_warm import warm_index
from rag.config import Settings, load_settings
from rag.datatypes import Chunk, Message, Sampling, ScoredChunk, Span
from rag.engine.ahead import ReadAhead
from rag.engine.context import Part
from rag.engine.files import PrefixFiles
from rag.engine.prefix import Prefixes
from rag.engine.scheduler import Scheduler
from rag.engine.states import SavedStates, shared_length, tokens_of
from rag.errors import ConfigError, InvalidRequest, ModelLoadFailed, Unavailable
from rag.index import Index
from rag.pipeline import RagPipeline
from rag.probe import Finding
from rag.prompt import Prompt, load_prompt
from rag.warm import SPARE_BYTES, Plan, asked_prefix, check_room, make_plan, warm
from tests.conftest import ListRetriever, QueueGenerator, located, scored, smallhold
from tests.engine_fakes import FakeContext, pieces, writing, written
from tests.test_indexer_sync import Run, Write, write  # noqa: F401 - a fixture

PROMPT = load_prompt("extractive")
LARGE = 10_000_000


class Letters:
    """A token a letter; a turn begins with a token that no letter has."""

    closed = False

    def count(self, text: str) -> int:
        return len(text)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        turns = [[9000 + len(message.role), *map(ord, message.content), 9001] for message in messages]
        return [token for turn in [*turns, [9009]] for token in turn]

    def close(self) -> None:
        self.closed = True


def reader(
    folder: Path, *, budget: int = LARGE, identity: str = "model", context: FakeContext | None = None
) -> ReadAhead:
    """What reads ahead, with room for 2,000 letters."""
    context = context or FakeContext(cells=2000, sequences=1)
    return ReadAhead(Letters(), context, PrefixFiles(folder, identity, budget), step=100, name="small.gguf")


def chunk(number: int, length: int = 300) -> Chunk:
    text = f"{number} is the number. " * (length // 10)
    return Chunk(f"d#{number}", "d", text[:length], Span(0, length), {"title": "Numbers"})


CHUNKS = [chunk(number) for number in range(1, 6)]


def plan(ahead: ReadAhead, chunks: Sequence[Chunk] = CHUNKS, *, tokens: int = 1000, prompt: Prompt = PROMPT) -> Plan:
    prefix = asked_prefix(ahead, prompt, passage_tokens=tokens, answer_tokens=20)
    return make_plan(chunks, prefix, ahead, quiet)


def quiet(done: int) -> None:
    pass


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.*"))


def asked(question: str, about: Chunk) -> list[int]:
    return Letters().encode(PROMPT.messages(question, [ScoredChunk(about, 0.5)]))


def interrupting(after: int) -> Callable[[int], None]:
    def progress(done: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    return progress


def test_a_question_over_a_warmed_passage_reads_the_question_alone(tmp_path: Path) -> None:
    ahead = reader(tmp_path)
    assert warm(plan(ahead), ahead, quiet) == sum(file.stat().st_size for file in files(tmp_path) if file.is_file())
    ahead.close()

    context = FakeContext(cells=4000, sequences=16)
    states = SavedStates(0, PrefixFiles(tmp_path, "model", LARGE))
    engine = Scheduler(context, Prefixes(context, states, cells=1000), sequences=1)
    for about in (CHUNKS[3], CHUNKS[1]):
        prompt = asked("Which number is it?", about)
        task = writing(prompt, Sampling(max_tokens=1))
        context.batches.clear()
        engine.submit(task)
        assert "".join(piece.text for piece in pieces(task)) == chr(0x100 + written(prompt, 1)[0])
        tail = [*map(ord, "Question: Which number is it?"), 9001, 9009]
        assert [part.tokens_n.tolist() for batch in context.batches for part in batch] == [tail]
    assert (engine.counters().disk.hits, engine.counters().misses) == (2, 0)
    engine.close()


def test_what_is_common_to_two_prompts_is_read_once(tmp_path: Path) -> None:
    context = FakeContext(cells=2000, sequences=1)
    ahead = reader(tmp_path, context=context)
    found = plan(ahead)
    warm(found, ahead, quiet)
    head = shared_length(found.missing[0], found.missing[1])
    read = sum(len(part.tokens_n) for batch in context.batches for part in batch)
    assert head > 300  # instructions and examples
    assert read == found.tokens - 4 * head
    assert max(len(part.tokens_n) for batch in context.batches for part in batch) == 100


@pytest.mark.parametrize("question", ["Why?", "A longer question, with\none break?"])
def test_the_prompt_is_the_one_that_a_reading_asks_with(tmp_path: Path, question: str) -> None:
    passages = [scored(f"The harbour of Norrin has {number} berths. " * 4) for number in (3, 4)]
    generator = QueueGenerator("unanswerable", "unanswerable")
    pipeline = RagPipeline(
        generator=generator, counter=generator, prompt=PROMPT, retriever=ListRetriever(*passages), passages=2
    )
    pipeline.answer(question)
    ahead = reader(tmp_path)
    found = plan(ahead, [passage.chunk for passage in passages])
    wanted = [ahead.prefix(messages, answer=20) for messages in generator.asked]
    assert [tokens_n.tolist() for tokens_n in wanted if tokens_n is not None] == [found.missing[0].tolist()]


def test_an_interrupted_run_leaves_whole_states_and_the_next_goes_on(tmp_path: Path) -> None:
    ahead = reader(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        warm(plan(ahead), ahead, interrupting(2))
    first = files(tmp_path / ahead.files.folder.name)
    assert [file.suffix for file in first] == [".kv", ".kv"]
    context = FakeContext(cells=2000, sequences=1)
    again = reader(tmp_path, context=context)
    found = plan(again)
    assert (len(found.kept), len(found.missing), found.states) == (2, 3, 5)
    assert found.bytes_kept == sum(file.stat().st_size for file in first)
    warm(found, again, quiet)
    fresh = reader(tmp_path)
    assert (len(plan(fresh).kept), plan(fresh).missing) == (5, ())
    assert warm(plan(fresh), fresh, quiet) == 0
    for key in plan(fresh).kept:
        state = fresh.files.get(key)
        assert state is not None
        assert state.view("int32").tolist() == tokens_of(key).tolist()


def test_interrupted_while_it_writes_it_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    ahead = reader(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        warm(plan(ahead), ahead, quiet)
    assert files(ahead.files.folder) == []


def test_interrupted_while_it_reads_it_can_go_on_in_the_same_context(tmp_path: Path) -> None:
    context = FakeContext(cells=2000, sequences=1)
    ahead = reader(tmp_path, context=context)
    found = plan(ahead)
    read = context.read

    def interrupted(parts: Sequence[Part]) -> None:
        read(parts)
        if len(context.held[0]) > 400:
            context.read = read  # type: ignore[method-assign]
            raise KeyboardInterrupt

    context.read = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        warm(found, ahead, quiet)
    warm(found, ahead, quiet)
    assert len(plan(ahead).kept) == 5


def test_the_disk_that_is_said_is_the_disk_that_is_taken(tmp_path: Path) -> None:
    ahead = reader(tmp_path)
    found = plan(ahead)
    assert warm(found, ahead, quiet) == found.bytes_missing == found.bytes_needed
    assert found.tokens == sum(len(tokens_n) for tokens_n in found.missing)


def test_more_than_the_budget_is_refused_with_the_setting_that_is_enough(tmp_path: Path) -> None:
    found = plan(reader(tmp_path, budget=0))
    with pytest.raises(ConfigError, match=r"5 states take 0 MB of disk; with generator.prefix_disk_mb = 0 ") as caught:
        check_room(found, reader(tmp_path, budget=0).files, LARGE)
    assert caught.value.hint.startswith("Set generator.prefix_disk_mb to 1 or more")
    assert "--limit" in caught.value.hint
    assert not files(tmp_path)


@pytest.mark.parametrize("needed", [1, 899_999, 900_000, 900_001, 2_345_678_901])
def test_the_budget_that_is_named_is_enough_and_the_next_smaller_is_not(tmp_path: Path, needed: int) -> None:
    enough = PrefixFiles.budget_for(needed)
    assert PrefixFiles(tmp_path, "m", enough).room >= needed
    assert PrefixFiles(tmp_path, "m", enough - 1_000_000).room < needed


def test_more_than_the_free_disk_is_refused(tmp_path: Path) -> None:
    ahead = reader(tmp_path)
    found = plan(ahead)
    check_room(found, ahead.files, SPARE_BYTES + found.bytes_missing)
    with pytest.raises(Unavailable, match="5 states take") as caught:
        check_room(found, ahead.files, SPARE_BYTES + found.bytes_missing - 1)
    assert "models.dir" in caught.value.hint
    warm(found, ahead, quiet)
    check_room(plan(ahead), ahead.files, 0)  # nothing more is wanted of it


def test_where_room_must_be_made_older_states_leave_and_these_stay(tmp_path: Path) -> None:
    ahead = reader(tmp_path)
    found = plan(ahead)
    with pytest.raises(KeyboardInterrupt):
        warm(found, ahead, interrupting(2))
    other = reader(tmp_path, identity="another model")
    warm(plan(other, CHUNKS[:3]), other, quiet)
    for age, file in enumerate([*ahead.files.folder.iterdir(), *other.files.folder.iterdir()]):
        os.utime(file, (age, age))  # ours are the oldest of all
    tight = reader(tmp_path, budget=int(found.bytes_needed / 0.9) + 10)
    going_on = plan(tight)
    check_room(going_on, tight.files, 10**12)
    size = found.bytes_needed // 5
    assert tight.files.leaving(going_on.bytes_missing) == pytest.approx(3 * size, abs=size / 10)
    warm(going_on, tight, quiet)
    assert len(plan(reader(tmp_path)).kept) == 5
    assert list(other.files.folder.iterdir()) == []


def test_states_of_another_model_are_neither_seen_nor_harmed(tmp_path: Path) -> None:
    ahead, other = reader(tmp_path), reader(tmp_path, identity="another")
    warm(plan(ahead), ahead, quiet)
    assert len(plan(other).missing) == 5
    warm(plan(other), other, quiet)
    assert (len(plan(ahead).kept), len(plan(other).kept)) == (5, 5)
    assert ahead.files.folder != other.files.folder


def test_what_a_question_had_read_before_is_not_read_again(tmp_path: Path) -> None:
    context = FakeContext(cells=4000, sequences=16)
    states = SavedStates(0, PrefixFiles(tmp_path, "model", LARGE))
    engine = Scheduler(context, Prefixes(context, states, cells=1000), sequences=1)
    prompt = asked("Which number is it?", CHUNKS[0])
    kept = plan(reader(tmp_path)).missing[0]
    task = writing(prompt, Sampling(max_tokens=1), keep=len(kept))
    engine.submit(task)
    pieces(task)
    engine.close()
    assert (len(plan(reader(tmp_path)).kept), len(plan(reader(tmp_path)).missing)) == (1, 4)


def test_chunks_that_no_prompt_holds_and_repeated_ones_are_no_states(tmp_path: Path) -> None:
    ahead = reader(tmp_path)
    chunks = [chunk(1), chunk(1), chunk(2, 990), chunk(3, 1800)]
    assert plan(ahead, chunks, tokens=2000).unread == 1  # the context is too short for the last one
    found = plan(ahead, chunks, tokens=500)
    assert (found.chunks, found.states, found.unread) == (4, 1, 2)
    bare = PROMPT.model_copy(update={"examples": (), "system": "Answer."})
    short = [chunk(4, 10), chunk(5, 60)]
    assert (plan(ahead, short, prompt=bare).states, plan(ahead, short, prompt=bare).unread) == (1, 1)
    assert plan(ahead, []) == Plan(0, 0, (), (), 0, 0)


def test_a_disk_that_does_not_take_them_ends_it(tmp_path: Path) -> None:
    ahead = reader(tmp_path)
    ahead.files.folder.write_bytes(b"no folder")
    with pytest.raises(Unavailable, match=r"small.gguf cannot be written"):
        warm(plan(ahead), ahead, quiet)


def test_a_model_that_fails_and_one_that_cannot_reuse_anything(tmp_path: Path) -> None:
    context = FakeContext(cells=2000, sequences=1)
    ahead = reader(tmp_path, context=context)
    found = plan(ahead)
    context.broken = 1
    with pytest.raises(ModelLoadFailed, match="broken"):
        warm(found, ahead, quiet)
    with pytest.raises(InvalidRequest, match="recurrent"):
        reader(tmp_path, context=FakeContext(forgets_parts=False))


def settings(index: Path, **generator: object) -> Settings:
    return load_settings(None, {"index": {"dir": index}, "generator": {"model": "small.gguf", **generator}})


@pytest.fixture
def index(tmp_path: Path, write: Write) -> Path:  # noqa: F811
    """An index of three lines."""
    write("notes/harbour.txt", "\n".join(f"The harbour of {name} has nine berths. " * 8 for name in ("A", "B", "C")))
    Run(tmp_path, "notes")
    return tmp_path / "index"


@pytest.fixture
def _made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        cli_warm,
        "build_ahead",
        lambda settings, store: reader(tmp_path / "kept", budget=settings.generator.prefix_disk_mb * 1_000_000),
    )


@pytest.mark.usefixtures("_made_up")
def test_the_command_says_what_disk_it_takes_and_sums_up(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    allowed = settings(index, prefix_disk_mb=5)
    warm_index(allowed, limit=2, dry_run=True, as_json=True)
    said = capsys.readouterr()
    assert "2 chunks: 2 states" in said.err
    assert "there already: 0" in said.err
    foreseen = json.loads(said.out)
    assert (foreseen["states"], foreseen["states_read"], foreseen["bytes_written"]) == (2, 0, 0)
    assert not list((index.parent / "kept").rglob("*.kv"))
    warm_index(allowed, limit=2, dry_run=False, as_json=True)
    done = json.loads(capsys.readouterr().out)
    assert (done["chunks"], done["states_there"], done["states_read"]) == (2, 0, 2)
    assert done["bytes_written"] == foreseen["bytes_expected"]
    assert done["budget_bytes"] == 5_000_000
    warm_index(allowed, limit=None, dry_run=False, as_json=False)
    said = capsys.readouterr()
    assert "there already: 2" in said.err
    assert "1 passages read, 2 were there already" in said.out


@pytest.mark.usefixtures("_made_up")
@pytest.mark.parametrize("dry_run", [True, False])
def test_the_command_refuses_what_is_not_allowed(
    index: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    with pytest.raises(ConfigError, match="prefix_disk_mb"):
        warm_index(settings(index), limit=None, dry_run=dry_run, as_json=False)
    assert "3 chunks: 3 states" in capsys.readouterr().err, "what it takes is said before"
    monkeypatch.setattr(cli_warm, "free_bytes", lambda folder: SPARE_BYTES)
    with pytest.raises(Unavailable, match="free"):
        warm_index(settings(index, prefix_disk_mb=5), limit=None, dry_run=dry_run, as_json=False)


@pytest.mark.usefixtures("_made_up")
def test_the_command_is_interrupted_with_130_and_goes_on(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from rag.cli import app

    calls = ["warm", "--index", str(index)]
    monkeypatch.setenv("SMALLHOLD_GENERATOR__PREFIX_DISK_MB", "5")
    with monkeypatch.context() as patch:
        patch.setattr(cli_warm, "warm", lambda plan, ahead, progress: warm(plan, ahead, interrupting(1)))
        assert CliRunner().invoke(app, calls).exit_code == 130
    done = CliRunner().invoke(app, [*calls, "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["states_there"] == 1


def test_an_endpoint_keeps_its_own_states(tmp_path: Path) -> None:
    remote = settings(tmp_path, endpoint="http://127.0.0.1:1/v1")
    with pytest.raises(ConfigError, match="endpoint"):
        build_ahead(remote, model_store(remote))


def test_it_is_opened_as_the_generator_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: dict[str, object] = {}
    monkeypatch.setattr(build, "look", lambda path, memory: Finding(repacked=True, int8=True))
    monkeypatch.setattr(build, "open_ahead", lambda *args, **kwargs: opened.update(kwargs, args=args))
    monkeypatch.setattr(build, "LlamaGenerator", lambda **kwargs: SimpleNamespace(**kwargs))
    wanted = settings(tmp_path, prefix_disk_mb=7, threads=3, context=512)
    store = model_store(wanted)
    build_ahead(wanted, store)
    generator = build_generator(wanted, store)
    assert opened.pop("args") == (generator.path, generator.prefix_folder)  # type: ignore[union-attr]
    assert opened.pop("budget") == generator.folder_bytes == 7_000_000  # type: ignore[union-attr]
    assert opened == {name: vars(generator)[name] for name in opened}
    assert set(opened) == {"context", "threads", "extra_buffers", "int8", "tuning", "build"}


@pytest.mark.model
def test_a_warmed_index_is_read_from_disk_by_another_process(index: Path, tmp_path: Path) -> None:
    """Its passages, read by the command, spare a model that is loaded later all but the question."""
    weights = located("smollm2-135m-instruct").file
    variables = {
        "SMALLHOLD_GENERATOR__PREFIX_DISK_MB": "200",
        "SMALLHOLD_GENERATOR__CONTEXT": "1024",
        "SMALLHOLD_MODELS__DIR": str(tmp_path / "models"),
    }
    command = ["warm", "--index", index, "--model", weights, "--limit", "2", "--json"]
    done = smallhold(*command, cwd=tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["states_read"], report["states_there"]) == (2, 0)
    assert report["bytes_written"] == pytest.approx(report["bytes_expected"], rel=0.01)
    again = smallhold(*command, cwd=tmp_path, **variables)
    assert json.loads(again.stdout)["states_there"] == 2

    asking = load_settings(
        None,
        {
            "generator": {"model": str(weights), "context": 1024, "prefix_disk_mb": 200},
            "models": {"dir": tmp_path / "models"},
        },
    )
    prompt, generator = build_prompt(asking), build_generator(asking, model_store(asking))
    with Index.open(index) as opened:
        chunks = opened.chunks([1, 0])
    for about in chunks:
        messages = prompt.messages("How many berths are there?", [ScoredChunk(about, 0.5)])
        *_, last = generator.stream(messages, Sampling(max_tokens=1))
        assert last.usage is not None
        assert last.usage.prompt - last.usage.cached < 25
    counters = generator.prefixes()  # type: ignore[union-attr]
    assert (counters.disk.hits, counters.misses, counters.disk.states) == (2, 0, 2)
    generator.close()
