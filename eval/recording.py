"""What a language model wrote and when: as it is kept of a request, and as asking once more would take."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from rag.datatypes import Piece, Usage


class Recording(NamedTuple):
    """What a model wrote: its pieces, and for each the seconds since the request at which it came.

    `complete` is false where the reader had enough before the end. `warm` says that the prompt had just been read for
    the same question, so that the first token came at once.
    """

    pieces: tuple[Piece, ...]
    seconds: tuple[float, ...]
    complete: bool
    warm: bool = False

    @property
    def reading(self) -> float:
        """The seconds until the first token, 0 where they were spared."""
        written = [seconds for piece, seconds in zip(self.pieces, self.seconds, strict=True) if piece.tokens]
        return 0.0 if self.warm else next(iter(written), self.seconds[-1])

    def reread(self) -> "Recording":
        """Return what asking once more within the same question takes: the prompt need not be read again."""
        spared = self.reading
        return self._replace(seconds=tuple(max(0.0, seconds - spared) for seconds in self.seconds), warm=True)


class SavedAnswer(NamedTuple):
    """What is kept of a request: how it went the first time, and the whole answer where a later time went further.

    A passage that is read and given up, then chosen after all, is asked for twice within one question: the prompt is
    read once, so both times are kept.
    """

    first: Recording
    whole: Recording | None = None

    @property
    def complete(self) -> bool:
        """Whether the end of the answer is known."""
        return self.first.complete or self.whole is not None

    def replayed(self, *, again: bool) -> Recording:
        """Return the answer as far as it is known, asked for first in a question or `again`."""
        if self.whole is None:
            return self.first.reread() if again else self.first
        if again:
            return self.whole.reread()
        tokens = sum(piece.tokens for piece in self.first.pieces)
        if not tokens:  # given up while the prompt was read
            return self.whole
        place = _place(self.whole.pieces, tokens)
        offset = self.first.seconds[-1] - self.whole.seconds[place - 1]
        rest = tuple(offset + seconds for seconds in self.whole.seconds[place:])
        return Recording(self.first.pieces + self.whole.pieces[place:], self.first.seconds + rest, complete=True)


def _place(pieces: Sequence[Piece], tokens: int) -> int:
    """Return how many pieces `_after` passes over."""
    passed = 0
    for place, piece in enumerate(pieces):
        if passed >= tokens:
            return place
        passed += piece.tokens
    return len(pieces)


def encode(saved: SavedAnswer) -> str:
    """Return a saved answer as JSON."""
    return json.dumps({name: _plain(took) for name, took in saved._asdict().items() if took is not None})


def _plain(recording: Recording) -> dict[str, Any]:
    pieces = [
        [
            piece.text,
            piece.logprob,
            piece.tokens,
            piece.finish_reason,
            None if piece.usage is None else [piece.usage.prompt, piece.usage.cached, piece.usage.completion],
            piece.decline,
            round(seconds, 6),
        ]
        for piece, seconds in zip(recording.pieces, recording.seconds, strict=True)
    ]
    return {"complete": recording.complete, "warm": recording.warm, "pieces": pieces}


def decode(answer: str) -> SavedAnswer:
    """Return what `encode` made JSON of."""
    return SavedAnswer(**{name: _recording(took) for name, took in json.loads(answer).items()})


def _recording(saved: dict[str, Any]) -> Recording:
    pieces = tuple(
        Piece(text, logprob, tokens, finish, None if usage is None else Usage(*usage), decline)
        for text, logprob, tokens, finish, usage, decline, _ in saved["pieces"]
    )
    return Recording(pieces, tuple(piece[-1] for piece in saved["pieces"]), saved["complete"], saved["warm"])
