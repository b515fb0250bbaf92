"""What the model has written so far of an answer, and how much of it has been shown."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rag.clock import Clock
from rag.datatypes import FinishReason, Piece, Span, Usage
from rag.marks import end_of_unmarked, unmarked
from rag.sentences import sentence_spans

# An answer is judged on its first tokens, before any of it is shown, so that nothing shown is taken back. Most
# answers are shorter than this; at 30 tokens a second a longer one is held back for half a second.
JUDGED_TOKENS = 16


@dataclass
class Draft:
    """The text of an answer as it grows. `text` is what the model wrote, `shown` what of it a reader was shown."""

    text: str = ""
    shown: str = ""
    decided: int = 0  # characters of `text` that were shown or dropped
    tokens: int = 0
    judged: bool = False
    logprobs: list[float] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    finish_reason: FinishReason = "cancelled"
    finished: bool = False

    @property
    def ready(self) -> bool:
        """Whether there is enough to judge, or to go on showing."""
        return self.judged or self.finished or self.tokens >= JUDGED_TOKENS

    def add(self, piece: Piece, clock: Clock) -> None:
        """Take what the model wrote next."""
        if piece.tokens and not self.tokens:
            clock.mark("read", since="generate")
        self.text = (self.text + piece.text).lstrip() if not self.shown else self.text + piece.text
        self.tokens += piece.tokens
        if piece.logprob is not None and len(self.logprobs) < JUDGED_TOKENS:
            self.logprobs.append(piece.logprob)
        if piece.usage is not None:
            self.usage = piece.usage
        if piece.finish_reason is None:
            self.usage = replace(self.usage, completion=max(self.tokens, self.usage.completion))
        else:  # what the backend says of the whole is believed; none told stays none
            self.finished, self.finish_reason = True, piece.finish_reason

    def take(self, supported: Callable[[str], bool]) -> str:
        """Return what is to be shown since the last call.

        The first sentence is shown as it grows: whether to answer at all was judged before. A later one waits until it
        is whole and is left out unless it is supported. Marks of sources are never shown: they would not be ours.
        """
        new = ""
        for span in self._undecided():
            if span.start > 0 and span.start >= self.decided and not supported(self.text[span.start : span.end]):
                self.decided = span.end
                continue
            grows = not self.finished and span.end == len(self.text.rstrip())
            end = end_of_unmarked(self.text, self.decided, span.end) if grows else span.end
            new += unmarked(self.text, self.decided, end)
            self.decided = end
        self.shown += new
        return new

    def _undecided(self) -> list[Span]:
        """Return the sentences that may be shown or dropped now."""
        spans = sentence_spans(self.text)
        growing = spans[-1:] if not self.finished and len(spans) > 1 and spans[-1].start >= self.decided else []
        return [span for span in spans if span.end > self.decided and span not in growing]
