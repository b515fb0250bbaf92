"""What the model has written so far of an answer, and how much of it has been shown."""

from dataclasses import dataclass, field, replace

from rag.clock import Clock
from rag.datatypes import FinishReason, Piece, Usage

# An answer is judged on its first tokens, before any of it is shown, so that nothing shown is taken back. Most
# answers are shorter than this; at 30 tokens a second a longer one is held back for half a second.
JUDGED_TOKENS = 16


@dataclass
class Draft:
    """The text of an answer as it grows."""

    text: str = ""
    shown: int = 0
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

    def take(self) -> str:
        """Return the text that is new since the last call."""
        new, self.shown = self.text[self.shown :], len(self.text)
        return new
