"""Frames over a real pair of sockets."""

import math
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

import rag.engine.frames as frames
from rag.datatypes import Message, Piece, PrefixCounters, PrefixTier, Sampling, Usage
from rag.engine.frames import (
    Channel,
    FrameError,
    pack_error,
    pack_messages,
    pack_piece,
    pack_prefixes,
    pack_sampling,
    unpack_error,
    unpack_messages,
    unpack_piece,
    unpack_prefixes,
    unpack_sampling,
)
from rag.errors import Overloaded, SmallholdError
from tests.test_rag_errors import tree


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    """A channel, and the bare socket at its other end."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    yield channel, theirs
    theirs.close()
    channel.close()


def test_what_is_sent_comes_out(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    other = Channel(theirs)
    sent = [{"id": 1, "text": "naïve 漢 \ud800 \x00"}, {"id": 2, "piece": {"logprob": -math.inf}}]
    for frame in sent:
        channel.send(frame)
    assert [other.receive(), other.receive()] == sent
    channel.end()
    assert other.receive() is None
    other.close()


def test_the_length_stands_first_most_significant_byte_first(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    channel.send({"a": 1})
    assert theirs.recv(100) == b'\x00\x00\x00\x07{"a":1}'


@pytest.mark.parametrize(
    "wire",
    [
        b"GGML_ASSERT(false) failed",  # read as a length of 1.2 GB
        struct.pack("!I", frames.MAX_BYTES + 1),
        struct.pack("!I", 4) + b"\xff\xfe\x00\x01",
        struct.pack("!I", 4) + b'{"a"',
        struct.pack("!I", 4) + b"[12]",
        struct.pack("!I", 100_000) + b"[" * 100_000,
    ],
)
def test_what_is_no_frame_is_refused(pair: tuple[Channel, socket.socket], wire: bytes) -> None:
    channel, theirs = pair
    theirs.sendall(wire)
    with pytest.raises(FrameError):
        channel.receive()


@pytest.mark.parametrize("wire", [b"", b"\x00\x00", b"\x00\x00\x00\x07", b'\x00\x00\x00\x07{"a":'])
def test_an_end_within_a_frame_is_an_end(pair: tuple[Channel, socket.socket], wire: bytes) -> None:
    channel, theirs = pair
    theirs.sendall(wire)
    theirs.close()
    assert channel.receive() is None


def test_too_much_is_not_sent(pair: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    channel, theirs = pair
    monkeypatch.setattr(frames, "MAX_BYTES", 9)
    with pytest.raises(FrameError, match="10 bytes"):
        channel.send({"a": 1234})
    channel.send({"a": 123})
    assert theirs.recv(100)[4:] == b'{"a":123}'


def test_sending_to_nobody_is_no_error(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    theirs.close()
    channel.send({"a": 1})
    assert channel.receive() is None


def test_what_gathers_behind_a_write_goes_out_in_the_next_one() -> None:
    """A slow write is under way; frames of other threads do not wait for it, and follow in one write, none lost."""

    class Slow:
        def __init__(self) -> None:
            self.writes: list[bytes] = []
            self.began, self.go = threading.Event(), threading.Event()

        def makefile(self, *args: object, **kwargs: object) -> None:
            return None

        def sendall(self, data: bytes) -> None:
            self.writes.append(data)
            self.began.set()
            assert self.go.wait(10)

    slow = Slow()
    channel = Channel(slow)  # type: ignore[arg-type]
    first = threading.Thread(target=channel.send, args=({"n": 0},))
    first.start()
    assert slow.began.wait(10)
    for n in range(1, 4):
        channel.send({"n": n})  # returns at once
    slow.go.set()
    first.join(10)
    assert slow.writes == [b'\x00\x00\x00\x07{"n":0}', b"".join(b'\x00\x00\x00\x07{"n":%d}' % n for n in (1, 2, 3))]


def test_many_senders_lose_and_cross_nothing(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    other = Channel(theirs)
    threads = [
        threading.Thread(target=lambda k=k: [channel.send({"k": k, "n": n, "pad": "x" * n}) for n in range(300)])  # type: ignore[misc]
        for k in range(6)
    ]
    for thread in threads:
        thread.start()
    received: dict[int, list[int]] = {k: [] for k in range(6)}
    for _ in range(6 * 300):
        frame = other.receive()
        assert frame is not None
        assert frame["pad"] == "x" * frame["n"]
        received[frame["k"]].append(frame["n"])
    for thread in threads:
        thread.join(10)
    other.close()
    assert all(numbers == list(range(300)) for numbers in received.values())


def test_records_survive_the_way() -> None:
    messages = [Message("system", "Be brief."), Message("user", "<|im_start|>")]
    assert unpack_messages(pack_messages(messages)) == messages
    sampling = Sampling(
        max_tokens=3, temperature=0.5, stop=("a", "b"), decline="unanswerable", owner="a", own_from=(1, 7)
    )
    assert unpack_sampling(pack_sampling(sampling)) == sampling
    for piece in (
        Piece("", usage=Usage(5, 4, 0)),
        Piece("a", -0.5, 1, decline=0.25),
        Piece("", finish_reason="stop", usage=Usage(5, 4, 1)),
    ):
        assert unpack_piece(pack_piece(piece)) == piece


def test_every_error_comes_out_as_itself() -> None:
    for kind in tree(SmallholdError):
        if kind.__module__ == "rag.errors":
            error = unpack_error(pack_error(kind("what", hint="how")))
            assert (type(error), error.message, error.hint) == (kind, "what", "how")
    overloaded = unpack_error(pack_error(Overloaded("full", retry_after=9)))
    assert isinstance(overloaded, Overloaded)
    assert overloaded.retry_after == 9


def test_counters_come_out_the_same(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    counters = PrefixCounters(1, PrefixTier(2, 3, 4, 5), PrefixTier(6, 7, 8, 9), PrefixTier(10, 11, 12, 2**40))
    other = Channel(theirs)
    channel.send({"result": pack_prefixes(counters)})
    received = other.receive()
    assert received is not None
    assert unpack_prefixes(received["result"]) == counters
    other.close()
