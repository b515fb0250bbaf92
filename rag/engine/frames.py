"""What the model's process and its keeper say to each other: JSON in frames over a pair of sockets. No pickle.

A frame is the length of its body in 4 bytes, most significant first, then the body, one JSON object in UTF-8.
Keeper to process: `{"id", "op", ...}`; `op` is stream, score, count or prefixes, or goes with the id of an earlier one,
`more` (write on) or `cancel`. Process to keeper: `{"ready"}` or `{"refused": error}` once, then for each id `{"piece"}`
any number of times, then `{"end"}`, `{"result"}` or `{"error"}`; and all the while `{"alive"}`, see `rag.engine.child`.
"""

import contextlib
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rag.datatypes import Message, Piece, PrefixCounters, PrefixTier, Sampling, Usage
from rag.errors import SmallholdError
from rag.tuning import Tuning

# A prompt of a million tokens of Chinese, each character escaped, takes some 10 MB.
MAX_BYTES = 16 * 2**20

Frame = Mapping[str, Any]

_LENGTH = struct.Struct("!I")
_PIECE_FIELDS = tuple(field.name for field in fields(Piece))


class FrameError(Exception):
    """What came is no frame, or what was to be sent is too large for one."""


class Channel:
    """Frames over one connected stream socket. Any thread may send; one reads."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._incoming = connection.makefile("rb", buffering=2**16)
        self._outgoing: deque[bytes] = deque()
        self._sending = threading.Lock()

    def send(self, frame: Frame) -> None:
        """Send a frame, or leave it to the thread that is sending. Raises `FrameError` where it is too large.

        Safe in a destructor, even one that interrupts a sending of this very thread: nothing waits for the lock.
        Whoever holds it sends all that has gathered, in one write. Where the other side is gone the frame is lost,
        which the reader will notice.
        """
        body = json.dumps(frame, separators=(",", ":")).encode()
        if len(body) > MAX_BYTES:
            raise FrameError(f"a message of {len(body)} bytes is more than the {MAX_BYTES} allowed")
        self._outgoing.append(_LENGTH.pack(len(body)) + body)
        # Looked at again after every release: a frame may have come in between the last look and the release.
        while self._outgoing and self._sending.acquire(blocking=False):
            try:
                self._send_gathered()
            finally:
                self._sending.release()

    def _send_gathered(self) -> None:
        gathered = [self._outgoing.popleft() for _ in range(len(self._outgoing))]
        with contextlib.suppress(OSError):
            self._socket.sendall(b"".join(gathered))

    def receive(self) -> dict[str, Any] | None:
        """Return the next frame, None where the other side is gone. Raises `FrameError` where it is none."""
        try:
            head = self._incoming.read(_LENGTH.size)
            if len(head) < _LENGTH.size:
                return None
            (size,) = _LENGTH.unpack(head)
            if size > MAX_BYTES:
                raise FrameError(f"a frame of {size} bytes is more than the {MAX_BYTES} allowed")
            body = self._incoming.read(size)
        except OSError:
            return None
        if len(body) < size:
            return None
        return _parsed(body)

    def end(self) -> None:
        """Tell the other side that nothing more will be sent."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket. Only once nobody reads any more."""
        self._incoming.close()
        self._socket.close()


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        frame = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FrameError("a frame is not valid JSON") from error
    if not isinstance(frame, dict):
        raise FrameError("a frame is no JSON object")
    return frame


def pack_messages(messages: Sequence[Message]) -> list[list[str]]:
    """Return messages as JSON values."""
    return [[message.role, message.content] for message in messages]


def unpack_messages(packed: Sequence[Sequence[Any]]) -> list[Message]:
    """Return the messages again."""
    return [Message(role, content) for role, content in packed]


def pack_sampling(sampling: Sampling) -> dict[str, Any]:
    """Return a sampling as JSON values."""
    return asdict(sampling)


def unpack_sampling(packed: Mapping[str, Any]) -> Sampling:
    """Return the sampling again."""
    own = packed["own_from"]
    return Sampling(**{**packed, "stop": tuple(packed["stop"]), "own_from": None if own is None else (own[0], own[1])})


def pack_options(options: Frame) -> dict[str, Any]:
    """Return the arguments of `LlamaGenerator` as JSON values."""
    folder = options["prefix_folder"]
    return {
        **options,
        "path": str(options["path"]),
        "tuning": options["tuning"].model_dump(),
        "prefix_folder": None if folder is None else str(folder),
    }


def unpack_options(packed: Frame) -> dict[str, Any]:
    """Return the arguments again."""
    folder = packed["prefix_folder"]
    return {
        **packed,
        "path": Path(packed["path"]),
        "tuning": Tuning(**packed["tuning"]),
        "prefix_folder": None if folder is None else Path(folder),
    }


def pack_piece(piece: Piece) -> dict[str, Any]:
    """Return a piece as JSON values, without what is None. One is made for every token: no `asdict`, which copies."""
    packed = {name: value for name in _PIECE_FIELDS if (value := getattr(piece, name)) is not None}
    if piece.usage is not None:
        packed["usage"] = asdict(piece.usage)
    return packed


def unpack_piece(packed: Mapping[str, Any]) -> Piece:
    """Return the piece again."""
    usage = packed.get("usage")
    return Piece(**{**packed, "usage": None if usage is None else Usage(**usage)})


def pack_prefixes(counters: PrefixCounters) -> dict[str, Any]:
    """Return counters as JSON values."""
    return asdict(counters)


def unpack_prefixes(packed: Mapping[str, Any]) -> PrefixCounters:
    """Return the counters again."""
    return PrefixCounters(
        packed["misses"],
        context=PrefixTier(**packed["context"]),
        memory=PrefixTier(**packed["memory"]),
        disk=PrefixTier(**packed["disk"]),
    )


def pack_error(error: SmallholdError) -> dict[str, Any]:
    """Return an error as JSON values: its class by its code, and what it was made with."""
    given = {name: value for name, value in vars(error).items() if not name.startswith("_")}  # but for added notes
    return {"code": error.code, **given}


def unpack_error(packed: Mapping[str, Any]) -> SmallholdError:
    """Return an error of the same class, with the same message and hint."""
    given = {name: value for name, value in packed.items() if name not in ("code", "message")}
    kind = next((kind for kind in _tree(SmallholdError) if kind.code == packed["code"]), SmallholdError)
    return kind(packed["message"], **given)


def _tree(root: type[SmallholdError]) -> list[type[SmallholdError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in _tree(child))]
