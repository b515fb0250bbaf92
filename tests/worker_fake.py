"""A worker process with a model that plays what the prompt says: `python tests/worker_fake.py FD OPTIONS`.

The last message is a list of words. Most come back as pieces; some do something:
    die:SIGNAL    the process kills itself
    wait          an empty piece, after a while
    stuck         the engine's thread does not come round any more
    decline       a piece with a probability of declining
    long          `PromptTooLong`
    oops          an exception that quotes its document
    rubbish       writes bytes that are no frame on the socket
    hangup        closes the socket and lives on
    print         says something on stderr
A file `mute` in the folder of lives keeps it from telling its figures.

The option `lives` is a folder with a file for each life. `script` says, in words with commas between them, what happens
at the start of the first life, the second, ...; the last word holds for all further ones:
    die:SIGNAL, exit, refuse (`ModelLoadFailed`), hang; anything else serves
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rag.datatypes import Message, Piece, PrefixCounters, PrefixTier, Sampling, Usage
from rag.engine import worker
from rag.errors import ModelLoadFailed, PromptTooLong


class Play:
    def __init__(self, events: Path) -> None:
        self._events = events
        self._streams = 0
        self._comes_round = threading.Event()
        self._comes_round.set()

    def prefixes(self) -> PrefixCounters:
        if (self._events / "mute").exists():
            threading.Event().wait()
        return PrefixCounters(self._streams, memory=PrefixTier(2, 300, 1, 4000))

    def pulse(self) -> None:
        self._comes_round.wait()

    def count(self, text: str) -> int:
        return len(text.split())

    def score(self, messages: Sequence[Message], continuations: Sequence[str]) -> list[list[float]]:
        return [[-float(len(continuation)), float("-inf")] for continuation in continuations]

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[Piece]:
        self._streams += 1
        words = messages[-1].content.split()
        try:
            yield Piece("", usage=Usage(len(words), 0, 0))
            for word in words[: sampling.max_tokens]:
                yield self._play(word, messages[-1].content)
            yield Piece("", finish_reason="stop", usage=Usage(len(words), 0, len(words)))
        except GeneratorExit:
            (self._events / f"closed-{words[0]}").touch()
            raise

    def _play(self, word: str, document: str) -> Piece:
        if word.startswith("die:"):
            os.kill(os.getpid(), signal.Signals[word[4:]])
            time.sleep(60)
        elif word == "decline":
            return Piece("", -0.5, 1, decline=0.25)
        elif word == "long":
            raise PromptTooLong("too long", hint="Ask less.")
        elif word == "oops":
            raise ValueError(document)
        elif word == "rubbish":
            os.write(int(sys.argv[1]), b"GGML_ASSERT(false)")
            time.sleep(60)
        elif word == "hangup":
            with socket.fromfd(int(sys.argv[1]), socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.shutdown(socket.SHUT_WR)
            time.sleep(60)
        elif word == "print":
            print("GGML_ASSERT(n > 0) failed", file=sys.stderr, flush=True)
        elif word == "stuck":
            self._comes_round.clear()
        elif word == "wait":
            time.sleep(0.02)
            return Piece("")
        return Piece(f"{word} ", -0.125, 1)

    def close(self) -> None:
        (self._events / "closed").touch()


def load(options: Mapping[str, Any]) -> Play:
    """Note this life, and do what its line of the script says."""
    folder = Path(options["lives"])
    life = len(list(folder.glob("life-*")))
    (folder / f"life-{life}").write_text(str(os.getpid()))
    script = options.get("script", "").split(",")
    step = script[min(life, len(script) - 1)]
    if step.startswith("die:"):
        os.kill(os.getpid(), signal.Signals[step[4:]])
    elif step == "exit":
        sys.exit(7)
    elif step == "refuse":
        raise ModelLoadFailed("not a model", hint="Get one.")
    elif step == "hang":
        threading.Event().wait()
    return Play(folder)


if __name__ == "__main__":
    worker.main(load, beat=0.05)
