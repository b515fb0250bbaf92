"""What an OpenAI-compatible endpoint sends, read into pieces: server-sent events, or one whole completion.

Nothing that it sends is trusted to have its shape; what has another is a `BadAnswer`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from rag.datatypes import FinishReason, Piece, Usage

# A line holds one event, a few hundred bytes as a rule.
MAX_LINE = 1_000_000

_FINISH_REASONS: dict[str, FinishReason] = {"length": "length", "max_tokens": "length"}


class BadAnswer(Exception):
    """The answer is not in OpenAI's format, breaks off, is an error, or is beyond the bounds; says what it did."""


@dataclass
class StreamedAnswer:
    """What one answer has told so far."""

    finish_reason: FinishReason | None = None
    usage: Usage = field(default_factory=Usage)
    events: int = 0
    done: bool = False
    _half: str = ""  # the first half of a character that the last text ended in

    def read_stream(self, chunks: Iterator[bytes | None]) -> Iterator[Piece]:
        """Yield the text of a stream of server-sent events, an empty piece where None says that nothing has come."""
        for line in split_lines(chunks):
            if line is None:
                yield Piece("")
            elif line.startswith(b"data:") and not self.done and (data := line[len(b"data:") :].strip()):
                yield from self.read_event(data)  # empty ones are sent to keep the connection open

    def read_whole(self, chunks: Iterator[bytes | None]) -> Iterator[Piece]:
        """Yield the text of a completion in one piece of JSON, likewise."""
        body = b""
        for chunk in chunks:
            if chunk is None:
                yield Piece("")
            else:
                body += chunk
        yield from self.read_event(body)

    def read_event(self, data: bytes) -> Iterator[Piece]:
        """Yield the text of one event, or of a whole completion; remember how and at what expense it ended."""
        self.events += 1
        if data == b"[DONE]":
            self.done = True
            return
        event = _parse_event(data)
        if event.get("usage"):
            self.usage = _usage(event["usage"])
        # The event that carries the usage has an empty list of choices, with some servers null.
        for choice in _objects(event.get("choices"))[:1]:
            message = choice.get("delta") or choice.get("message")
            text = message.get("content") if isinstance(message, dict) else None
            if isinstance(text, str) and text:
                yield _piece(self._whole(text), choice.get("logprobs"))
            if choice.get("finish_reason"):
                self.finish_reason = _FINISH_REASONS.get(str(choice["finish_reason"]), "stop")

    def last_piece(self) -> Piece:
        """Return the piece that ends the answer. Raises `BadAnswer` where its end never came."""
        if not self.events:
            raise BadAnswer("sent neither a stream of events nor JSON")
        if self.finish_reason is None:
            raise BadAnswer("broke off its answer")
        return Piece("\ufffd" if self._half else "", finish_reason=self.finish_reason, usage=self.usage)

    def _whole(self, text: str) -> str:
        """Return text of whole characters: servers that count in UTF-16 cut emoji in two, a half in each of two events.

        A half that the other one does not follow becomes U+FFFD, since UTF-8 cannot hold it.
        """
        text = self._half + text
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return _joined(text[: len(text) - len(self._half)])


def split_lines(chunks: Iterator[bytes | None]) -> Iterator[bytes | None]:
    """Split at line feeds alone: JSON text may hold U+2028, at which httpx's own line reader would cut.

    None, that nothing has come, is passed on.
    """
    rest = b""
    for chunk in chunks:
        if chunk is None:
            yield None
            continue
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.rstrip(b"\r") for line in lines)
        if len(rest) > MAX_LINE:
            raise BadAnswer(f"sent a line of more than {MAX_LINE:,} bytes")
    yield rest.rstrip(b"\r")


def error_message(body: bytes) -> str:
    """Return the message and code of OpenAI's error body, or the beginning of whatever came, in one line."""
    text = body.decode("utf-8", "replace")
    try:
        error = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        error = text
    if isinstance(error, dict):
        error = f"{error.get('message')} ({error['code']})" if error.get("code") else error.get("message")
    return " ".join(_joined(str(error)).split())[:500] or "nothing further"


def _joined(text: str) -> str:
    """Put halves of characters together; one that is alone becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _parse_event(data: bytes) -> dict[str, Any]:
    beginning = repr(data[:80].decode("utf-8", "replace"))
    try:
        event = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"sent what is not JSON: {beginning}") from error
    if not isinstance(event, dict):
        raise BadAnswer(f"sent what is no event: {beginning}")
    if event.get("error"):
        raise BadAnswer(f"sent an error: {error_message(data)}")
    return event


def _piece(text: str, logprobs: Any) -> Piece:
    """Make a piece. Without log-probabilities a piece is taken for one token, which is what servers send."""
    entries = _objects(logprobs.get("content")) if isinstance(logprobs, dict) else []
    known = [value for entry in entries if isinstance(value := entry.get("logprob"), int | float) and isfinite(value)]
    if not known or len(known) < len(entries):
        return Piece(text, tokens=1)
    return Piece(text, logprob=float(sum(known)), tokens=len(known))


def _usage(told: Any) -> Usage:
    if not isinstance(told, dict):
        return Usage()
    details = told.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return Usage(_count(told.get("prompt_tokens")), _count(cached), _count(told.get("completion_tokens")))


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
