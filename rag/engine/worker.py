"""The process that runs the model for a server: `python -m rag.engine.worker FD OPTIONS`, kept by `rag.engine.guarded`.

It loads the model, says so, and answers what comes over the socket FD, each request in a thread of its own, until the
socket is closed. That is all that ends it in good order, and it happens however the server ends.
"""

import contextlib
import faulthandler
import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from rag.datatypes import Message, PrefixCounters
from rag.engine.frames import (
    Channel,
    Frame,
    FrameError,
    pack_error,
    pack_piece,
    pack_prefixes,
    unpack_messages,
    unpack_options,
    unpack_sampling,
)
from rag.engine.generator import LlamaGenerator
from rag.errors import SmallholdError
from rag.protocols import LanguageModel

logger = logging.getLogger(__name__)

# How long the model may take to close in good order before the process ends without.
CLOSE_SECONDS = 5.0
# Seconds between two signs of life.
BEAT_SECONDS = 1.0


class ServedModel(LanguageModel, Protocol):
    """What a worker needs of the model, called by many threads at once."""

    def score(self, messages: Sequence[Message], continuations: Sequence[str]) -> list[list[float]]:
        """Return the natural-log probability of every token of each continuation."""
        ...

    def prefixes(self) -> PrefixCounters:
        """Return how read prefixes were used up to now."""
        ...

    def pulse(self) -> None:
        """Return once the engine's thread has come round, never where it hangs."""
        ...

    def close(self) -> None:
        """Free the model, once its streams have ended."""
        ...


class _Job:
    """One request: whether its answer is still wanted, and whether it may be written on."""

    def __init__(self) -> None:
        self.cancelled = False
        self.more = threading.Event()

    def cancel(self) -> None:
        self.cancelled = True
        self.more.set()


class Worker:
    """Serves a model over a channel until the other side is gone, with a sign of life every `beat` seconds."""

    def __init__(self, channel: Channel, *, beat: float = BEAT_SECONDS) -> None:
        self._channel = channel
        self._beat = beat
        self._jobs: dict[int, _Job] = {}
        self._ended = threading.Event()
        self._model: ServedModel | None = None

    def run(self, load: Callable[[], ServedModel]) -> None:
        """Load the model, serve it, close it. What `load` raises as a `SmallholdError` is told to the other side."""
        # Reads from the beginning, so that a server that ends while weights are loaded ends this process, too.
        threading.Thread(target=self._read, name="smallhold-frames", daemon=True).start()
        try:
            self._model = load()
        except SmallholdError as error:
            self._channel.send({"refused": pack_error(error)})
            return
        self._channel.send({"ready": True})
        threading.Thread(target=self._show_life, args=(self._model,), name="smallhold-pulse", daemon=True).start()
        self._ended.wait()
        for job in self._jobs.copy().values():
            job.cancel()
        self._model.close()

    def _show_life(self, model: ServedModel) -> None:
        while not self._ended.wait(self._beat):
            model.pulse()
            self._channel.send({"alive": True})

    def _read(self) -> None:
        try:
            while (frame := self._channel.receive()) is not None:
                self._take(frame)
        except FrameError as error:
            logger.error("the server sent what cannot be read: %s", error)
        finally:
            if self._model is None:  # nothing has been written that should be closed in good order
                os._exit(0)
            # A native call that does not return must not keep gigabytes for nobody.
            overdue = threading.Timer(CLOSE_SECONDS, os._exit, [0])
            overdue.daemon = True
            overdue.start()
            self._ended.set()

    def _take(self, frame: Frame) -> None:
        """Begin what a frame asks for. Sends nothing itself: reading must go on whatever the other side does."""
        number, op = frame["id"], frame["op"]
        job = self._jobs.get(number)
        if op == "cancel":
            if job is not None:
                job.cancel()
        elif op == "more":
            if job is not None:
                job.more.set()
        else:
            self._jobs[number] = job = _Job()
            threading.Thread(target=self._serve, args=(job, frame), name=f"smallhold-{op}", daemon=True).start()

    def _serve(self, job: _Job, frame: Frame) -> None:
        number = frame["id"]
        try:
            self._answer(job, frame)
        except SmallholdError as error:
            self._channel.send({"id": number, "error": pack_error(error)})
        except Exception as error:
            # The log must not hold document text, which the message of a foreign exception may quote.
            where = "".join(traceback.format_tb(error.__traceback__))
            logger.error("%s failed with %s\n%s", frame["op"], type(error).__name__, where)
            told = SmallholdError("something failed inside the model's process", hint="The server's log says where.")
            self._channel.send({"id": number, "error": pack_error(told)})
        finally:
            del self._jobs[number]

    def _answer(self, job: _Job, frame: Frame) -> None:
        assert self._model is not None  # the other side waits until it is ready
        number, op = frame["id"], frame["op"]
        result: Any
        if op == "stream":
            self._stream(job, frame)
            return
        if op == "score":
            result = self._model.score(unpack_messages(frame["messages"]), frame["continuations"])
        elif op == "count":
            result = self._model.count(frame["text"])
        elif op == "prefixes":
            result = pack_prefixes(self._model.prefixes())
        else:
            raise SmallholdError(f"the model's process does not know how to {op}")
        self._channel.send({"id": number, "result": result})

    def _stream(self, job: _Job, frame: Frame) -> None:
        assert self._model is not None
        number = frame["id"]
        messages, sampling = unpack_messages(frame["messages"]), unpack_sampling(frame["sampling"])
        with closing(self._model.stream(messages, sampling)) as pieces:
            for piece in pieces:
                self._channel.send({"id": number, "piece": pack_piece(piece)})
                if piece.decline is not None:
                    # Most readings are given up at this point: nothing more is written until it is wanted.
                    job.more.wait()
                if job.cancelled:
                    return
        self._channel.send({"id": number, "end": True})


def load_llama(options: Mapping[str, Any]) -> ServedModel:
    """Load the model that the options of the command line describe. It answers before its int8 weights are made."""
    return LlamaGenerator(**unpack_options(options), int8_later=True)


def main(load: Callable[[Mapping[str, Any]], ServedModel] = load_llama, *, beat: float = BEAT_SECONDS) -> None:
    """Serve the model that the command line describes."""
    # Ctrl-C, a closed terminal and a service manager's SIGTERM may reach every process. When this one ends is the
    # server's business: it has answers to finish first.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()  # where a native crash happened, in file names and line numbers
    with contextlib.suppress(OSError):  # when memory runs out, this process is to go and not the server
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    # A core of gigabytes is documents on a disk, and until it is written the server does not hear of the death.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    Worker(channel, beat=beat).run(lambda: load(json.loads(sys.argv[2])))
    # Without the interpreter's own ending, which would wait for nothing and trip over threads that still run.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
