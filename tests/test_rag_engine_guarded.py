"""The model's keeper with a real child process, in which a model plays what the prompt says (`worker_fake.py`)."""

import gc
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rag.datatypes import Message, Piece, PrefixCounters, PrefixTier, Sampling, Usage
from rag.engine import child, frames
from rag.engine.guarded import COUNTED_HERE, PAUSES, GuardedGenerator
from rag.errors import ModelDied, ModelLoadFailed, Overloaded, PromptTooLong, SmallholdError, Unavailable
from tests.conftest import REPOSITORY

FAKE = (sys.executable, str(Path(__file__).with_name("worker_fake.py")))
Make = Callable[..., GuardedGenerator]


class Letters:
    """Counts letters, where the fake model counts words."""

    closings = 0

    def count(self, text: str) -> int:
        return len(text)

    def close(self) -> None:
        self.closings += 1


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make generators over fake processes whose lives are noted in `tmp_path`; close them at the end."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    made: list[GuardedGenerator] = []

    def made_with(script: str = "", **settings: Any) -> GuardedGenerator:
        options = {"lives": str(tmp_path), "script": script}
        made.append(GuardedGenerator(options, Letters(), command=FAKE, **settings))
        return made[-1]

    yield made_with
    for generator in made:
        generator.close()


def stream(generator: GuardedGenerator, words: str, **sampling: Any) -> Any:
    return generator.stream([Message("user", words)], Sampling(**sampling))


def said(generator: GuardedGenerator, words: str) -> str:
    return "".join(piece.text for piece in stream(generator, words))


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def process(folder: Path, life: int = 0) -> int:
    return int((folder / f"life-{life}").read_text())


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie that nobody waits for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_pieces_come_as_they_were_made(make: Make) -> None:
    pieces = list(stream(make(), "the ferry leaves"))
    assert pieces == [
        Piece("", usage=Usage(3, 0, 0)),
        Piece("the ", -0.125, 1),
        Piece("ferry ", -0.125, 1),
        Piece("leaves ", -0.125, 1),
        Piece("", finish_reason="stop", usage=Usage(3, 0, 3)),
    ]


def test_scores_and_long_texts_are_asked_for_and_short_ones_counted_here(make: Make) -> None:
    generator = make()
    assert generator.score([Message("user", "x")], ["a", "abc"]) == [[-1.0, float("-inf")], [-3.0, float("-inf")]]
    assert generator.count("a" * COUNTED_HERE) == COUNTED_HERE  # letters
    assert generator.count("a " * COUNTED_HERE) == COUNTED_HERE  # words


