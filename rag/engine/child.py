"""One life of the model's process, seen from the server: its start, what it says, and how it ends."""

import itertools
import json
import logging
import os
import queue
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from rag.engine.frames import Channel, Frame, FrameError, unpack_error, unpack_piece
from rag.errors import Overloaded, SmallholdError

logger = logging.getLogger(__name__)

# More than the model's own queue takes: what is too much is for that to say.
MOST_REQUESTS = 256
# A process that dies closes its socket an instant before its end; one that hangs up and stays is ended.
LINGER_SECONDS = 2.0
# How often a process is looked after within the time that it may be silent. What stops this process as well, as the
# pause of a container does, then counts for one look only.
LOOKS = 8

# Of what it says on stderr, enough for the cause of a crash; a process gone mad must not fill the server's log.
LOGGED_LINES = 200
LOGGED_CHARACTERS = 500

Events = queue.SimpleQueue[Any]


class Child:
    """A running model process. Requests are opened from any thread; `run` reads what it says until its end.

    `command` gets the number of its socket and the `options` in JSON as further arguments. Once the model is loaded, a
    process from which no sign of life comes for `timeout` seconds is killed. Its pieces are none: they come from
    threads of their own, also while its engine hangs. Raises `OSError` where no process can be started.
    """

    def __init__(self, command: Sequence[str], options: Mapping[str, Any], *, timeout: float) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = _start([*command, str(theirs.fileno()), json.dumps(options)], theirs.fileno())
        except OSError:
            ours.close()
            raise
        self._channel = Channel(ours)
        self._timeout = timeout
        self._alive = False  # whether a sign of life came since the last look
        self._broken = ""  # what it did to be killed
        self._over = threading.Event()
        self._numbers = itertools.count(1)
        self._requests: dict[int, Events] = {}
        self._refused: SmallholdError | None = None
        self._fault: Callable[[], SmallholdError] | None = None  # why it is gone, once it is
        assert self._process.stdout is not None
        self._log = threading.Thread(target=_log, args=(self._process.stdout,), name="smallhold-model-log", daemon=True)
        self._log.start()

    def run(self, ready: Callable[[], None]) -> SmallholdError | str:
        """Hand out what the process says until it is gone; call `ready` when the model is loaded.

        Returns what the process said was wrong with the model, or else how it ended, in words.
        """
        try:
            while (frame := self._channel.receive()) is not None:
                self._hand_out(frame, ready)
        except Exception as error:  # whatever it is, those who wait must hear of it
            said = error if isinstance(error, FrameError) else type(error).__name__
            logger.error("the model's process said what cannot be read: %s", said)
            self._broken = "spoke nonsense"
            self._process.kill()
        ending = self._reap()
        self._over.set()
        return self._refused or self._broken or ending

    def open(self, op: str, **fields: Any) -> tuple[int, Events]:
        """Send a request; return its number and the queue of what comes of it, an error of any kind included.

        Raises `Overloaded`, and `FrameError` where it is too large to be sent.
        """
        if len(self._requests) >= MOST_REQUESTS:
            raise Overloaded(f"{MOST_REQUESTS} requests wait for the model already", hint="Try again later.")
        number, events = next(self._numbers), Events()
        self._requests[number] = events
        try:
            self.send({"id": number, "op": op, **fields})
        except FrameError:
            self.forget(number)
            raise
        # `fail` sets the fault first: either it finds the request, or the fault is found here.
        if self._fault is not None:
            events.put(self._fault())
        return number, events

    def send(self, frame: Frame) -> None:
        """Send a frame. Safe in a destructor."""
        self._channel.send(frame)

    def forget(self, number: int) -> None:
        """Cancel a request unless it has ended. Takes no lock, so that a destructor may do it."""
        if self._requests.pop(number, None) is not None:
            self._channel.send({"id": number, "op": "cancel"})

    def fail(self, fault: Callable[[], SmallholdError]) -> None:
        """Give an error to every request in flight and to those that may still come."""
        self._fault = fault
        with suppress(KeyError):
            while True:
                self._requests.popitem()[1].put(fault())

    def end(self) -> None:
        """Let the process close in good order; `run` then returns."""
        self._over.set()
        self._channel.end()

    def resident_bytes(self) -> int | None:
        """Return the memory that it takes, mapped weights included; None where the system does not tell."""
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1]
        except (OSError, IndexError):
            return None
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def _hand_out(self, frame: Frame, ready: Callable[[], None]) -> None:
        if "alive" in frame:
            self._alive = True
            return
        if "ready" in frame:
            threading.Thread(target=self._look_after, name="smallhold-model-watch", daemon=True).start()
            ready()
            return
        if "refused" in frame:
            self._refused = unpack_error(frame["refused"])
            return
        number = frame["id"]
        last = "piece" not in frame
        events = self._requests.pop(number, None) if last else self._requests.get(number)
        if events is not None:  # else it was cancelled
            events.put(_event(frame))

    def _look_after(self) -> None:
        """Kill the process once it has been silent for too long. Nothing is sent from here: that could block."""
        silent = 0
        while not self._over.wait(self._timeout / LOOKS):
            silent = 0 if self._alive else silent + 1
            self._alive = False
            if silent == LOOKS:
                self._broken = f"made no progress for {self._timeout:g} s and was killed"
                self._process.kill()
                return

    def _reap(self) -> str:
        """Wait for the end of a process that has closed its socket, or bring it about; return how it ended."""
        try:
            self._process.wait(LINGER_SECONDS)
            ending = _ending(self._process.returncode)
        except subprocess.TimeoutExpired:
            ending = "hung up"
            self._process.kill()
            self._process.wait()
        self._log.join(LINGER_SECONDS)
        self._channel.close()
        return ending


def _event(frame: Frame) -> Any:
    """Return what the requester is to have: a piece, an error, a result in a tuple, None at the end."""
    if "piece" in frame:
        return unpack_piece(frame["piece"])
    if "error" in frame:
        return unpack_error(frame["error"])
    return (frame["result"],) if "result" in frame else None


def _start(command: Sequence[str], connection: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        pass_fds=[connection],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # A failed assertion in ggml calls gdb where there is one, which takes seconds and prints what strings hold.
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        # A group of its own: Ctrl-C does not reach it, not even before it has learnt to ignore it.
        process_group=0,
    )


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"died of {signal.Signals(-status).name}"
    except ValueError:
        return f"died of signal {-status}"


def _log(stream: IO[bytes]) -> None:
    """Pass on to the log what the process prints: a failed assertion, the place of a crash. It prints no documents."""
    with stream:
        for count, line in enumerate(iter(lambda: stream.readline(LOGGED_CHARACTERS), b"")):
            text = line.decode("utf-8", "replace").rstrip()
            if text and count < LOGGED_LINES:
                logger.warning("model process: %s", "".join(c if c.isprintable() else " " for c in text))
