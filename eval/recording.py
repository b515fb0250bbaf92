"""What a language model wrote and when: as it is kept of a request, and as asking once more would take."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from rag.datatypes import Piece, Usage


class Recording(NamedTuple):
    """What a model wrote: its pieces, and for each the seconds since the request at which it came.

    `complete` is false where the reader had enough before the end. `warm` says that the prompt had just been read for
    the same question, so that the first token came at once. `cpu` are the processor seconds that this process had taken
    by then, for each piece too; empty where nobody measured them, as in answers that were saved before.
    """

    pieces: tuple[Piece, ...]
    seconds: tuple[float, ...]
    complete: bool
    warm: bool = False
    cpu: tuple[float, ...] = ()

    def reread(self) -> "Recording":
        """Return what asking once more within the same question takes: the prompt need not be read again."""
        return self._replace(seconds=self._spared(self.seconds), cpu=self._spared(self.cpu), warm=True)

    def _spared(self, clock: tuple[float, ...]) -> tuple[float, ...]:
        """Return a clock that begins with the first token, unless it does already."""
        written = [time for piece, time in zip(self.pieces, clock, strict=False) if piece.tokens]
        spared = 0.0 if self.warm else next(iter(written), clock[-1] if clock else 0.0)
        return tuple(max(0.0, time - spared) for time in clock)


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
        pieces = self.first.pieces + self.whole.pieces[place:]
        seconds = _continued(self.first.seconds, self.whole.seconds, place)
        measured = bool(self.first.cpu and self.whole.cpu)
        cpu = _continued(self.first.cpu, self.whole.cpu, place) if measured else ()
        return Recording(pieces, seconds, complete=True, cpu=cpu)


def goes_on(first: Sequence[Piece], whole: Sequence[Piece]) -> bool:
    """Whether a whole answer begins with the pieces that were written before.

    Endpoints answer otherwise from time to time, or in other pieces; a local model does where two tokens are all but
    equally likely.
    """
    passed = _place(whole, sum(piece.tokens for piece in first))
    return "".join(piece.text for piece in first) == "".join(piece.text for piece in whole[:passed])


def _continued(first: tuple[float, ...], whole: tuple[float, ...], place: int) -> tuple[float, ...]:
    """Return one clock, and after it the other from `place` on, as if they were the same."""
    offset = first[-1] - whole[place - 1]
    return first + tuple(offset + time for time in whole[place:])


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
    cpu = {"cpu": [round(seconds, 6) for seconds in recording.cpu]} if recording.cpu else {}
    return {"complete": recording.complete, "warm": recording.warm, "pieces": pieces, **cpu}


def decode(answer: str) -> SavedAnswer:
    """Return what `encode` made JSON of."""
    return SavedAnswer(**{name: _recording(took) for name, took in json.loads(answer).items()})


def _recording(saved: dict[str, Any]) -> Recording:
    pieces = tuple(
        Piece(text, logprob, tokens, finish, None if usage is None else Usage(*usage), decline)
        for text, logprob, tokens, finish, usage, decline, _ in saved["pieces"]
    )
    seconds, cpu = tuple(piece[-1] for piece in saved["pieces"]), tuple(saved.get("cpu", ()))
    if len(cpu) not in (0, len(pieces)):
        raise ValueError("processor seconds are of other pieces")
    return Recording(pieces, seconds, saved["complete"], saved["warm"], cpu)