def test_the_process_tells_its_figures_and_while_it_cannot_the_last_ones_stand(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = make("serve,hang")
    said(generator, "one")
    told = PrefixCounters(1, memory=PrefixTier(2, 300, 1, 4000))
    assert generator.prefixes() == told
    said(generator, "two")
    monkeypatch.setattr("rag.engine.guarded.FIGURES_SECONDS", 0.05)
    (tmp_path / "mute").touch()
    assert generator.prefixes() == told
    (tmp_path / "mute").unlink()
    monkeypatch.undo()
    assert generator.prefixes().misses == 2
    os.kill(process(tmp_path), signal.SIGKILL)
    until(lambda: generator.fault() is not None)
    assert generator.prefixes().misses == 2


def test_a_new_process_counts_from_the_beginning(make: Make, tmp_path: Path) -> None:
    generator = make()
    said(generator, "one")
    assert generator.prefixes().misses == 1
    os.kill(process(tmp_path), signal.SIGKILL)
    until((tmp_path / "life-1").exists)
    until(lambda: generator.fault() is None)
    assert generator.prefixes().misses == 0


def test_streams_at_once_do_not_cross(make: Make) -> None:
    generator = make()
    first, second = (stream(generator, " ".join(f"{name}{n}" for n in range(50))) for name in "ab")
    texts = [(a.text, b.text) for a, b in zip(first, second, strict=True)]
    assert texts[1:-1] == [(f"a{n} ", f"b{n} ") for n in range(50)]


def test_many_threads_get_their_own_answers(make: Make) -> None:
    generator = make()
    answers: dict[int, str] = {}
    prompts = {k: " ".join(f"{k}.{n}" for n in range(40)) for k in range(12)}

    def ask(k: int) -> None:
        answers[k] = said(generator, prompts[k]).strip()

    threads = [threading.Thread(target=ask, args=(k,)) for k in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == prompts


def test_errors_come_out_as_themselves_and_harm_nobody_else(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    generator = make()
    with pytest.raises(PromptTooLong, match="too long") as caught:
        said(generator, "long")
    assert caught.value.hint == "Ask less."
    with pytest.raises(SmallholdError, match="inside the model's process"):
        said(generator, "oops secret")
    assert said(generator, "well") == "well "
    generator.close()  # waits for the log
    assert "stream failed with ValueError" in caplog.text
    assert "secret" not in caplog.text
    assert generator.restarts == 0


def test_closing_or_dropping_a_stream_frees_the_model(make: Make, tmp_path: Path) -> None:
    generator = make()
    closed = stream(generator, "wait " * 60)
    next(closed)
    closed.close()
    until((tmp_path / "closed-wait").exists)
    dropped = stream(generator, "decline wait")
    next(dropped)
    del dropped
    gc.collect()
    until((tmp_path / "closed-decline").exists)
    assert generator._child is not None
    assert generator._child._requests == {}


def test_nothing_is_written_after_a_chance_to_decline_until_it_is_wanted(make: Make, tmp_path: Path) -> None:
    generator = make()
    held = stream(generator, "decline a b", max_tokens=3)
    assert [next(held).decline for _ in range(2)] == [None, 0.25]
    assert said(generator, "meanwhile") == "meanwhile "
    assert generator._child is not None
    ((number, events),) = generator._child._requests.items()
    assert events.empty(), number
    assert [piece.text for piece in held] == ["a ", "b ", ""]


@pytest.mark.parametrize("name", ["SIGKILL", "SIGABRT", "SIGSEGV"])
def test_a_death_is_told_to_every_stream_and_the_next_request_is_answered(
    make: Make, tmp_path: Path, name: str
) -> None:
    generator = make()
    bystander = stream(generator, "wait " * 1000)
    next(bystander)
    victim = stream(generator, f"one two die:{name}")
    with pytest.raises(ModelDied, match=rf"{name}.*started again") as caught:
        list(victim)
    assert caught.value.hint == "Try again in a moment."
    with pytest.raises(ModelDied, match=name):
        list(bystander)
    assert said(generator, "better now") == "better now "
    assert generator.restarts == 1
    assert generator.fault() is None
    assert is_gone(process(tmp_path, 0))


def test_killed_from_outside_while_idle(make: Make, tmp_path: Path) -> None:
    generator = make()
    os.kill(process(tmp_path), signal.SIGKILL)
    until(lambda: generator.restarts == 1)
    assert said(generator, "back") == "back "


def test_a_process_that_stops_is_killed_and_started_again(make: Make, tmp_path: Path) -> None:
    generator = make(timeout=2)
    running = stream(generator, "wait " * 1000)
    next(running)
    os.kill(process(tmp_path), signal.SIGSTOP)
    with pytest.raises(ModelDied, match="made no progress for 2 s and was killed; it is being started again"):
        list(running)
    assert is_gone(process(tmp_path))
    assert said(generator, "better now") == "better now "
    assert generator.restarts == 1


def test_a_process_that_stops_is_killed_though_what_is_sent_to_it_piles_up(make: Make, tmp_path: Path) -> None:
    generator = make(timeout=2)
    os.kill(process(tmp_path), signal.SIGSTOP)
    told: list[Exception] = []

    def ask() -> None:
        try:
            said(generator, "long " * 200_000)  # more than the socket takes
        except ModelDied as error:
            told.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(told) == 3


def test_an_engine_that_hangs_is_found_out_though_its_process_goes_on_talking(make: Make, tmp_path: Path) -> None:
    generator = make(timeout=2)
    with pytest.raises(ModelDied, match="made no progress"):
        list(stream(generator, "stuck " + "wait " * 10_000, max_tokens=10_001))
    assert is_gone(process(tmp_path))
    assert said(generator, "better now") == "better now "


def test_a_process_that_is_slow_but_alive_is_left_alone(make: Make) -> None:
    generator = make(timeout=1.5)
    assert "".join(piece.text for piece in stream(generator, "wait " * 120, max_tokens=120)) == ""  # 2.4 s and more
    assert generator.restarts == 0


def test_a_process_that_stops_while_idle_is_replaced_before_it_is_asked(make: Make, tmp_path: Path) -> None:
    generator = make(timeout=2)
    os.kill(process(tmp_path), signal.SIGSTOP)
    until(lambda: generator.restarts == 1)
    assert said(generator, "back") == "back "


@pytest.mark.parametrize(("word", "how"), [("hangup", "hung up"), ("rubbish", "spoke nonsense")])
def test_a_process_that_hangs_up_or_speaks_nonsense_is_ended(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, how: str
) -> None:
    monkeypatch.setattr(child, "LINGER_SECONDS", 0.2)
    generator = make()
    with pytest.raises(ModelDied, match=how):
        said(generator, word)
    assert is_gone(process(tmp_path))
    assert said(generator, "back") == "back "


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("die:SIGABRT", "died of SIGABRT while it loaded the model"),
        ("exit", "ended with status 7 while it loaded the model"),
        ("refuse", "not a model"),
    ],
)
def test_what_goes_wrong_at_the_start_is_told_at_the_start(
    make: Make, tmp_path: Path, script: str, message: str
) -> None:
    with pytest.raises(ModelLoadFailed, match=message):
        make(script)
    assert len(list(tmp_path.glob("life-*"))) == 1


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    letters = Letters()
    with pytest.raises(ModelLoadFailed, match="cannot be started"):
        GuardedGenerator({}, letters, command=[str(tmp_path / "none")])
    assert letters.closings == 1


def test_deaths_in_a_row_are_paused_for_and_in_the_end_nobody_waits_for_the_next_life(
    make: Make, tmp_path: Path
) -> None:
    generator = make("serve,die:SIGSEGV,refuse,die:SIGSEGV", pauses=(0.0, 0.05, 0.1))
    with pytest.raises(ModelDied):
        said(generator, "die:SIGKILL")
    began = time.monotonic()
    with pytest.raises(ModelDied, match=r"SIGSEGV.*4 times in short order, and is tried again every 60 s") as caught:
        said(generator, "anyone?")
    assert time.monotonic() - began > 0.15
    assert "smallhold doctor" in caught.value.hint
    assert not caught.value.coming
    assert generator.restarts == 3
    assert len(list(tmp_path.glob("life-*"))) == 4
    with pytest.raises(ModelDied, match="in short order"):
        generator.score([], ["a"])
    fault = generator.fault()
    assert isinstance(fault, ModelDied)
    assert not fault.coming


def test_what_killed_it_time_and_again_may_pass(make: Make, tmp_path: Path) -> None:
    generator = make("serve,die:SIGKILL,die:SIGKILL,serve", pauses=(0.0,), long_pause=0.5)
    os.kill(process(tmp_path), signal.SIGKILL)
    until(lambda: isinstance(fault := generator.fault(), ModelDied) and not fault.coming)
    until(lambda: generator.fault() is None)
    assert said(generator, "again") == "again "
    assert generator.restarts == 3


def test_the_memory_of_the_process_is_told_while_there_is_one(make: Make, tmp_path: Path) -> None:
    generator = make("serve,hang", pauses=(30.0,))
    taken = generator.resident_bytes()
    status = Path(f"/proc/{process(tmp_path)}/status").read_text()
    told = int(status.split("VmRSS:")[1].split()[0]) * 1024
    assert taken is not None
    assert told / 2 < taken < 2 * told
    os.kill(process(tmp_path), signal.SIGKILL)
    until(lambda: generator.resident_bytes() is None)


def test_a_crash_writes_no_core(make: Make, tmp_path: Path) -> None:
    """Gigabytes, with documents in them; and the keeper hears of the death when they are written."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))  # as container engines do
        make()
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    limits = Path(f"/proc/{process(tmp_path)}/limits").read_text().splitlines()
    (core,) = [line.split() for line in limits if line.startswith("Max core file size")]
    assert core[4] == "0"


def test_all_pauses_of_a_row_leave_time_to_load_within_ten_seconds() -> None:
    assert PAUSES[0] == 0
    assert max(PAUSES) <= 5


def test_a_request_waits_for_the_new_process_only_so_long(make: Make, tmp_path: Path) -> None:
    generator = make("serve,hang", wait=0.2)
    os.kill(process(tmp_path), signal.SIGKILL)
    until(lambda: generator.fault() is not None)
    with pytest.raises(ModelDied, match="being started again") as caught:
        said(generator, "now?")
    assert caught.value.coming
    assert caught.value.http_status == 503


def test_a_client_that_leaves_while_the_process_is_down_is_let_go(make: Make, tmp_path: Path) -> None:
    generator = make("serve,hang", wait=30)
    os.kill(process(tmp_path), signal.SIGKILL)
    until(lambda: generator.fault() is not None)
    began = time.monotonic()
    stream = generator.stream([Message("user", "now?")], Sampling())
    assert next(stream) == Piece("")
    stream.close()
    assert time.monotonic() - began < 5


def test_a_request_that_came_while_it_was_down_is_answered(make: Make, tmp_path: Path) -> None:
    generator = make(pauses=(0.5,))
    os.kill(process(tmp_path), signal.SIGKILL)
    until(lambda: generator.fault() is not None)
    assert said(generator, "patience") == "patience "
    assert generator.restarts == 1


def test_closing_ends_streams_process_and_vocabulary(make: Make, tmp_path: Path) -> None:
    generator = make()
    running = stream(generator, "wait " * 1000)
    next(running)
    generator.close()
    with pytest.raises(Unavailable, match="closed"):
        list(running)
    with pytest.raises(Unavailable, match="closed"):
        said(generator, "late")
    assert is_gone(process(tmp_path))
    assert (tmp_path / "closed").exists()  # in good order, not by a signal
    generator.close()
    assert isinstance(generator._vocabulary, Letters)
    assert generator._vocabulary.closings == 1


def test_closing_while_the_process_is_loading_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag.engine.guarded.CLOSE_SECONDS", 0.2)
    generator = make("serve,hang")
    os.kill(process(tmp_path), signal.SIGKILL)
    until((tmp_path / "life-1").exists)
    generator.close()
    assert is_gone(process(tmp_path, 1))


def test_too_much_in_one_request_or_too_many_requests(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = make()
    monkeypatch.setattr(frames, "MAX_BYTES", 1000)
    with pytest.raises(PromptTooLong):
        said(generator, "word " * 1000)
    monkeypatch.setattr(child, "MOST_REQUESTS", 1)
    running = stream(generator, "wait")
    next(running)
    with pytest.raises(Overloaded):
        said(generator, "another")
    list(running)
    assert said(generator, "another") == "another "


def test_what_the_process_prints_reaches_the_log(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    generator = make()
    with caplog.at_level(logging.WARNING):
        said(generator, "print")
        until(lambda: "model process: GGML_ASSERT(n > 0) failed" in caplog.text)
        with pytest.raises(ModelDied):
            said(generator, "die:SIGSEGV")
        until(lambda: "Fatal Python error: Segmentation fault" in caplog.text)


def test_interrupts_do_not_end_the_process(make: Make, tmp_path: Path) -> None:
    generator = make()
    pid = process(tmp_path)
    assert os.getpgid(pid) != os.getpgid(0)
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGHUP)
    assert said(generator, "still here") == "still here "
    assert generator.restarts == 0


PARENT = """
import sys, time
from rag.datatypes import Message, Sampling
from rag.engine.guarded import GuardedGenerator
class Nothing:
    count, close = len, lambda self: None
options = {"lives": sys.argv[2], "script": sys.argv[3]}
generator = GuardedGenerator(options, Nothing(), command=[sys.executable, sys.argv[1]])
stream = generator.stream([Message("user", "wait " * 10000)], Sampling(max_tokens=10000))
next(stream)
print("streaming", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_the_process_ends_with_its_parent(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-c", PARENT, FAKE[1], str(tmp_path), ""]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "streaming\n"
        parent.send_signal(signal.Signals[name])
        parent.wait(20)
    until(lambda: is_gone(process(tmp_path)))


def test_the_process_ends_with_its_parent_even_while_it_loads(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, FAKE[1], str(tmp_path), "hang"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        until((tmp_path / "life-0").exists)
        parent.kill()
    until(lambda: is_gone(process(tmp_path)))
